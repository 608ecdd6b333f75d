"""Schema messages at work in one capture: which count, what the log knows behind them, and what is left that
no message explains.

Tracking begins exactly at the message that the event triggers' installation wrote, or with the log where they
were there already; it ends at that of their removal. A look at the catalog that finds something else than the
log knows proves nothing: the stream may be behind. So it is kept as a suspicion. A message about the same
object clears it. Once the stream has passed the look without one, tracking ends there, and the next look
judges it as without event triggers; where tracking has not begun, capture stops.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from connectors.postgres.catalog.publication import read_publication
from connectors.postgres.copy.visibility import is_visible
from connectors.postgres.ddl.tracking import emit_look, triggers_act
from connectors.postgres.session import Session
from pipeline.capture.ddl.authentic import Authenticity, key_missing, not_understood
from pipeline.capture.ddl.judging import after_join, after_message, without_tracking
from pipeline.capture.ddl.limited import to_be_listed
from pipeline.capture.ddl.logged import for_log
from pipeline.capture.ddl.looking import UNTRACKED, Differences, look
from pipeline.capture.entries.announcements import Announcements
from pipeline.capture.entries.ended import BEGIN_TRACKING, ENDED, Ended
from pipeline.capture.entries.limitednames import (
    LIMITED,
    limit_before,
    more_than_limited,
    require_no_more,
    require_none_below,
)
from pipeline.capture.entries.names import left_tables
from pipeline.capture.entries.partitions import (
    PARTITION_TRUNCATED,
    known_partitions,
    new_partitions,
    whole_names,
    without_shapes_below,
)
from pipeline.capture.entries.schemachange import refuse_change
from pipeline.capture.entries.shapes import listed_columns
from pipeline.capture.entries.told import SCHEMAS, TOLD, Told, is_tracked, with_unseen
from pipeline.capture.options import CaptureOptions
from pipeline.capture.waits import Waits
from pipeline.capture.writing.chainwriter import ChainWriter
from schemas.change import Message
from schemas.ddl.message import SchemaMessage, TableRows
from schemas.ddl.requalify import requalified
from schemas.entries import Entries
from schemas.errors import KeepstreamError, RefusedData, RetryLater
from schemas.identifiers import qualified
from schemas.join import Join
from schemas.lsn import ZERO, Lsn

logger = logging.getLogger("keepstream.capture")

LOOK_PREFIX: Final = "keepstream.look"
_ENDED: Final = "schema changes are not tracked any more"
LOCKED_FOR_S: Final = 5.0
"""After that time nobody looks soon any more at a partition that stays locked."""
_TRIGGERS_MISSING: Final = "the source's event triggers are missing or disabled"


@dataclass(frozen=True, slots=True)
class FollowedMessage:
    """A message that counts, and what of it has a place in the log; None: nothing."""

    message: SchemaMessage
    logged: SchemaMessage | None


class Tracking:
    """Of one connection. All of it is called in the thread that decodes. `clear_at`: where the log ended when
    a look found nothing."""

    def __init__(
        self,
        session: Session,
        chain: ChainWriter,
        options: CaptureOptions,
        waits: Waits,
        *,
        clear_at: Lsn = ZERO,
    ) -> None:
        self._session = session
        self._chain = chain
        self._options = options
        self._authenticity = Authenticity(session)
        self._announcements = Announcements()
        self._suspicions: dict[object, KeepstreamError] = {}
        self._lacks_triggers = False
        self._passed_at = 0
        self._told_by: dict[int, int] = {}
        self._has_partitions = Entries(), False
        self._clear_at = clear_at
        self._waits = waits
        self._locked: Mapping[int, str] = {}
        self._locked_at = 0.0
        self.looks_soon = False

    @property
    def is_tracked(self) -> bool:
        """At the stream's place."""
        return is_tracked(self._chain.publication)

    @property
    def waits(self) -> bool:
        """Whether something is not explained, or not seen, yet: a heartbeat would say that nothing
        happened."""
        return self._suspects or bool(self._locked)

    @property
    def _suspects(self) -> bool:
        return bool(self._suspicions) or self._lacks_triggers

    @property
    def told(self) -> Mapping[int, Told]:
        """By OID, what schema messages told of tables in the log."""
        return self._chain.publication.of(TOLD)

    def open(self) -> None:
        """Before the first message. Raises OperatorNeeded (`ddl-key-missing`, `privilege-missing`)."""
        if self.is_tracked and self._authenticity.learn() is None:
            raise key_missing()

    def begin(self) -> None:
        """A transaction begins."""
        self._authenticity.begin()

    def check_publication(self) -> None:
        """P11, and the shapes of all tables; later anchors hold what was seen here.

        Raises HistoryBroken (`publication-changed`), RefusedData (`schema-changed`, `table-renamed`,
        `limit-differs`) where no message could explain it, RetryLater (`commit-not-visible`), and
        CaptureStopped.
        """
        chain, session = self._chain, self._session
        self.looks_soon = False
        at = chain.position.lsn
        seen = look(
            session,
            self._options.publication,
            chain.publication,
            slot=self._options.slot,
            reading=self._waits.for_wal,
        )
        self._require_whole(chain.publication, seen.entries)
        held = chain.durable_position.lsn
        chain.publication_is(self._announcements.without_ended(session, seen.entries, held=held))
        self.suspect(seen.differences, triggers_act=seen.triggers_act)
        self._see_locked(seen.locked)
        if not self._suspicions and seen.is_clear:
            self._clear_at = at

    def _see_locked(self, locked: Mapping[int, str]) -> None:
        """While partitions are locked the slot is confirmed no further: what is done to them, be it in the
        stream by now, is seen when they are free, and then read from the WAL."""
        now = time.monotonic()
        if locked and not self._locked:
            self._locked_at = now
        if self._locked and not locked:
            self._waits.end()
        self._locked = locked
        if locked and now - self._locked_at < LOCKED_FOR_S:
            self.looks_soon = True
        elif locked:
            self._waits.begin(
                f"the release of locked partitions, of which nobody sees what is done to them:"
                f" {', '.join(locked.values())}",
                key=frozenset(locked),
            )

    def require_free(self, oid: int) -> None:
        """Raises RetryLater (`partition-locked`) of one that became a partition and cannot be looked into."""
        if oid in self._locked:
            raise RetryLater(
                f"nobody can look into {self._locked[oid]} now, which has rows in the stream",
                code="partition-locked",
                hint="Who is named has it locked (ACCESS EXCLUSIVE). Capture goes on once it is released.",
            )

    def confirmable(self, durable: Lsn) -> Lsn:
        """How far the slot may be confirmed: what explains a partition's new file must still be behind it
        when that is seen."""
        entries = self._chain.publication
        if self._has_partitions[0] is not entries:
            self._has_partitions = entries, bool(known_partitions(entries))
        return min(durable, self._clear_at) if self._has_partitions[1] else durable

    def suspect(self, differences: Differences, *, triggers_act: bool = True) -> None:
        """What messages that are still to come may explain: that of their removal, that the event triggers do
        not act. What was suspected before is judged first."""
        if self._suspects or (triggers_act and not differences):
            return
        self._suspicions, self._lacks_triggers = dict(differences), not triggers_act
        self._passed_at = emit_look(self._session, LOOK_PREFIX)

    @property
    def is_behind(self) -> bool:
        """Whether the catalog of now may be that of later messages: the event triggers came meanwhile."""
        return not self.is_tracked and triggers_act(self._session)

    def puts_off(self, error: RefusedData) -> bool:
        """Whether a message that is still to come may explain it."""
        if not self.is_behind:
            return False
        self.suspect({UNTRACKED: error})
        return True

    def passed(self, lsn: int) -> None:
        """All transactions that were committed below `lsn` were taken. Raises what is not explained by
        now."""
        if not self._suspects or lsn < self._passed_at:
            return
        unexplained, lacked_triggers = self._suspicions, self._lacks_triggers
        self._forget_suspicions()
        if unexplained and not self.is_tracked:
            raise next(iter(unexplained.values()))
        for error in unexplained.values():
            if error.code == PARTITION_TRUNCATED:
                raise error  # no event trigger tells of TRUNCATE
        self.looks_soon = True
        if UNTRACKED in unexplained:
            return
        if unexplained:
            self.end(next(iter(unexplained.values())).message)
        elif lacked_triggers and not triggers_act(self._session):
            self.end(_TRIGGERS_MISSING)  # else it was only for a while: what was altered then is a difference

    def end(self, reason: str) -> None:
        """Something was altered, and nothing told of it: from here on it is judged as without event
        triggers."""
        ended = Ended(int(time.time()), reason)
        self._chain.publication_is(without_tracking(self._chain.publication).put(ENDED, ended))
        self._forget_suspicions()
        self.looks_soon = True
        logger.error(_ENDED, extra={"reason": reason, "hint": BEGIN_TRACKING})

    def _forget_suspicions(self) -> None:
        self._suspicions, self._lacks_triggers = {}, False

    def follow(self, payload: Message, xid: int) -> FollowedMessage | None:
        """A message of this prefix; None of one that says nothing here.

        From here on the log knows what it tells. Raises HistoryBroken (`publication-changed`), RefusedData
        (`schema-changed`, `schema-error`, `limit-differs`), and what `Authenticity.genuine` raises.
        """
        message = self._authenticity.genuine(
            payload.prefix, payload.content, xid=xid, is_tracked=self.is_tracked
        )
        if message is None:
            return None
        if message.error:
            self._go_on_without(message)
            return None
        if message.rows is not None and message.rows.filters is None:
            self._require_unfiltered(message.rows)
        was_tracked, before = self.is_tracked, self.told
        entries = self._chain.publication
        message = self._in_schemas_of_now(message)
        if message.installed and was_tracked:
            message = self._missed(message, xid)
        try:
            self._learn(message, xid)
            self._require_limited(entries, before)
            left = left_tables(self._chain.publication)
            known = {oid: told for oid, told in {**before, **self.told}.items() if oid not in left}
            now = self._chain.publication
            logged = for_log(
                message,
                known,
                self._options.tables,
                self._listed(message),
                publication=self._options.publication,
                wholes={**whole_names(entries, before), **whole_names(now, self.told)},
                new=known_partitions(now).keys() - known_partitions(entries).keys() - before.keys(),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise not_understood(error) from error
        return FollowedMessage(message, logged) if was_tracked or message.installed else None

    def _missed(self, message: SchemaMessage, xid: int) -> SchemaMessage:
        """Of another installation's message only what nobody told: the rest may have been told later than the
        installation looked."""
        chain = self._chain
        chain.publication_is(with_unseen(chain.publication, xid))
        differing = look(self._session, self._options.publication, chain.publication).differences
        missed = tuple(
            change
            for change in message.changes
            if change.oid in differing and self._knew(change.oid, message.snapshot)
        )
        return replace(message, changes=missed)

    def _knew(self, oid: int, snapshot: str) -> bool:
        """Whether it shows what the newest message told of a table."""
        return oid not in self._told_by or not snapshot or is_visible(snapshot, self._told_by[oid])

    def _in_schemas_of_now(self, message: SchemaMessage) -> SchemaMessage:
        """Its command may have run before a schema was renamed, and be committed behind that."""
        if SCHEMAS not in self._chain.publication:
            return message
        if message.rows is not None:
            told = self.told.get(message.rows.oid)
            named = told.name if told is not None else (message.rows.schema, message.rows.table)
            return replace(message, rows=replace(message.rows, schema=named[0], table=named[1]))
        names = {oid: schema.name for oid, schema in self._chain.publication.of(SCHEMAS).items()}
        return replace(message, changes=tuple(requalified(change, names) for change in message.changes))

    def _go_on_without(self, message: SchemaMessage) -> None:
        """The trigger failed. Its state of the object is still the one from before, so the next change of
        that tells this one, too; what rows depend on must be told before the stream passes a look.

        Raises RefusedData (`schema-error`).
        """
        if not self.is_tracked:
            return
        if message.rewrote is None or message.rewrote & self.told.keys():
            raise _failed(message)
        self._chain.publication_is(with_unseen(self._chain.publication, int(message.xid)))
        self.looks_soon = True
        said = {"command": message.tag, "error": message.error}
        logger.warning("schema change is told with the next one of the same object", extra=said)

    def _require_unfiltered(self, rows: TableRows) -> None:
        """Of event triggers that know no row filters. The catalog tells: a filter never changes (P11)."""
        publication = read_publication(self._session, self._options.publication)
        tables = publication.tables if publication is not None else ()
        if any(table.oid == rows.oid and table.is_filtered for table in tables):
            raise refuse_change(
                qualified(rows.schema, rows.table),
                "it was rewritten, and the source's event triggers are too old to know its row filter",
            )

    def _listed(self, message: SchemaMessage) -> dict[int, tuple[int, ...]]:
        """The numbers of the columns of those of its tables that have a column list, or are to have one."""
        known, entries = self.told, self._chain.publication
        lists = {
            change.oid: listed_columns(entries, change.oid)
            if change.oid in known
            else to_be_listed(change, self._options.tables, entries)
            for change in message.changes
            if change.class_ == "table"
        }
        if message.rows is not None:
            lists[message.rows.oid] = listed_columns(entries, message.rows.oid)
        return {oid: listed for oid, listed in lists.items() if listed is not None}

    def _learn(self, message: SchemaMessage, xid: int) -> None:
        chain, was_tracked, before = self._chain, self.is_tracked, self.told
        chain.publication_is(after_message(chain.publication, message, self._options.publication))
        altered = {oid for oid, told in before.items() if self.told.get(oid) != told}
        self._told_by |= dict.fromkeys(altered, xid)
        for oid in altered | {change.oid for change in message.changes}:
            self._suspicions.pop(oid, None)
        if message.installed or (message.removed and was_tracked):
            logger.info("schema changes are tracked from here on" if message.installed else _ENDED)
            self._forget_suspicions()
            self.looks_soon = True

    def _require_limited(self, entries: Entries, before: Mapping[int, Told]) -> None:
        """`entries`, `before`: of before the message. Raises RefusedData (`limit-differs`) if a table took
        the name of one with a list or filter, or became a part of a whole without."""
        self._require_whole(entries, self._chain.publication)
        parts = known_partitions(self._chain.publication)
        for oid, told in self.told.items():
            if oid not in parts and oid in before and before[oid].name != told.name:
                old = before[oid].qualified_name
                require_no_more(entries, oid, old, told.name, self._options.tables)

    def _require_whole(self, before: Entries, after: Entries) -> None:
        require_none_below(before, new_partitions(before, after), self._options.tables)

    def truncated(self, oid: int) -> None:
        """The stream tells that this table was: its partitions have other files, whoever looks at them."""
        for partition in known_partitions(self._chain.publication).values():
            if partition.root == oid:
                self._suspicions.pop(partition.oid, None)
        self._chain.publication_is(without_shapes_below(self._chain.publication, oid))

    def joined(self, join: Join) -> None:
        """A table joins at this place. Raises RefusedData (`limit-differs`) where the stream only told behind
        its transaction's beginning that its name stands for some columns or rows."""
        self._require_known_limit((join.schema, join.table))
        self._chain.publication_is(after_join(self._chain.publication, join.schema, join.table))

    def _require_known_limit(self, name: tuple[str, str]) -> None:
        entries = self._chain.publication
        limited = {each.oid for each in entries.of(LIMITED)}
        joining = [oid for oid, told in self.told.items() if told.joining and told.name == name]
        if limit_before(entries, name, self._options.tables) and limited.isdisjoint(joining):
            raise more_than_limited(f"table {qualified(*name)} joins with all of it")


def _failed(message: SchemaMessage) -> RefusedData:
    return RefusedData(
        f"an event trigger of the source could not tell what {message.tag or 'a command'} did:"
        f" {message.error}",
        code="schema-error",
        hint=refuse_change("", "").hint,
    )
