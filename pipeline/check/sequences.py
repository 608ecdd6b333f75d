"""Sequences: which are followed, and which replicas cannot be kept current."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from psycopg import sql

from connectors.postgres.sequences.reading import (
    KnownSequence,
    list_all,
    list_followed,
    list_named,
    readable_sql,
)
from connectors.postgres.session import Session
from pipeline.check.findings import Place, named
from schemas.finding import Finding

_GRANTED_AT_ONCE = 100


def source_sequences(session: Session, publication: str | None) -> tuple[KnownSequence, ...]:
    """Those that are followed; of a publication that is still to be made, all."""
    return tuple(list_all(session) if publication is None else list_followed(session, publication))


def check_source_sequences(
    place: Place, sequences: Sequence[KnownSequence], role: str, *, established: bool
) -> Iterator[Finding]:
    """`established`: only what is followed after the first copy is at stake, which needs them all."""
    hidden = [each for each in sequences if not each.readable]
    if hidden:
        tell = place.warning if established else place.error
        yield tell(
            "sequences-hidden",
            "sequences",
            f"{role} may not read {len(hidden)} sequences: {named([each.qualified_name for each in hidden])}",
            sql="\n".join(
                readable_sql(role, hidden[start : start + _GRANTED_AT_ONCE])
                for start in range(0, len(hidden), _GRANTED_AT_ONCE)
            ),
        )
    if len(sequences) > len(hidden):
        yield place.note(
            "sequences",
            "sequences",
            f"{len(sequences) - len(hidden)} are not in the stream: they are read every ten seconds, and"
            " replicas' set to where they stand",
        )


def check_replica_sequences(
    session: Session, place: Place, role: str, wanted: Sequence[KnownSequence]
) -> Iterator[Finding]:
    """Of a replica that has its schema. `wanted`: the source's."""
    here = {each.key: each for each in list_named(session, [each.key for each in wanted])}
    missing = [each.qualified_name for each in wanted if each.key not in here]
    if missing:
        yield place.warning(
            "replica-sequences-missing",
            "sequences",
            f"{len(missing)} of the source's are not there, so that nothing keeps them: {named(missing)}",
            fix="If the replica is to be written to one day, make them there as the source's are.",
        )
    barred = [each for each in here.values() if not (each.readable and each.settable)]
    if barred:
        yield place.warning(
            "replica-sequences-privilege",
            "sequences",
            f"{role} may not set {len(barred)}: {named([each.qualified_name for each in barred])}",
            sql="\n".join(_settable_sql(role, each) for each in barred),
        )
    narrow = [
        each
        for each in wanted
        if each.key in here
        and not here[each.key].lowest <= each.lowest <= each.highest <= here[each.key].highest
    ]
    if narrow:
        yield place.warning(
            "replica-sequences-narrower",
            "sequences",
            f"{len(narrow)} end before the source's: {named([each.qualified_name for each in narrow])}",
            sql="\n".join(map(_wide_sql, narrow)),
        )


def _settable_sql(role: str, sequence: KnownSequence) -> str:
    name = sql.Identifier(sequence.schema, sequence.name)
    granting = sql.SQL("grant select, update on sequence {} to {};")
    return granting.format(name, sql.Identifier(role)).as_string()


def _wide_sql(sequence: KnownSequence) -> str:
    widening = sql.SQL("alter sequence {} as bigint minvalue {} maxvalue {};")
    name = sql.Identifier(sequence.schema, sequence.name)
    return widening.format(name, sql.Literal(sequence.lowest), sql.Literal(sequence.highest)).as_string()
