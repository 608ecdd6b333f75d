"""What a verification found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pipeline.reports import NotReplicated

LISTED_KEYS = 100
"""So many differing keys of a table are named; `differing` counts them all."""


class Difference(StrEnum):
    """How a row differs."""

    MISSING = "missing on the replica"
    EXTRA = "only on the replica"
    CHANGED = "values differ"


@dataclass(frozen=True, slots=True)
class DifferingKey:
    """One differing row, by the text of its key's columns; one of a table without key by its digest and
    its ctid. columns: which differ, where both sides have the row and it has a key."""

    key: dict[str, str | None]
    difference: Difference
    columns: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"key": self.key, "difference": self.difference.value, "columns": list(self.columns)}

    def __str__(self) -> str:
        named = ", ".join(f"{column}={value}" for column, value in self.key.items())
        where = f" in {', '.join(self.columns)}" if self.columns else ""
        return f"{named}: {self.difference.value}{where}"


@dataclass(frozen=True, slots=True)
class TableResult:
    """One table, compared as of `lsn`. `rows`: on the source. `problem`: what keeps it from being
    identical, or from being compared at all, other than differing rows; those are counted in
    `differing`, and the first LISTED_KEYS of them named. `left_out`: columns that a policy has the replica go
    without, which were not compared."""

    table: str
    lsn: str
    rows: int
    replica_rows: int
    identical: bool
    differing: int = 0
    differing_keys: tuple[DifferingKey, ...] = ()
    problem: str | None = None
    left_out: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "table": self.table,
            "lsn": self.lsn,
            "rows": self.rows,
            "replica_rows": self.replica_rows,
            "identical": self.identical,
            "differing": self.differing,
            "differing_keys": [key.to_json() for key in self.differing_keys],
            "problem": self.problem,
            "left_out": list(self.left_out),
        }


@dataclass(frozen=True, slots=True)
class SequencesResult:
    """So many sequences were compared as "at or past" where the source's stood when the verification began.
    behind: those that are not, each in words. missing: those that the replica does not have. hidden: those
    that the source role may not read."""

    compared: int
    behind: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "compared": self.compared,
            "behind": list(self.behind),
            "missing": list(self.missing),
            "hidden": list(self.hidden),
        }


@dataclass(frozen=True, slots=True)
class LargeObjectsResult:
    """Of so many that were compared so many differ, and how the first LISTED_KEYS of them, by OID. hidden: so
    many may not be read on one side. They are not followed after the first copy."""

    compared: int
    differing: int
    differing_oids: tuple[tuple[int, Difference], ...]
    hidden: int

    def to_json(self) -> dict[str, Any]:
        return {
            "compared": self.compared,
            "differing": self.differing,
            "differing_oids": [
                {"oid": oid, "difference": difference.value} for oid, difference in self.differing_oids
            ],
            "hidden": self.hidden,
            "followed_after_copy": False,
        }


@dataclass(frozen=True, slots=True)
class Repair:
    """What was done to one differing table, at `lsn`. missing, extra, changed: rows that were brought,
    deleted and replaced. copied_rows: of a table that was copied anew instead. problem: why it could not be
    repaired; remedy: a full sentence."""

    table: str
    lsn: str
    missing: int = 0
    extra: int = 0
    changed: int = 0
    copied_rows: int | None = None
    problem: str | None = None
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "table": self.table,
            "lsn": self.lsn,
            "missing": self.missing,
            "extra": self.extra,
            "changed": self.changed,
            "copied_rows": self.copied_rows,
            "problem": self.problem,
            "remedy": self.remedy,
        }

    def __str__(self) -> str:
        if self.problem is not None:
            return f"not repaired: {self.problem}"
        if self.copied_rows is not None:
            return f"copied anew: {self.copied_rows} rows"
        return f"repaired: {self.missing} rows were missing, {self.extra} only here, {self.changed} different"


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """The whole. `lsn`: source and replica were compared as of this position; a table that was truncated
    or altered meanwhile has a later one of its own, and then `lsn` is the latest. `notes`: what the
    replica has more than the source, and what was left out. `large_objects`: None unless that was asked for.
    `held_s`: how long the replica was kept from going on freely. `repairs`: what was done to tables that
    differed, whose results are those of the comparison after that, at the same LSN; None: nothing was to be
    repaired."""

    replica: str
    lsn: str
    tables: tuple[TableResult, ...]
    not_replicated: tuple[NotReplicated, ...]
    notes: tuple[str, ...]
    sequences: SequencesResult
    large_objects: LargeObjectsResult | None
    held_s: float
    took_s: float
    repairs: tuple[Repair, ...] | None = None

    @property
    def identical(self) -> bool:
        others = self.sequences.behind or (self.large_objects and self.large_objects.differing)
        return all(table.identical for table in self.tables) and not others

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables)

    def to_json(self) -> dict[str, Any]:
        repaired = {} if self.repairs is None else {"repairs": [each.to_json() for each in self.repairs]}
        return {
            "replica": self.replica,
            "identical": self.identical,
            "lsn": self.lsn,
            "rows": self.rows,
            "tables": [table.to_json() for table in self.tables],
            "not_replicated": [left_out.model_dump() for left_out in self.not_replicated],
            "notes": list(self.notes),
            "sequences": self.sequences.to_json(),
            "large_objects": self.large_objects and self.large_objects.to_json(),
            "held_s": round(self.held_s, 3),
            "took_s": round(self.took_s, 3),
            **repaired,
        }
