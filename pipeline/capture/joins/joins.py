"""New tables join by themselves, once they were checked (P11); `joining` lets one join.

A look at the catalog finds them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from psycopg import sql

from connectors.postgres.catalog import publication as publications
from connectors.postgres.catalog.tableddl import definition_version
from connectors.postgres.catalog.tables import Table, list_tables
from connectors.postgres.instance import has_role, lending_sql, superusers
from connectors.postgres.limits.harmless import require_addable
from connectors.postgres.session import Session, wrapped
from connectors.postgres.sqlstate import ROW_SECURITY
from pipeline.capture.entries.limitednames import limit_before, limit_to_say, limited_trees, tree_to_say
from pipeline.capture.joins.definitions import Definitions, NotNow
from pipeline.capture.joins.joining import (
    ROWS_LIMIT_BYTES,
    ROWS_UNDER_LOCK_BYTES,
    Rows,
    join_table,
    require_joinable,
    rows_of,
)
from pipeline.capture.joins.protection import Protected, Protection
from pipeline.capture.opened import OpenCapture
from pipeline.capture.options import CaptureOptions
from pipeline.capture.writing.packer import FramePacker
from pipeline.config import Keyless
from pipeline.reports import NotReplicated
from pipeline.selection import UNDECIDED, Selection, select_tables
from schemas.errors import BEGIN_ANEW, KeepstreamError, RetryLater
from schemas.table import TableSchema

logger = logging.getLogger("keepstream.capture")

_NOT_YET = "it joins soon: tables join one after another"
_LAST_ROWS = "rows from before it left may still come, or of the table that had its name."
_LATER = "tried again after a pause"
_TOO_LARGE = "rows-too-large"
_EMPTY_NEXT = "it joins soon, without its rows: they are too many, or written to without a pause"
_COPY = "each replica copies its rows, and leaves its changes out until then"
_REASONS = {
    "lock-timeout": f"it is being written to or altered without a pause; {_LATER}",
    "transaction-conflict": f"it is being written to or altered without a pause; {_LATER}",
    "table-altered": f"it was altered meanwhile; {_LATER}",
    "table-written": f"it holds more than {ROWS_UNDER_LOCK_BYTES >> 20} MiB and was written to while its rows"
    f" were sent; {_LATER}",
    "query-canceled": "its rows could not be sent, or proven to be the same, while its writers may wait;"
    f" {_LATER}",
    _TOO_LARGE: f"its rows take more than {ROWS_LIMIT_BYTES >> 20} MiB as text; {_LATER}",
    "log-slow": f"the log did not answer in time; {_LATER}",
}

_PAUSES_S = {
    "table-written": (0.0, 640.0),
    "query-canceled": (0.0, 640.0),
}
_BUSY_PAUSES_S = (0.0, 60.0)
_REFUSED_PAUSES_S = (10.0, 60.0)
"""The shortest pause before another attempt, and the longest: an attempt costs the source and each replica.
From the second on they double. What an operator must mend is tried again at once when the table was altered,
and within a minute when it was a replica that he mended."""
_WRITTEN = frozenset({"table-written", "query-canceled"})
_WRITTEN_TRIES = 6
"""After so many attempts, five minutes, a table whose writers do not pause joins without its rows."""
LOOK_LIMIT_S = 2.0
"""The stream stands still while tables join: those that are left wait for the next look."""


def hidden_rows(table: Table, role: str) -> str:
    """Why its policies keep it from joining, and the SQL that mends it."""
    name, ours = sql.Identifier(table.schema, table.name), sql.Identifier(role)
    exempting = sql.SQL("alter role {} bypassrls;").format(ours).as_string()
    lifting = sql.SQL("alter table only {} no force row level security;").format(name).as_string()
    forced = f", or, as it is FORCE that binds its owner, {lifting}" if table.owned else ""
    return f"row-level security hides its rows from the source role: run as a superuser {exempting}{forced}"


def missing_rights(session: Session, table: Table, publication: publications.Publication) -> str | None:
    """Whose rights we lack to publish it, and what mends that; None if we have them. A superuser's are never
    lent, and its publication is given away only at the price of beginning anew (P11)."""
    owners = [owner for owner in sorted({publication.owner, table.owner}) if not has_role(session, owner)]
    barred = superusers(session, owners)
    may_not = "the source role may not add it to the publication"
    if publication.owner in barred:
        if table.owner in barred:
            return (
                f"{may_not}: both belong to a superuser, whose rights are not to be lent: exclude it"
                " (source.tables.exclude), or give it another owner"
            )
        give = publications.give_publication_sql(publication.name, table.owner)
        return (
            f"{may_not}, which belongs to a superuser, whose rights are not to be lent: exclude it"
            f" (source.tables.exclude), or stop, run `{give}; {_lending(session, [table.owner])}`, then"
            f" {BEGIN_ANEW}"
        )
    if barred:
        return f"{may_not}: it belongs to a superuser, whose rights are not to be lent; give it another owner"
    return f"{may_not}: run as an administrator `{_lending(session, owners)}`" if owners else None


def _lending(session: Session, owners: list[str]) -> str:
    return " ".join(lending_sql(owner, session.info.user) for owner in owners)


@dataclass(frozen=True, slots=True)
class SeenTables:
    """What a look saw of the source's tables. undecided: see StageReport."""

    not_replicated: tuple[NotReplicated, ...] = ()
    undecided: tuple[str, ...] = ()
    protected: Protected = field(default_factory=Protected)


