"""What the changes of one command say together: PostgreSQL does to children what it does to their parent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from schemas.ddl.message import SENT, TOO_LARGE, UNPUBLISHED, ObjectChange, State


class Command:
    """All objects that one command changed, to be asked about each other."""

    def __init__(self, changes: Sequence[ObjectChange]) -> None:
        self.changes = tuple(changes)
        self._tables = [change for change in self.changes if change.class_ == "table"]
        self._schemas = {
            change.before["name"]: change.after["name"]
            for change in self.changes
            if change.class_ == "schema" and change.before and change.after
        }

    def called_now(self, table: list[str] | None) -> list[str] | None:
        """The name that a table of this name from before has after the command."""
        for change in self._tables:
            if change.before is not None and [change.before["schema"], change.before["name"]] == table:
                state = change.after or change.before
                return [state["schema"], state["name"]]
        return table

    @property
    def rewrites(self) -> bool:
        """Whether replicas get rows of any table anew: they follow, or are to be copied."""
        return any(change.rewritten in (SENT, TOO_LARGE) for change in self.changes)

    @property
    def rewrites_unseen(self) -> bool:
        """Whether rows were rewritten that neither log nor replica has: those of a table that is still to
        join, or none of a partitioned table without partitions."""
        is_unseen = any(change.rewritten == UNPUBLISHED for change in self.changes)
        return is_unseen or all((change.after or {}).get("kind") == "p" for change in self._tables)

    def in_renamed_schema(self, state: State | None) -> State | None:
        """A state from before a schema was renamed, as it is after that."""
        if state is None or state.get("schema") not in self._schemas:
            return state
        return {**state, "schema": self._schemas[state["schema"]]}

    def missing(self, column: str) -> tuple[bool, str | None]:
        """Whether older rows have a constant in the new column of this name, and which: a partitioned table
        knows none, but its partitions do."""
        for change in self._tables:
            for each in _columns(change.after):
                if each["name"] == column and each["has_missing"]:
                    return True, each["missing"]
        return False, None

    def children_keep(self, table: tuple[str, str], member: str, *, among: str = "columns") -> bool:
        """Whether the table has children in this command, and each of them still has the column, or the
        constraint, as its own: what another parent gives it stays by itself."""
        children = [
            change.after
            for change in self._tables
            if change.after and list(table) in (change.after.get("inherits") or ())
        ]
        kept = [any(each["name"] == member and each["local"] for each in child[among]) for child in children]
        return bool(kept) and all(kept)

    def has_child_index(self, oid: int) -> bool:
        """Whether a table got an index that belongs to this one of its parent, which is new, too."""
        return any(
            index["parent"] == oid
            for change in self._tables
            for index in (change.after or {}).get("indexes", ())
        )


def _columns(state: State | None) -> Sequence[dict[str, Any]]:
    return state["columns"] if state is not None else ()
