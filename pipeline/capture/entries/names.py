"""Which tables the log has: the publication's rows in the catalog, and what each table is called. Pure.

A table that left the publication is still the log's: rows from before may come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pipeline.capture.entries.announcements import LEAVES, Leave
from schemas.entries import Entries, Kind, text_kind


@dataclass(frozen=True, slots=True)
class KnownName:
    """The qualified name of a published table."""

    oid: int
    name: str

    @classmethod
    def from_text(cls, text: str) -> KnownName:
        """`oid:schema.name`. Raises ValueError."""
        oid, name = text.split(":", 1)
        return cls(int(oid), name)

    def to_text(self) -> str:
        return f"{self.oid}:{self.name}"


NAMES: Final[Kind[int, KnownName]] = Kind(
    "table", "a table's name", lambda known: known.oid, KnownName.from_text, KnownName.to_text
)
TABLE_ROWS: Final = text_kind("pg_publication_rel", "a table of the publication")
_ROWS: Final = (
    text_kind("pg_publication", "the publication"),
    TABLE_ROWS,
    text_kind("pg_publication_namespace", "a schema of the publication"),
)


def catalog_rows(entries: Entries) -> set[str]:
    """`catalog:oid:xmin` of those that make the publication up."""
    return set(entries.only(*_ROWS).encode())


def named_tables(entries: Entries) -> dict[int, str]:
    """Qualified names by OID."""
    return {oid: known.name for oid, known in entries.of(NAMES).items()}


def logged_tables(entries: Entries) -> dict[int, str]:
    """The same, and of tables that left: rows from before may still come."""
    return {**{oid: leave.name for oid, leave in left_tables(entries).items()}, **named_tables(entries)}


def left_tables(entries: Entries) -> dict[int, Leave]:
    """By OID, the tables that left and have not joined again."""
    listed = entries.of(NAMES)
    return {leave.oid: leave for leave in entries.of(LEAVES).values() if leave.oid not in listed}
