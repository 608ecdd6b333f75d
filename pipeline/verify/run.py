"""One whole verification: meet, compare, and compare again what was truncated or altered meanwhile."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from connectors.postgres.catalog.publication import is_via_root
from connectors.postgres.catalog.tables import Table, list_tables
from connectors.postgres.copy.snapshot_reader import columns_of, user_tables
from connectors.postgres.copy.snapshot_tables import SnapshotTable, named_tables, published_tables
from connectors.postgres.copy.visibility import wait_until_visible
from connectors.postgres.ddl import left_out
from connectors.postgres.session import Session, wrapped
from pipeline.backoff import Backoff
from pipeline.control.sequences import AwaitedSequences
from pipeline.reports import NotReplicated
from pipeline.verify import sequences
from pipeline.verify.compare import Comparison, OnProgress
from pipeline.verify.large_objects import compare_large_objects, note_of
from pipeline.verify.meeting import Meeting, VerifyOptions, meet
from pipeline.verify.pairing import Pair, pair_tables
from pipeline.verify.result import LargeObjectsResult, TableResult, VerifyResult
from pipeline.verify.rounds import ROUNDS, TRIED_AGAIN, TRIES, table_changed
from pipeline.verify.scope import Scope, choose_tables, not_replicated
from pipeline.verify.standing import VISIBLE_S
from pipeline.verify.watch import Tell, Watch
from schemas.errors import OperatorNeeded, RetryLater
from schemas.identifiers import qualified
from schemas.lsn import format_lsn

logger = logging.getLogger("keepstream.verify")

_LEFT_OUT: Final = "a policy has this replica go without it"

Only = Mapping[int, tuple[str, str]] | None
"""Which tables are to be compared: names by the source's OIDs; None: all."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one meeting brought. changed: tables to be compared again."""

    results: tuple[TableResult, ...]
    changed: Mapping[int, tuple[str, str]]
    not_replicated: tuple[NotReplicated, ...]
    notes: tuple[str, ...]
    sequences: AwaitedSequences
    large_objects: LargeObjectsResult | None
    lsn: str
    held_s: float


def verify(
    options: VerifyOptions, scope: Scope, *, stop: threading.Event, tell: Tell, on_progress: OnProgress
) -> VerifyResult:
    """Compare everything of `scope` that is published, at one LSN. Writes nothing but the hold.

    A table that is truncated or altered before it was read is compared at a later meeting; after
    ROUNDS of them RetryLater (`table-changed`). Raises what `meet` raises, and VerifyStopped.
    """
    started = time.monotonic()
    watch = Watch(stop, tell)
    found: dict[str, TableResult] = {}
    held_s = 0.0
    only: Only = None
    notes: dict[str, None] = {}
    large_objects: LargeObjectsResult | None = None
    with watch.watching():
        for _ in range(ROUNDS):
            one = _try_round(options, scope, watch, on_progress, only)
            found |= {result.table: result for result in one.results}
            notes |= dict.fromkeys(one.notes)
            large_objects = large_objects or one.large_objects
            held_s = max(held_s, one.held_s)
            only = one.changed
            if not one.changed:
                break
        else:
            raise table_changed(len(one.changed))
        compared = sequences.compare(options, watch, one.sequences)
    return VerifyResult(
        replica=options.replica,
        lsn=one.lsn,
        tables=tuple(sorted(found.values(), key=lambda result: result.table)),
        not_replicated=one.not_replicated,
        notes=tuple(notes),
        sequences=compared,
        large_objects=large_objects,
        held_s=held_s,
        took_s=time.monotonic() - started,
    )


def _try_round(
    options: VerifyOptions, scope: Scope, watch: Watch, on_progress: OnProgress, only: Only
) -> Round:
    backoff = Backoff()
    for tried in range(1, TRIES + 1):
        try:
            return _round(options, scope, watch, on_progress, only)
        except RetryLater as error:
            watch.check()
            if error.code not in TRIED_AGAIN or tried == TRIES:
                raise
            logger.info("verification begins again", extra={"code": error.code, "error": error.message})
            watch.pause(backoff.next_s())
    raise AssertionError("unreachable")


