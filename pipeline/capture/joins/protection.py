"""No UPDATE or DELETE of the application fails for long because its table is published.

PostgreSQL refuses them once a published table has lost its replica identity: its key was dropped, or, under
REPLICA IDENTITY FULL, a virtual generated column was added. Nothing can keep an application from doing that,
so every look at the catalog searches for such tables. One gets REPLICA IDENTITY FULL if that helps and we
may; else it leaves the publication (docs/decisions/010), if that is ours to alter; else it is shouted about.

An ANCHOR names a table that leaves, and the transaction that takes it out, before that commits (P11): a
capture that is killed in between knows the publication's change for ours, and the table's last rows, which
may still come, for what they are. Under the table's lock we look again, before the commit: a table that was
helped meanwhile stays, and one that leaves is as the log knows it. Replicas keep the rows as they were.
The table joins again like a new one, once it has a key and nothing of it is on its way any more (`leavings`).
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from connectors.failpoints import failpoint
from connectors.postgres.catalog import publication as publications
from connectors.postgres.catalog.publication import Publication
from connectors.postgres.catalog.replica_identity import identity_remedy, set_full_identity
from connectors.postgres.catalog.shape import read_shape
from connectors.postgres.catalog.tables import Table, find_table, list_tables
from connectors.postgres.instance import has_role, lending_sql, superusers
from connectors.postgres.server import current_xid
from connectors.postgres.session import Session, wrapped
from pipeline.capture.entries.announcements import LEAVES, Leave
from pipeline.capture.entries.names import left_tables, named_tables
from pipeline.capture.entries.shapes import SHAPES, next_shape
from pipeline.capture.joins.leavings import Leavings
from pipeline.capture.joins.ownsession import begin
from pipeline.capture.opened import OpenCapture
from pipeline.capture.options import CaptureOptions
from pipeline.capture.writing.packer import FramePacker
from pipeline.reports import Endangered
from schemas.errors import KeepstreamError

logger = logging.getLogger("keepstream.capture")

_LATER: Final = frozenset(
    {"lock-timeout", "transaction-conflict", "log-slow", "privilege-missing", "sql-refused"}
)
"""Why it does not come off this time, but may the next."""
LEAVE_WAIT_MS: Final = 1500
"""ALTER PUBLICATION … DROP TABLE takes SHARE UPDATE EXCLUSIVE on the table: behind its wait queue VACUUM and
DDL, but no reader and no writer. Longer than deadlock_timeout: then PostgreSQL makes autovacuum give way."""


@dataclass(frozen=True, slots=True)
class Protected:
    """endangered: published tables whose writes fail. left: those that are not published any more."""

    endangered: tuple[Endangered, ...] = ()
    left: tuple[Endangered, ...] = ()


class Protection:
    """Of one capture's published tables."""

    def __init__(self, capture: OpenCapture, options: CaptureOptions) -> None:
        self._capture = capture
        self._options = options
        self._told: frozenset[Endangered] = frozenset()
        self._leavings = Leavings(capture, options)

    @property
    def has_news(self) -> bool:
        """Whether a table that left may have come further on its way back than at the last look."""
        return self._leavings.has_news

    def look(self, tables: Collection[Table], publication: Publication, packer: FramePacker) -> Protected:
        """`tables`: all of the source. Raises what `check_published` does."""
        endangered = [
            self._endangered(table)
            for table in _failing(tables, publication)
            if not self._mended(table, publication, packer)
        ]
        for each in endangered:
            if each not in self._told:
                logger.error(
                    "updates and deletes of a published table fail in the application",
                    extra={"table": each.table, "seen": each.seen, "fix": each.fix},
                )
        self._told = frozenset(endangered)
        self._leavings.look(packer)
        return Protected(tuple(endangered), tuple(self._left(tables)))

    def help_writers(self) -> None:
        """What can be done inside a transaction of the stream, too: no table leaves there, because that takes
        an ANCHOR (P6)."""
        session, name = self._capture.sql, self._options.publication
        publication = publications.read_publication(session, name)
        if publication is not None:
            for table in _failing(list_tables(session, publication=name), publication):
                self._mended(table, publication, None)

    def awaited_by(self, table: Table) -> str | None:
        """In sentences, what keeps rows from before it left on their way, or those of the one that left and
        had its name: they would be taken for rows of the table that joined. None: nothing."""
        return self._leavings.awaited_by(table)

    def set_full(self, table: Table) -> None:
        """In a transaction of its own. RetryLater: `lock-timeout`; OperatorNeeded: `privilege-missing`."""
        set_full_identity(self._capture.sql, table)
        logger.warning("replica identity set to full", extra={"table": table.qualified_name})

    def _mended(self, table: Table, publication: Publication, packer: FramePacker | None) -> bool:
        """`packer`: None where no table can leave."""
        try:
            if table.owned and table.full_problem is None:
                self.set_full(table)
                return True
            if packer is None or packer.holds_transactions:
                return False
            if table.is_limited or not has_role(self._capture.sql, publication.owner):
                return False  # it would join again with all columns and rows
            return self._take_out(table, packer)
        except KeepstreamError as error:
            if error.code not in _LATER:
                raise
            logger.warning(
                "a published table's writes still fail",
                extra={"table": table.qualified_name, "code": error.code},
            )
            return False

    def _take_out(self, table: Table, packer: FramePacker) -> bool:
        """Whether it is out. An announcement whose transaction is not committed means nothing (P11)."""
        capture, name = self._capture, self._options.publication
        entry = publications.table_entry(capture.sql, name, table.oid)
        shape = read_shape(capture.sql, table.oid, name)
        if entry is None or shape is None:
            return True  # which the next comparison stops at (P11)
        with closing(begin(self._options)) as session:
            generated = tuple(sorted(shape.generated_columns))
            leave = Leave(entry, current_xid(session), table.oid, table.schema, table.name, generated)
            self._announce(leave, packer)
            if not self._drop(session, table, leave):
                return False
            with wrapped(f"taking {table.qualified_name} out of publication {name}"):
                session.commit()
        failpoint("capture.after_leave")
        capture.tracking.check_publication()
        logger.error(
            "table taken out of the publication: its updates and deletes failed in the application",
            extra={"table": table.qualified_name, "seen": table.identity_problem},
        )
        return True

    def _announce(self, leave: Leave, packer: FramePacker) -> None:
        chain = self._capture.chain
        chain.publication_is(chain.publication.put(LEAVES, leave))
        chain.anchor(packer.live_tables)
        chain.require_durable()
        failpoint("capture.after_leave_announced")

    def _drop(self, session: Session, table: Table, leave: Leave) -> bool:
        """In the session's transaction. Whether all is still as it was announced once nobody can alter the
        table any more: else it stays, and the next look judges it anew."""
        name = self._options.publication
        with wrapped(f"taking {table.qualified_name} out of publication {name}"):
            session.execute(f"set local lock_timeout = {LEAVE_WAIT_MS}")
        publications.drop_table(session, name, (table.schema, table.name))
        now = find_table(session, table.oid, publication=name)
        shape = read_shape(session, table.oid, name)
        anchored = self._capture.chain.publication.of(SHAPES).get(table.oid)
        return (
            publications.table_entry(session, name, table.oid) is None  # it was this table that bore the name
            and now is not None
            and now.identity_problem is not None
            and shape is not None
            and tuple(sorted(shape.generated_columns)) == leave.generated
            and anchored is not None
            and next_shape(shape, anchored).without_file() == anchored.without_file()
        )

    def _endangered(self, table: Table) -> Endangered:
        fix = identity_remedy(table, self._options.publication)
        return Endangered(table=table.qualified_name, seen=table.identity_problem or "", fix=fix)

    def _left(self, tables: Collection[Table]) -> list[Endangered]:
        """But for those that the configuration excludes: they never join again."""
        left, selects = left_tables(self._capture.chain.publication), self._options.tables.selects
        return [
            Endangered(
                table=table.qualified_name,
                seen=table.identity_problem or "it can be replicated again",
                fix=self._way_back(table, left[table.oid]),
            )
            for table in tables
            if table.oid in left and selects(table.schema, table.name)
        ]

    def _way_back(self, table: Table, leave: Leave) -> str:
        here = _on_source(table, self._ownership(table))
        awaited = self._leavings.awaited(leave)
        if awaited is not None:
            there = (
                f"On replicas leave {leave.name} as it is: rows from before it left may still come. {awaited}"
            )
            return f"{there} What to do there is said here then.{here}"
        there = "" if self._is_replaced(leave) else _on_replicas(leave)
        return f"{there}{here} Then it joins again by itself, within a minute.".strip()

    def _is_replaced(self, leave: Leave) -> bool:
        """Whether another table has joined under the name that replicas know it by; it may have left, too."""
        publication = self._capture.chain.publication
        joined = named_tables(publication).values()
        later = [each for each in left_tables(publication).values() if each.xid > leave.xid]
        return leave.name in joined or leave.name in {each.name for each in later}

    def _ownership(self, table: Table) -> str:
        """The SQL that lets us publish the table, with a space behind it. A superuser's rights are not lent:
        they would make one of our role."""
        if table.owned:
            return ""
        session = self._capture.sql
        if superusers(session, [table.owner]):
            ours = sql.Identifier(session.info.user).as_string()
            name = sql.Identifier(table.schema, table.name).as_string()
            return f"alter table {name} owner to …; (to no superuser) grant … to {ours}; (that owner) "
        return f"{lending_sql(table.owner, session.info.user)} "


def _failing(tables: Collection[Table], publication: Publication) -> list[Table]:
    listed = {table.oid for table in publication.tables}
    return [table for table in tables if table.oid in listed and table.identity_problem is not None]


def _on_replicas(leave: Leave) -> str:
    name = sql.Identifier(leave.schema, leave.table).as_string()
    return (
        f"On every replica: drop table {name}; (or empty it and give it the source's key). Drop foreign keys"
        " to it first, as the source did: TRUNCATE … CASCADE would empty other tables."
    )


def _on_source(table: Table, ownership: str) -> str:
    name = sql.Identifier(table.schema, table.name).as_string()
    key = "" if table.identity_problem is None else f"alter table {name} add primary key (…);"
    here = f"{ownership}{key}".rstrip()
    return f" On the source: {here}" if here else ""