@dataclass(frozen=True, slots=True)
class Tried:
    """An attempt that failed: when, and how long to wait before the next (s). `as_large`: the table's rows
    take longer than its size tells. `written`: how often somebody wrote to it while its rows were sent.
    `without_rows`: they are more than is allowed, or their writers never paused. `refused`: the definition
    that somebody must mend, or a replica."""

    as_large: bool
    at: float
    pause_s: float
    refused: str | None = None
    written: int = 0
    without_rows: bool = False

    @classmethod
    def again(cls, before: Tried | None, code: str, *, refused: str | None = None) -> Tried:
        """With the shortest pause of this error, or twice the last one."""
        others = _BUSY_PAUSES_S if refused is None else _REFUSED_PAUSES_S
        pause_s, longest_s = _PAUSES_S.get(code, others)
        if before is not None and before.refused == refused:
            pause_s = min(longest_s, max(10.0, before.pause_s * 2, pause_s))
        as_large = code == "query-canceled" or (before is not None and before.as_large)
        written = (before.written if before is not None else 0) + (code in _WRITTEN)
        without_rows = code == _TOO_LARGE or written >= _WRITTEN_TRIES
        without_rows = without_rows or (before is not None and before.without_rows)
        return cls(as_large, time.monotonic(), pause_s, refused, written, without_rows)

    @property
    def is_early(self) -> bool:
        """Whether it is too early for the next attempt."""
        return time.monotonic() - self.at < self.pause_s


