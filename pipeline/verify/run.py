"""One whole verification."""

from __future__ import annotations

import logging
import threading
import time

from connectors.postgres.catalog import Table, list_tables
from connectors.postgres.session import connect
from pipeline.backoff import Backoff
from pipeline.config.model import Keyless, Tables
from pipeline.reports import NotReplicated
from pipeline.selection import select_tables
from pipeline.verify.compare import OnTable, compare_tables
from pipeline.verify.meeting import Say, VerifyOptions, meet
from pipeline.verify.result import VerifyResult
from schemas.errors import RetryLater
from schemas.lsn import format_lsn

logger = logging.getLogger("keepstream.verify")

TRIES = 5
_TRIED_AGAIN = ("table-changed", "hold-lost", "snapshot-lost")


def verify(
    options: VerifyOptions,
    *,
    tables: Tables,
    keyless: Keyless,
    stop: threading.Event,
    say: Say,
    on_table: OnTable,
) -> VerifyResult:
    """Compare everything that is published, at one LSN. Writes nothing but the hold.

    A table that is truncated or altered meanwhile makes it begin again, a few times. Raises what `meet`
    and `compare_tables` raise.
    """
    backoff = Backoff()
    for tried in range(1, TRIES + 1):
        try:
            return _verify_once(options, tables, keyless, stop, say, on_table)
        except RetryLater as error:
            if error.code not in _TRIED_AGAIN or tried == TRIES or backoff.wait(stop):
                raise
            logger.info("verification begins again", extra={"code": error.code, "error": error.message})
    raise AssertionError("unreachable")


def _verify_once(
    options: VerifyOptions,
    tables: Tables,
    keyless: Keyless,
    stop: threading.Event,
    say: Say,
    on_table: OnTable,
) -> VerifyResult:
    started = time.monotonic()
    with meet(options, stop, say) as meeting:
        with connect(options.source_conninfo, purpose=f"{options.name}:verify") as session:
            catalog = list_tables(session)
        keys = {table.oid: _key(table) for table in catalog}
        compared = {(table.schema, table.name) for table in meeting.tables}
        results = compare_tables(options, meeting, keys, on_table)
    selection = select_tables(catalog, tables, keyless)
    missed = tuple(
        NotReplicated(table=str(name), reason="not in the publication yet")
        for name in selection.names
        if tuple(name) not in compared
    )
    return VerifyResult(
        replica=options.replica,
        lsn=format_lsn(meeting.lsn),
        tables=results,
        not_replicated=selection.not_replicated + missed,
        held_s=meeting.held_s,
        took_s=time.monotonic() - started,
    )


def _key(table: Table) -> tuple[str, ...]:
    """The columns by which a row is named: its replica identity, else any key; () if there is none."""
    others = (index.columns for index in table.usable_indexes)
    return table.identity_columns or next(others, ())
