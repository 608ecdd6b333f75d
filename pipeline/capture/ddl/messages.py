"""Schema messages at work in one capture: which count, and what the log knows behind them.

Tracking begins exactly at the message that the event triggers' installation wrote, or with the log where they
were there already; it ends at that of their removal.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from connectors.postgres.catalog.publication import read_publication
from connectors.postgres.copy.visibility import is_visible
from connectors.postgres.session import Session
from pipeline.capture.ddl.authentic import Authenticity, key_missing, not_understood
from pipeline.capture.ddl.judging import after_join, after_message
from pipeline.capture.ddl.limited import to_be_listed
from pipeline.capture.ddl.logged import for_log
from pipeline.capture.ddl.looking import look
from pipeline.capture.ddl.suspicions import Suspicions
from pipeline.capture.entries.ended import NOT_TRACKED
from pipeline.capture.entries.limitednames import require_known_limit, require_limits_kept
from pipeline.capture.entries.names import left_tables
from pipeline.capture.entries.partitions import known_partitions, whole_names
from pipeline.capture.entries.schemachange import refuse_change
from pipeline.capture.entries.shapes import listed_columns
from pipeline.capture.entries.told import SCHEMAS, TOLD, Told, is_tracked, with_unseen
from pipeline.capture.options import CaptureOptions
from pipeline.capture.writing.chainwriter import ChainWriter
from pipeline.config.model import Tables
from schemas.change import Message
from schemas.ddl.message import SchemaMessage, TableRows
from schemas.ddl.requalify import requalified
from schemas.entries import Entries
from schemas.errors import RefusedData
from schemas.identifiers import qualified
from schemas.join import Join

logger = logging.getLogger("keepstream.capture")


@dataclass(frozen=True, slots=True)
class FollowedMessage:
    """A message that counts, and what of it has a place in the log; None: nothing."""

    message: SchemaMessage
    logged: SchemaMessage | None


class Messages:
    """Of one connection. All of it is called in the thread that decodes."""

    def __init__(
        self, session: Session, chain: ChainWriter, options: CaptureOptions, suspicions: Suspicions
    ) -> None:
        self._session = session
        self._chain = chain
        self._options = options
        self._suspicions = suspicions
        self._authenticity = Authenticity(session)
        self._told_by: dict[int, int] = {}

    @property
    def told(self) -> Mapping[int, Told]:
        """By OID, what schema messages told of tables in the log."""
        return self._chain.publication.of(TOLD)

    @property
    def _is_tracked(self) -> bool:
        return is_tracked(self._chain.publication)

    def open(self) -> None:
        """Before the first message. Raises OperatorNeeded (`ddl-key-missing`, `privilege-missing`)."""
        if self._is_tracked and self._authenticity.learn() is None:
            raise key_missing()

    def begin(self) -> None:
        """A transaction begins."""
        self._authenticity.begin()

    def follow(self, payload: Message, xid: int) -> FollowedMessage | None:
        """A message of this prefix; None of one that says nothing here.

        From here on the log knows what it tells. Raises HistoryBroken (`publication-changed`), RefusedData
        (`schema-changed`, `schema-error`, `limit-differs`), and what `Authenticity.genuine` raises.
        """
        message = self._authenticity.genuine(
            payload.prefix, payload.content, xid=xid, is_tracked=self._is_tracked
        )
        if message is None:
            return None
        if message.error:
            self._go_on_without(message)
            return None
        if message.rows is not None and message.rows.filters is None:
            self._require_unfiltered(message.rows)
        entries, was_tracked, before = self._chain.publication, self._is_tracked, self.told
        message = _in_schemas_of_now(message, entries)
        if message.installed and was_tracked:
            message = self._missed(message, xid)
        try:
            self._learn(message, xid)
            now = self._chain.publication
            require_limits_kept(entries, now, self._options.tables)
            left = left_tables(now)
            known = {oid: told for oid, told in {**before, **self.told}.items() if oid not in left}
            logged = for_log(
                message,
                known,
                self._options.tables,
                _listed(message, now, self._options.tables),
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

    def _go_on_without(self, message: SchemaMessage) -> None:
        """The trigger failed. Its state of the object is still the one from before, so the next change of
        that tells this one, too; what rows depend on must be told before the stream passes a look.

        Raises RefusedData (`schema-error`).
        """
        if not self._is_tracked:
            return
        if message.rewrote is None or message.rewrote & self.told.keys():
            raise _failed(message)
        self._chain.publication_is(with_unseen(self._chain.publication, int(message.xid)))
        self._suspicions.looks_soon = True
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

    def _learn(self, message: SchemaMessage, xid: int) -> None:
        chain, was_tracked, before = self._chain, self._is_tracked, self.told
        chain.publication_is(after_message(chain.publication, message, self._options.publication))
        altered = {oid for oid, told in before.items() if self.told.get(oid) != told}
        self._told_by |= dict.fromkeys(altered, xid)
        for oid in altered | {change.oid for change in message.changes}:
            self._suspicions.clear(oid)
        if message.installed or (message.removed and was_tracked):
            logger.info("schema changes are tracked from here on" if message.installed else NOT_TRACKED)
            self._suspicions.forget()
            self._suspicions.looks_soon = True

    def joined(self, join: Join) -> None:
        """A table joins at this place. Raises RefusedData (`limit-differs`) where the stream only told behind
        its transaction's beginning that its name stands for some columns or rows."""
        chain = self._chain
        require_known_limit(chain.publication, (join.schema, join.table), self._options.tables)
        chain.publication_is(after_join(chain.publication, join.schema, join.table))


def _in_schemas_of_now(message: SchemaMessage, entries: Entries) -> SchemaMessage:
    """Its command may have run before a schema was renamed, and be committed behind that."""
    if SCHEMAS not in entries:
        return message
    if message.rows is not None:
        told = entries.of(TOLD).get(message.rows.oid)
        named = told.name if told is not None else (message.rows.schema, message.rows.table)
        return replace(message, rows=replace(message.rows, schema=named[0], table=named[1]))
    names = {oid: schema.name for oid, schema in entries.of(SCHEMAS).items()}
    return replace(message, changes=tuple(requalified(change, names) for change in message.changes))


def _listed(message: SchemaMessage, entries: Entries, tables: Tables) -> dict[int, tuple[int, ...]]:
    """The numbers of the columns of those of its tables that have a column list, or are to have one."""
    known = entries.of(TOLD)
    lists = {
        change.oid: listed_columns(entries, change.oid)
        if change.oid in known
        else to_be_listed(change, tables, entries)
        for change in message.changes
        if change.class_ == "table"
    }
    if message.rows is not None:
        lists[message.rows.oid] = listed_columns(entries, message.rows.oid)
    return {oid: listed for oid, listed in lists.items() if listed is not None}


def _failed(message: SchemaMessage) -> RefusedData:
    return RefusedData(
        f"an event trigger of the source could not tell what {message.tag or 'a command'} did:"
        f" {message.error}",
        code="schema-error",
        hint=refuse_change("", "").hint,
    )