class Joins:
    """Looks for tables that should be replicated and are not yet in the publication."""

    def __init__(
        self,
        capture: OpenCapture,
        options: CaptureOptions,
        tell: Callable[[SeenTables], None],
    ) -> None:
        self._capture = capture
        self._options = options
        self._tell = tell
        # by OID: a table of another's old name has nothing to wait for, and a new name changes nothing
        self._left_out: dict[int, str] = {}
        self._tried: dict[int, Tried] = {}
        self._protection = Protection(capture, options)
        self._definitions = Definitions(options)
        self._trees: dict[int, str] = {}
        self._has_joined = False
        self._undecided = frozenset(table.qualified_name for table in capture.selection.undecided)

    @property
    def has_news(self) -> bool:
        """Whether more tables may join than at the last look."""
        return self._has_joined or self._definitions.has_news or self._protection.has_news

    def look(self, packer: FramePacker) -> tuple[TableSchema, ...]:
        """Join what can be joined now; returns the versions of the tables that did.

        Called between transactions. A table that cannot join is left out, with the reason in
        `not_replicated`; nothing that an application does fails because of it.
        """
        sql_session, options = self._capture.sql, self._options
        tables = list_tables(sql_session, publication=options.publication)
        published = publications.read_publication(sql_session, options.publication)
        if published is None:
            return ()  # which the next comparison stops at (P11)
        by_root = published.via_partition_root
        selection = select_tables(tables, options.tables, options.keyless, by_root=by_root)
        protected = self._protection.look(tables, published, packer)
        left = {each.table for each in protected.left}
        listed = {table.qualified_name for table in published.tables} - left
        waiting = {t.oid: t for t in selection.wanted if t.qualified_name not in listed}
        self._forget_all_but(waiting)
        self._trees = limited_trees(self._capture.chain.publication, tables, options.tables)
        joined = () if packer.holds_transactions else tuple(self._join_some(waiting, packer))
        self._has_joined = bool(joined)
        self._tell_of(selection, listed, waiting, protected)
        return joined

    def help_writers(self) -> None:
        """What of a look cannot wait for the end of a large transaction."""
        self._protection.help_writers()

    def _forget_all_but(self, waiting: Mapping[int, Table]) -> None:
        self._left_out = {oid: reason for oid, reason in self._left_out.items() if oid in waiting}
        self._tried = {oid: tried for oid, tried in self._tried.items() if oid in waiting}
        self._definitions.forget_all_but(waiting)

    def _join_some(self, waiting: Mapping[int, Table], packer: FramePacker) -> Iterator[TableSchema]:
        """As many as there is time for. The one whose definition was read comes first, because the next one's
        is read only then; those that were refused before come last: they must not keep others waiting."""
        until = time.monotonic() + LOOK_LIMIT_S

        def order(table: Table) -> tuple[bool, bool, str, str]:
            refused = self._left_out.get(table.oid, _NOT_YET) != _NOT_YET
            return not self._definitions.is_reading(table), refused, table.schema, table.name

        for table in sorted(waiting.values(), key=order):
            if time.monotonic() > until:
                self._left_out.setdefault(table.oid, _NOT_YET)
                continue
            outcome = self._try_join(table, packer)
            if outcome is None:
                self._left_out.setdefault(table.oid, _NOT_YET)
            elif isinstance(outcome, TableSchema):
                self._left_out.pop(table.oid, None)
                yield outcome
            else:
                self._leave_out(table, outcome)

    def _tell_of(
        self,
        selection: Selection,
        published: Collection[str],
        waiting: Mapping[int, Table],
        protected: Protected,
    ) -> None:
        told = {*published, *(each.table for each in protected.left)}
        undecided = tuple(t.qualified_name for t in selection.undecided if t.qualified_name not in told)
        self._warn_of(undecided)
        reasons = [(waiting[oid].qualified_name, reason) for oid, reason in self._left_out.items()]
        self._tell(
            SeenTables(
                tuple(each for each in selection.not_replicated if each.table not in published)
                + tuple(NotReplicated(table=table, reason=reason) for table, reason in reasons),
                undecided,
                protected,
            )
        )

    def _warn_of(self, undecided: tuple[str, ...]) -> None:
        for table in undecided:
            if table not in self._undecided:
                logger.warning("table left out", extra={"table": table, "reason": UNDECIDED})
        self._undecided = frozenset(undecided)

    def _give_identity(self, table: Table) -> None:
        """In a transaction of its own: pg_dump must be able to read the table while it joins."""
        if table.identity_problem is None or self._options.keyless is not Keyless.FULL:
            return
        limit = self._options.tables.limit_of(table.schema, table.name)
        if limit is not None:
            name = (table.schema, table.name)
            require_addable(self._capture.sql, self._options.publication, name, limit)
        self._protection.set_full(table)

    def _leave_out(self, table: Table, reason: str) -> None:
        if self._left_out.get(table.oid) != reason:
            logger.warning("table left out", extra={"table": table.qualified_name, "reason": reason})
        self._left_out[table.oid] = reason

    def _try_join(self, table: Table, packer: FramePacker) -> TableSchema | str | None:
        """The version in which it joined, or why it did not; None: what that takes is being found out."""
        tried = self._tried.get(table.oid)
        if tried is not None and self._is_early(table, tried):
            return self._left_out[table.oid]
        if self._definitions.is_busy and not self._definitions.is_reading(table):
            return None
        try:
            with wrapped(f"adding table {table.qualified_name} to the publication"):
                joined = self._join(table, packer, tried)
        except NotNow as reason:
            self._tried[table.oid] = self._refused(table, tried, "refused")
            return str(reason)
        except KeepstreamError as error:
            if isinstance(error, RetryLater) and error.code not in _REASONS:
                raise
            if isinstance(error, RetryLater):
                again = Tried.again(tried, error.code)
                if again.without_rows and not (tried is not None and tried.without_rows):
                    self._tried[table.oid] = replace(again, pause_s=0.0)
                    return _EMPTY_NEXT
                self._tried[table.oid] = again
            else:
                self._tried[table.oid] = self._refused(table, tried, error.code)
            return self._reason(table, error)
        if isinstance(joined, TableSchema):
            self._tried.pop(table.oid, None)
            self._capture.tracking.check_publication()  # P11: what nobody else changed is the publication
            logger.info("table joined", extra={"table": table.qualified_name})
        return joined

    def _join(self, table: Table, packer: FramePacker, tried: Tried | None) -> TableSchema | str | None:
        limited = self._limited(table)
        if not self._definitions.is_reading(table):
            if limited is not None:
                return limited
            self._give_identity(table)
            awaited = self._protection.awaited_by(table)
            if awaited is not None:
                return f"{_LAST_ROWS} {awaited}"
            require_joinable(self._capture.sql, table, publication=self._options.publication)
        definition = self._definitions.take(table)
        if definition is None:
            return None
        if limited is not None:
            return limited
        rows = rows_of(
            self._capture.sql,
            table,
            as_large=tried is not None and tried.as_large,
            without_rows=tried is not None and tried.without_rows,
        )
        joined = join_table(self._capture, self._options, packer, table, definition, rows=rows)
        if rows is Rows.LATER:
            logger.warning(
                "table joins without its rows", extra={"table": table.qualified_name, "next": _COPY}
            )
        return joined

    def _limited(self, table: Table) -> str | None:
        """Why it would join with more than is to be replicated."""
        tables, name = self._options.tables, (table.schema, table.name)
        limit = limit_before(self._capture.chain.publication, name, tables)
        if limit is not None:
            return limit_to_say(limit)
        tree = self._trees.get(table.oid) if tables.limit_of(*name) is None else None
        return None if tree is None else tree_to_say(tree)

    def _is_early(self, table: Table, tried: Tried) -> bool:
        if not tried.is_early:
            return False
        return tried.refused is None or tried.refused == self._definition_of(table)

    def _refused(self, table: Table, tried: Tried | None, code: str) -> Tried:
        return Tried.again(tried, code, refused=self._definition_of(table))

    def _definition_of(self, table: Table) -> str:
        with wrapped(f"reading the definition of table {table.qualified_name}"):
            return definition_version(self._capture.sql, table.oid)

    def _reason(self, table: Table, error: KeepstreamError) -> str:
        """Hidden rows are told beside a missing privilege, too: mending that alone would not help."""
        lacks_privilege = error.code == "privilege-missing"
        hidden = hidden_rows(table, self._capture.sql.info.user) if table.row_security else None
        if hidden and error.code == ROW_SECURITY:
            return hidden
        reason = self._missing_rights(table) if lacks_privilege else _REASONS.get(error.code)
        reason = reason or f"{error.message} ({error.code})"
        return f"{reason}; and {hidden}" if hidden and lacks_privilege else reason

    def _missing_rights(self, table: Table) -> str | None:
        session, name = self._capture.sql, self._options.publication
        published = publications.read_publication(session, name)
        return None if published is None else missing_rights(session, table, published)
