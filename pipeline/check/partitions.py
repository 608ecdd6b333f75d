"""Partitioned tables: under which names their rows come, and what that asks of source and replicas."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from connectors.postgres.catalog.publication import (
    Publication,
    TableName,
    by_root_sql,
    drop_table_sql,
    whole_sql,
)
from connectors.postgres.catalog.tables import Table, TableKind
from connectors.postgres.partitions.truncates import Lack, reading_lacks
from connectors.postgres.server import Server
from connectors.postgres.session import Session
from pipeline.check.findings import SOURCE, Place, named
from pipeline.config import Partitions
from pipeline.selection import Selection, mixed_names
from schemas.errors import BEGIN_ANEW
from schemas.finding import Finding
from schemas.identifiers import qualified

_HISTORY = "It is part of the log's history"
_SETTING = "`partitions: root` under source in keepstream.yaml"
_INSTALL_PLUGIN: Final = (
    "Install PostgreSQL's additional modules of the server's version on the source; Debian's"
    " postgresql-{major} has them, elsewhere the package is called as postgresql{major}-contrib. No restart"
    " is needed."
)
_OR_THERE = "Or make on the replica the partitions that the source has."


def check_partitions(
    publication: Publication, partitions: Partitions, *, established: bool
) -> Iterator[Finding]:
    """That each row comes under one name, whoever asks. `established`: the slot exists."""
    mixed = list(mixed_names(publication, partitions))
    subject, message = f"publication {publication.name}", "; ".join(mixed[:5])
    if mixed and established:
        yield SOURCE.error("publication-unfit", subject, message, fix=f"{_HISTORY}: {BEGIN_ANEW}.")
    elif mixed:
        ways = [] if publication.via_partition_root else [f"{by_root_sql(publication.name)};"]
        names = [(table.schema, table.name) for table in publication.tables if table.root]
        ways += [f"{drop_table_sql(publication.name, name)};" for name in names]
        yield SOURCE.error("publication-unfit", subject, message, sql="\n".join(ways))


def check_wal_reading(
    session: Session, server: Server, selection: Selection, *, slot: str | None
) -> Iterator[Finding]:
    """What the source needs so that capture learns what emptied a partition of a whole. `slot`: ours; None:
    there is none yet."""
    wholes = _wholes(selection)
    if not wholes or server.in_recovery:
        return
    free, needed = server.max_replication_slots - server.slots_used, 1 + int(slot is None)
    lack = reading_lacks(session, slot) if free >= needed else Lack.SLOT
    overlooked = (
        f"capture may overlook that a partition was truncated by its own name (published as a whole:"
        f" {named(wholes)})"
    )
    if lack is Lack.PLUGIN:
        yield SOURCE.warning(
            "partitions-unproven",
            "test_decoding",
            f"the output plugin is missing, and without it {overlooked}",
            fix=_INSTALL_PLUGIN.format(major=server.major),
        )
    if lack is Lack.SLOT:
        yield SOURCE.warning(
            "partitions-unproven",
            "max_replication_slots",
            f"{free} of {server.max_replication_slots} slots are free, and without {needed} {overlooked}",
            sql=f"alter system set max_replication_slots = {server.slots_used + needed + 2};"
            "  -- then restart the server; or drop a slot that nobody uses",
        )


def check_wholes(selection: Selection, *, follows_schema: bool) -> Iterator[Finding]:
    """What the stream cannot tell of tables that are published as a whole."""
    wholes = _wholes(selection)
    if wholes and not follows_schema:
        yield SOURCE.warning(
            "partitions-untold",
            "partitioned tables",
            f"published as a whole: {named(wholes)}; a partition that is attached with rows, detached or"
            " dropped stops capture, and a new one must be made on replicas before rows come that go there",
            fix="Run `keepstream schema install`: then all of that is followed.",
        )


def _wholes(selection: Selection) -> list[str]:
    return [table.qualified_name for table in selection.wanted if table.kind is TableKind.PARTITIONED]


def check_one_table(
    place: Place,
    missing: Collection[TableName],
    there: Collection[TableName],
    wholes: Mapping[TableName, TableName],
    *,
    publication: str,
    published: bool,
    established: bool,
) -> Iterator[Finding]:
    """`missing`: tables of the source that the replica lacks. `wholes`: of partitions the table at the top.
    `published`: there is a publication."""
    lacking: dict[TableName, list[TableName]] = {}
    for name in missing:
        if (whole := wholes.get(name)) in there and whole is not None:
            lacking.setdefault(whole, []).append(name)
    for whole, partitions in lacking.items():
        names = named([qualified(*each) for each in partitions])
        seen = f"takes no rows: they come under the names of the source's partitions, such as {names}"
        if established or not published:
            fix = f"Set {_SETTING}{f', and {BEGIN_ANEW}' if established else ''}. {_OR_THERE}"
            yield place.error("replica-partitions", qualified(*whole), seen, fix=fix)
        else:
            statements = whole_sql(publication, whole, partitions)
            yield place.error("replica-partitions", qualified(*whole), seen, sql=statements)


def wholes_of(tables: Collection[Table]) -> dict[TableName, TableName]:
    """Of partitions the table at the top."""
    tops = {table.oid: (table.schema, table.name) for table in tables}
    return {(table.schema, table.name): tops[table.root] for table in tables if table.root in tops}
