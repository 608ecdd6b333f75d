"""No UPDATE or DELETE of the application fails for long because its table is published.

PostgreSQL refuses them once a published table has lost its replica identity: its key was dropped, or, under
REPLICA IDENTITY FULL, a virtual generated column was added. Nothing can keep an application from doing that,
so every look at the catalog searches for such tables. One gets REPLICA IDENTITY FULL if that helps and we
may; else it leaves the publication (docs/decisions/010), if that is ours to alter; else it is shouted about.

An ANCHOR names a table that leaves, and the transaction that takes it out, before that commits (P11): a
capture that is killed in between knows the publication's change for ours, and the table's last rows, which
may still come, for what they are. Under the table's lock we look again, before the commit: a table that was
helped meanwhile stays, and one that leaves is as the log knows it. Replicas keep the rows as they were.
The table joins again like a new one, once it has a key.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from connectors.failpoints import failpoint
from connectors.postgres import publication as publications
from connectors.postgres.catalog import Table, find_table, list_tables
from connectors.postgres.instance import has_role, superusers
from connectors.postgres.publication import Publication
from connectors.postgres.server import current_xid, insert_lsn
from connectors.postgres.session import Session
from connectors.postgres.shape import read_shape
from pipeline.capture.announcements import Leave
from pipeline.capture.history import check_published, left_tables
from pipeline.capture.options import CaptureOptions
from pipeline.capture.ownsession import begin
from pipeline.capture.packer import FramePacker
from pipeline.capture.shapes import anchored_shapes, next_shape, without_files
from pipeline.capture.startup import OpenCapture
from pipeline.reports import Endangered
from schemas.errors import KeepstreamError
from schemas.lsn import Lsn

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
        self._last_rows: dict[int, Lsn] = {}

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
        return Protected(tuple(endangered), tuple(self._left(tables)))

    def help_writers(self) -> None:
        """What can be done inside a transaction of the stream, too: no table leaves there, because that takes
        an ANCHOR (P6)."""
        session, name = self._capture.sql, self._options.publication
        publication = publications.read_publication(session, name)
        if publication is not None:
            for table in _failing(list_tables(session, publication=name), publication):
                self._mended(table, publication, None)

    def awaits_rows(self, table: Table) -> bool:
        """Whether rows from before it left may still come, or of the one that left and had its name. They
        would be taken for rows of the table that joined.

        A transaction that wrote such rows may end long after the leaving, but before the DDL that gave the
        table a key, because that waits for it."""
        left = left_tables(self._capture.chain.publication).values()
        if not any(table.oid == each.oid or table.qualified_name == each.name for each in left):
            return False
        if table.identity_problem is not None:
            return True
        if table.oid not in self._last_rows:
            self._last_rows[table.oid] = insert_lsn(self._capture.sql)
        return self._capture.chain.position.lsn < self._last_rows[table.oid]

    def set_full(self, table: Table) -> None:
        """In a transaction of its own. RetryLater: `lock-timeout`; OperatorNeeded: `privilege-missing`."""
        publications.set_full_identity(self._capture.sql, (table.schema, table.name))
        logger.warning("replica identity set to full", extra={"table": table.qualified_name})

    def _mended(self, table: Table, publication: Publication, packer: FramePacker | None) -> bool:
        """`packer`: None where no table can leave."""
        try:
            if table.owned and table.full_problem is None:
                self.set_full(table)
                return True
            if packer is None or packer.holds_transactions:
                return False
            if not has_role(self._capture.sql, publication.owner):
                return False
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
        shape = read_shape(capture.sql, table.oid)
        if entry is None or shape is None:
            return True  # which the next comparison stops at (P11)
        with closing(begin(self._options)) as session:
            generated = tuple(sorted(shape.generated_columns))
            leave = Leave(entry, current_xid(session), table.oid, table.qualified_name, generated)
            self._announce(leave, packer)
            if not self._drop(session, table, leave):
                return False
            session.commit()
        failpoint("capture.after_leave")
        capture.chain.publication_is(check_published(capture.sql, name, capture.chain.publication))
        logger.error(
            "table taken out of the publication: its updates and deletes failed in the application",
            extra={"table": table.qualified_name, "seen": table.identity_problem},
        )
        return True

    def _announce(self, leave: Leave, packer: FramePacker) -> None:
        chain = self._capture.chain
        chain.publication_is((*chain.publication, leave.to_token()))
        chain.anchor(packer.live_tables)
        chain.require_durable()
        failpoint("capture.after_leave_announced")

    def _drop(self, session: Session, table: Table, leave: Leave) -> bool:
        """In the session's transaction. Whether all is still as it was announced once nobody can alter the
        table any more: else it stays, and the next look judges it anew."""
        name = self._options.publication
        session.execute(f"set local lock_timeout = {LEAVE_WAIT_MS}")
        publications.drop_table(session, name, (table.schema, table.name))
        now = find_table(session, table.oid, publication=name)
        shape = read_shape(session, table.oid)
        anchored = anchored_shapes(self._capture.chain.publication).get(table.oid)
        return (
            publications.table_entry(session, name, table.oid) is None  # it was this table that bore the name
            and now is not None
            and now.identity_problem is not None
            and shape is not None
            and tuple(sorted(shape.generated_columns)) == leave.generated
            and anchored is not None
            and without_files([next_shape(shape, anchored)]) == without_files([anchored])
        )

    def _endangered(self, table: Table) -> Endangered:
        fix = publications.identity_remedy(table, self._options.publication)
        return Endangered(table=table.qualified_name, seen=table.identity_problem or "", fix=fix)

    def _left(self, tables: Collection[Table]) -> list[Endangered]:
        left = left_tables(self._capture.chain.publication)
        return [_gone(table, self._ownership(table)) for table in tables if table.oid in left]

    def _ownership(self, table: Table) -> str:
        """The SQL that lets us publish the table, with a space behind it. A superuser's rights are not lent:
        they would make one of our role."""
        if table.owned:
            return ""
        session = self._capture.sql
        ours = sql.Identifier(session.info.user).as_string()
        if superusers(session, [table.owner]):
            name = sql.Identifier(table.schema, table.name).as_string()
            return f"alter table {name} owner to …; (to no superuser) grant … to {ours}; (that owner) "
        return f"grant {sql.Identifier(table.owner).as_string()} to {ours}; "


def _failing(tables: Collection[Table], publication: Publication) -> list[Table]:
    listed = {table.oid for table in publication.tables}
    return [table for table in tables if table.oid in listed and table.identity_problem is not None]


def _gone(table: Table, ownership: str) -> Endangered:
    name = sql.Identifier(table.schema, table.name).as_string()
    there = (
        f"On every replica: drop table {name}; (or empty it and give it the source's key). Drop foreign keys"
        " to it first, as the source did: TRUNCATE … CASCADE would empty other tables."
    )
    problem = table.identity_problem
    key = "" if problem is None else f"alter table {name} add primary key (…); "
    here = f" On the source: {ownership}{key}" if ownership or key else " "
    return Endangered(
        table=table.qualified_name,
        seen=problem or "it can be replicated again",
        fix=f"{there}{here}Then it joins again by itself, within a minute.",
    )
