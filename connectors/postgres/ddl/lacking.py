"""What a replica goes without, kept true while it follows a schema change: columns and tables that a policy
leaves out, rows that are still to be copied, statements that could not be made."""

from __future__ import annotations

import logging
from typing import Final

from connectors.postgres.ddl import left_out, partitions
from connectors.postgres.ddl.left_out import LeftOut
from connectors.postgres.ddl.render import shown
from connectors.postgres.replica import deferred, deferred_keys
from connectors.postgres.replica.deferred import IGNORED, Deferred
from connectors.postgres.session import Session
from schemas.ddl.kinds import Kind
from schemas.ddl.step import Manner, Phase, Step
from schemas.identifiers import qualified

logger = logging.getLogger("keepstream.apply")

_WITHOUT_COLUMN: Final = "the replica goes without this column"


class Lacking:
    """Of one replica, in the session's open target transaction. `look` at each message."""

    def __init__(self, conn: Session, *, pipeline: str, replica: str) -> None:
        self._conn = conn
        self._pipeline = pipeline
        self._replica = replica
        self._left_out = LeftOut()

    def look(self) -> None:
        self._left_out = left_out.read(self._conn, self._pipeline)

    def has_left_out(self, table: tuple[str, str]) -> bool:
        """Whether a policy leaves the table out."""
        return table in self._left_out.tables

    def awaits(self, table: tuple[str, str]) -> bool:
        """Whether its rows are still to be copied."""
        return table in self._left_out.awaiting

    @property
    def awaiting(self) -> frozenset[tuple[str, str]]:
        """All tables whose rows are still to be copied."""
        return self._left_out.awaiting

    def has_no_column(self, step: Step) -> bool:
        """Whether the replica lacks the step's column: by a policy, or prepared without what is not
        listed."""
        if (*step.object, step.column) in self._left_out.columns:
            return True
        is_unlisted = step.column in step.unlisted and step.kind is not Kind.ADD_COLUMN
        return is_unlisted and bool(left_out.lacking(self._conn, step.table, (step.column,)))

    def may_lack_columns(self, step: Step) -> bool:
        """Whether the step may be about columns that are not there. A sequence may be owned by such a column
        of a table that its step does not know."""
        if step.needs is None or step.kind is Kind.SEQUENCE:
            return step.kind is Kind.SEQUENCE
        is_without = any(self._left_out.columns_of(*step.needs))
        return is_without or bool(left_out.lacking(self._conn, step.needs, step.unlisted))

    def keep(self, kind: str, step: Step, reason: str) -> None:
        """The replica goes without what the step makes."""
        deferred.keep(self._conn, self._pipeline, Deferred(kind, step.shown, reason, shown(step)))
        logger.warning("schema change left out", extra={"object": step.shown, "reason": reason})

    def leave_out(self, table: tuple[str, str], column: str = "") -> None:
        left_out.add(self._conn, self._pipeline, table, column)
        self.look()

    def await_copy(self, table: tuple[str, str]) -> None:
        """Its rows are not in the log."""
        left_out.await_copy(self._conn, self._pipeline, table, replica=self._replica)
        self.look()

    def note_rows(self, step: Step) -> None:
        """A table that is gone, or whose rows come now under the name of a whole, awaits no copy any more.
        The list has the source's names, under which rows come, whatever becomes of the step here."""
        if step.kind is Kind.DROP_TABLE or (step.kind is Kind.ATTACH_PARTITION and step.whole):
            left_out.has_rows(self._conn, self._pipeline, step.table)
        elif step.kind is Kind.DETACH_PARTITION and step.is_published:
            self._note_rows_of_own(step)
        elif step.kind is Kind.SCHEMA and step.phase is Phase.RENAME:
            left_out.rename_schema(self._conn, self._pipeline, step.object[0], to=step.last_name)
        elif step.needs is not None and (new := step.new_name) is not None:  # a function needs none
            left_out.rename(self._conn, self._pipeline, step.table, to=new)

    def _note_rows_of_own(self, step: Step) -> None:
        """Rows that a table had in a whole come under its own name again. The replica has none of them if the
        whole awaits its copy, and only those of long ago if the table was no partition of it here."""
        if not step.whole or not partitions.is_there(self._conn, step.table):
            return
        if self.awaits(step.holder) or not partitions.is_mirrored(self._conn, step):
            self.await_copy(step.table)

    def note_unjoined(self, step: Step) -> None:
        """A table that leaves a whole whose rows are not here, and that the replica does not have: its join
        makes it as it is on the source by then."""
        if step.kind is Kind.DETACH_PARTITION and not partitions.is_there(self._conn, step.table):
            reason = "the replica has no such table until it joins"
            kept = Deferred(deferred.JOINS_LATER, qualified(*step.table), reason, f"-- {reason}")
            deferred.keep(self._conn, self._pipeline, kept)

    def note_joined(self, step: Step) -> None:
        """A table that becomes part of a whole again does not join by itself any more."""
        if step.kind is Kind.ATTACH_PARTITION:
            deferred.take_back(self._conn, self._pipeline, deferred.JOINS_LATER, qualified(*step.table))

    def joins_later(self, table: tuple[str, str]) -> bool:
        """Whether it is such a table."""
        return deferred.has(self._conn, self._pipeline, deferred.JOINS_LATER, qualified(*table))

    def note_column(self, step: Step) -> None:
        """A column that the replica goes without changed on the source."""
        is_kept = (*step.object, step.column) in self._left_out.columns
        if step.renamed:
            left_out.rename_column(self._conn, self._pipeline, step.table, step.column, to=step.renamed)
            if is_kept:
                self.keep(IGNORED, step, _WITHOUT_COLUMN)
                new = qualified(*step.object, step.renamed)
                deferred.call(self._conn, self._pipeline, IGNORED, step.shown, new)
        elif step.drops:
            left_out.forget(self._conn, self._pipeline, step.table, step.column)
            deferred.take_back(self._conn, self._pipeline, IGNORED, step.shown)
        else:
            self.keep(IGNORED, step, _WITHOUT_COLUMN)
        self.look()

    def note_table(self, step: Step, table: tuple[str, str]) -> None:
        """A table that the replica goes without changed on the source."""
        new = step.new_name
        if step.manner in (Manner.EMPTY, Manner.AWAIT):
            return  # no statement of the source's
        if new is None:
            self.keep(IGNORED, step, "the replica goes without this table")
        else:
            left_out.rename(self._conn, self._pipeline, table, to=new)
            self.look()

    def rename_key(self, step: Step) -> bool:
        """Whether it renames a foreign key of which something waits to be made."""
        if not step.renamed:
            return False
        return deferred_keys.rename_key(self._conn, self._pipeline, step.object, step.member, step.renamed)

    def note_gone(self, step: Step) -> None:
        """What is kept of it in the replica is called otherwise, or not wanted any more."""
        is_schema = step.kind is Kind.SCHEMA and step.phase is Phase.RENAME
        new = (step.last_name,) if is_schema else step.new_name
        if step.drops:
            deferred.take_back(self._conn, self._pipeline, IGNORED, step.shown)
        if step.kind is Kind.DROP_TABLE:
            left_out.forget(self._conn, self._pipeline, step.table)
            deferred.forget_table(self._conn, self._pipeline, step.table)
        elif step.kind is Kind.DETACH_PARTITION and step.needs is not None:
            deferred_keys.hand_down(self._conn, self._pipeline, step.needs, step.table)
        elif step.column and step.renamed:
            deferred_keys.rename_column(self._conn, self._pipeline, step.object, step.column, step.renamed)
        elif step.kind in (Kind.TRIGGER, Kind.RULE) and step.phase is not Phase.RENAME:
            deferred.take_back(self._conn, self._pipeline, step.kind.value, step.shown)
        elif new is not None:
            deferred.rename(self._conn, self._pipeline, step.object, new)
