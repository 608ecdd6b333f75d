"""What a verification found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pipeline.reports import NotReplicated

LISTED_KEYS = 100
"""So many differing keys of a table are named; `differing` counts all that were found."""


class Difference(StrEnum):
    """How a row differs."""

    MISSING = "missing on the replica"
    EXTRA = "only on the replica"
    CHANGED = "values differ"


@dataclass(frozen=True, slots=True)
class DifferingKey:
    """One differing row, by the text of its key's columns; a table without key is named by the
    digest of the row."""

    key: dict[str, str | None]
    difference: Difference

    def to_json(self) -> dict[str, Any]:
        return {"key": self.key, "difference": self.difference.value}

    def __str__(self) -> str:
        named = ", ".join(f"{column}={value}" for column, value in self.key.items())
        return f"{named}: {self.difference.value}"


@dataclass(frozen=True, slots=True)
class TableResult:
    """One table. `rows`: on the source. `problem`: why its rows could not be compared at all."""

    table: str
    rows: int
    replica_rows: int
    identical: bool
    differing: int = 0
    differing_keys: tuple[DifferingKey, ...] = ()
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "table": self.table,
            "rows": self.rows,
            "replica_rows": self.replica_rows,
            "identical": self.identical,
            "differing": self.differing,
            "differing_keys": [key.to_json() for key in self.differing_keys],
            "problem": self.problem,
        }


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """The whole. `lsn`: source and replica were compared as of this position."""

    replica: str
    lsn: str
    tables: tuple[TableResult, ...]
    not_replicated: tuple[NotReplicated, ...]
    held_s: float
    took_s: float

    @property
    def identical(self) -> bool:
        return all(table.identical for table in self.tables)

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables)

    def to_json(self) -> dict[str, Any]:
        return {
            "replica": self.replica,
            "identical": self.identical,
            "lsn": self.lsn,
            "rows": self.rows,
            "tables": [table.to_json() for table in self.tables],
            "not_replicated": [left_out.model_dump() for left_out in self.not_replicated],
            "held_s": round(self.held_s, 3),
            "took_s": round(self.took_s, 3),
        }