def _round(options: VerifyOptions, scope: Scope, watch: Watch, on_progress: OnProgress, only: Only) -> Round:
    with meet(options, watch, restless=tuple((only or {}).values())) as meeting:
        wait_until_visible(
            meeting.reader,
            options.source_conninfo,
            purpose=options.purpose,
            limit_s=VISIBLE_S,
            tick=watch.check,
        )
        tables, catalog, pairs = describe(options, meeting)
        by_root = is_via_root(meeting.reader, options.publication)
        wanted = {table.oid for table in choose_tables(tables, catalog, scope, by_root=by_root)}
        without_rows = {pair.source.oid: pair for pair in pairs if pair.is_left_out or pair.awaits_copy}
        if wanted and wanted <= without_rows.keys():
            raise _none_comparable([without_rows[oid] for oid in sorted(wanted)], options.replica)
        comparable = wanted - without_rows.keys()
        chosen = [
            pair
            for pair in pairs
            if pair.source.oid in comparable and (only is None or pair.source.oid in only)
        ]
        watch.tell(f"comparing {len(chosen)} tables at {format_lsn(meeting.lsn)}")
        compared = Comparison(options, watch, meeting, on_progress).run(chosen)
        others = _only_on_replica(meeting.keeper, catalog)
        large_objects = None
        if options.large_objects and only is None:
            watch.tell("comparing large objects")
            large_objects = compare_large_objects(meeting, watch)
        elif only is None:
            others += note_of(meeting)
    return Round(
        results=compared.results,
        changed={table.oid: table.table_name for table in tables if table.oid in compared.changed},
        not_replicated=not_replicated(scope, catalog, tables, by_root=by_root)
        + tuple(_without_rows(pairs, options.replica)),
        notes=tuple(note for pair in pairs for note in pair.notes) + others,
        sequences=meeting.sequences,
        large_objects=large_objects,
        lsn=format_lsn(meeting.lsn),
        held_s=meeting.held_s,
    )


def _none_comparable(pairs: Sequence[Pair], replica: str) -> OperatorNeeded:
    """Of all that were to be compared the replica has no rows: to call them identical would be wrong."""
    why = [f"{each.table}: {each.reason}" for each in _without_rows(pairs, replica)]
    return OperatorNeeded(
        f"{replica} has no rows of the tables that were to be compared ({'; '.join(why[:5])})",
        code="no-table-comparable",
        hint="Copy a table that awaits its copy, as said; of one that a policy leaves out there is nothing to"
        " compare.",
    )


def _without_rows(pairs: Iterable[Pair], replica: str) -> Iterator[NotReplicated]:
    """Tables that are in the publication and not on this replica, or not with their rows."""
    for pair in pairs:
        if pair.is_left_out:
            yield NotReplicated(table=pair.name, reason=_LEFT_OUT)
        elif pair.awaits_copy:
            command = left_out.copying_command(replica, pair.source.table_name)
            yield NotReplicated(
                table=pair.name, reason=f"its rows are not in the log; `{command}` copies them"
            )


def describe(
    options: VerifyOptions, meeting: Meeting
) -> tuple[list[SnapshotTable], tuple[Table, ...], list[Pair]]:
    """The published tables, the source's whole catalog, and the pairs, as both snapshots show them."""
    reader = meeting.reader
    tables = published_tables(reader, options.publication)
    catalog = list_tables(reader, publication=options.publication)
    columns = columns_of(reader, tables)
    there = named_tables(meeting.keeper, [table.table_name for table in tables], server="the replica")
    keys = {table.oid: key_of(table) for table in catalog}
    theirs = columns_of(meeting.keeper, there)
    ignored = left_out.read(meeting.keeper, options.name)
    return tables, catalog, pair_tables(tables, columns, there, theirs, keys, ignored)


def key_of(table: Table) -> tuple[str, ...]:
    """The columns by which a row is named: its replica identity, else any key; () if there is none."""
    others = (index.columns for index in table.usable_indexes)
    return table.identity_columns or next(others, ())


def _only_on_replica(keeper: Session, catalog: tuple[Table, ...]) -> tuple[str, ...]:
    known = {(table.schema, table.name) for table in catalog}
    with wrapped("comparing the lists of tables"):
        others = [name for name in user_tables(keeper) if name not in known]
    return tuple(f"{qualified(schema, name)} is only on the replica" for schema, name in others)
