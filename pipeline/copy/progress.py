"""How far a first copy has come, and what it costs the source meanwhile.

The meter counts what workers move; `CopyMeter.progress` is pure in what it counted and the time it is
given. Bytes are those of COPY's text. How many there will be is not known before the end: what is
left is estimated from tables' sizes on disk and the ratio seen so far.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum

from connectors.postgres.copy.part_copier import Part
from connectors.postgres.copy.snapshot import Blocker


class CopyPhase(Enum):
    """The steps, in order. CLEARING happens only after a copy that was killed or begun anew."""

    PREPARING = "preparing"
    CLEARING = "clearing"
    SNAPSHOT = "snapshot"
    SCHEMA = "schema"
    ROWS = "rows"
    LARGE_OBJECTS = "large objects"
    INDEXES = "indexes"
    ANALYZE = "analyze"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class TableProgress:
    """A table whose copy has begun. rows_estimated is None if it was never analyzed."""

    table: str
    rows_done: int
    rows_estimated: int | None
    bytes_done: int
    parts_done: int
    parts: int


@dataclass(frozen=True, slots=True)
class CopyProgress:
    """One look at a copy. None: not known, or not now.

    items: objects made, of the phases SCHEMA and INDEXES. blockers: open transactions and locks that
    the copy waits for. source_xmin_age: since how many transactions the source keeps dead rows for
    the snapshot. attempt: grows when a changed table or a lost session cost the snapshot; restart_reason
    says which. left_out: what the replica is made without, and why.
    """

    phase: CopyPhase
    attempt: int
    tables_done: int = 0
    tables_total: int = 0
    rows_done: int = 0
    rows_estimated: int | None = None
    bytes_done: int = 0
    bytes_estimated: int | None = None
    rows_per_s: float | None = None
    bytes_per_s: float | None = None
    eta_s: float | None = None
    items_done: int = 0
    items_total: int = 0
    item: str = ""
    snapshot_lsn: str | None = None
    snapshot_age_s: float | None = None
    source_xmin_age: int | None = None
    blockers: tuple[Blocker, ...] = ()
    restart_reason: str = ""
    left_out: tuple[str, ...] = ()
    tables: tuple[TableProgress, ...] = ()


def figures(seen: CopyProgress) -> dict[str, object]:
    """For a stage's report, whose `copy` it is."""
    return asdict(seen) | {"phase": seen.phase.value, "blockers": [str(each) for each in seen.blockers]}


@dataclass(slots=True)
class _Moved:
    rows: int = 0
    bytes: int = 0
    done: bool = False


@dataclass(slots=True)
class CopyMeter:
    """Counts. `moved`, `finished` and `failed` are called by workers, the rest by the copy's own thread."""

    phase: CopyPhase = CopyPhase.PREPARING
    attempt: int = 1
    items_done: int = 0
    items_total: int = 0
    item: str = ""
    snapshot_lsn: str | None = None
    snapshot_taken_at: float | None = None
    source_xmin_age: int | None = None
    blockers: tuple[Blocker, ...] = ()
    restart_reason: str = ""
    left_out: tuple[str, ...] = ()
    _parts: Sequence[Part] = ()
    _moved: dict[tuple[str, str, int], _Moved] = field(default_factory=dict)
    _rows_started_at: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def plan(self, parts: Sequence[Part], now: float) -> None:
        """The rows begin to move."""
        with self._lock:
            self._parts, self._moved, self._rows_started_at = parts, {}, now

    def begin_items(self, phase: CopyPhase, total: int) -> None:
        self.phase, self.items_done, self.items_total, self.item = phase, 0, total, ""

    def made_item(self, item: str) -> None:
        """pg_restore has made an object."""
        self.items_done += 1
        self.item = item

    def leave_out(self, told: Iterable[str]) -> None:
        self.left_out = tuple(dict.fromkeys((*self.left_out, *told)))

    def moved(self, part: Part, rows: int, size: int) -> None:
        with self._lock:
            seen = self._moved.setdefault(part.key, _Moved())
            seen.rows += rows
            seen.bytes += size

    def finished(self, part: Part, rows: int) -> None:
        with self._lock:
            seen = self._moved.setdefault(part.key, _Moved())
            seen.rows, seen.done = rows, True

    def failed(self, part: Part) -> None:
        """The part was rolled back; it will come again."""
        with self._lock:
            self._moved.pop(part.key, None)

    def parts_done(self) -> int:
        with self._lock:
            return sum(seen.done for seen in self._moved.values())

    def progress(self, now: float) -> CopyProgress:
        with self._lock:
            tables = _tables(self._parts, self._moved)
            estimated = _estimate(self._parts, self._moved, tables)
        rows, size = sum(t.rows_done for t in tables), sum(t.bytes_done for t in tables)
        in_rows = self.phase is CopyPhase.ROWS
        elapsed_s = max(now - self._rows_started_at, 1e-3)
        rate = size / elapsed_s if in_rows else None
        return CopyProgress(
            phase=self.phase,
            attempt=self.attempt,
            tables_done=sum(t.parts_done == t.parts for t in tables),
            tables_total=len({p.table.oid for p in self._parts}),
            rows_done=rows,
            rows_estimated=_rows_estimate(self._parts, tables, rows),
            bytes_done=size,
            bytes_estimated=estimated if self._parts else None,
            rows_per_s=rows / elapsed_s if in_rows else None,
            bytes_per_s=rate,
            eta_s=(estimated - size) / rate if rate else None,
            items_done=self.items_done,
            items_total=self.items_total,
            item=self.item,
            snapshot_lsn=self.snapshot_lsn,
            snapshot_age_s=None if self.snapshot_taken_at is None else now - self.snapshot_taken_at,
            source_xmin_age=self.source_xmin_age,
            blockers=self.blockers,
            restart_reason=self.restart_reason,
            left_out=self.left_out,
            tables=tuple(tables),
        )


def _tables(parts: Sequence[Part], moved: dict[tuple[str, str, int], _Moved]) -> list[TableProgress]:
    begun: dict[int, list[tuple[Part, _Moved]]] = {}
    for part in parts:
        seen = moved.get(part.key)
        if seen is not None:
            begun.setdefault(part.table.oid, []).append((part, seen))
    return [
        TableProgress(
            table=seen[0][0].table.qualified_name,
            rows_done=sum(m.rows for _, m in seen),
            rows_estimated=seen[0][0].table.rows_estimated,
            bytes_done=sum(m.bytes for _, m in seen),
            parts_done=sum(m.done for _, m in seen),
            parts=seen[0][0].of,
        )
        for seen in begun.values()
    ]


def _estimate(
    parts: Sequence[Part], moved: dict[tuple[str, str, int], _Moved], tables: Sequence[TableProgress]
) -> int:
    """All bytes of COPY there will be. Of a table that moves: by its rows; of others by their size on disk,
    in the ratio seen in finished parts."""
    done = [part for part in parts if part.key in moved and moved[part.key].done]
    on_disk = sum(part.size_bytes for part in done)
    ratio = min(10.0, sum(moved[part.key].bytes for part in done) / on_disk) if on_disk else 1.0
    begun = {table.table: table for table in tables}
    estimated = 0.0
    for table in {part.table.oid: part.table for part in parts}.values():
        seen = begun.get(table.qualified_name)
        if seen is None:
            estimated += table.size_bytes * ratio
        elif seen.parts_done == seen.parts:
            estimated += seen.bytes_done
        elif seen.rows_done and seen.rows_estimated:
            estimated += seen.bytes_done * max(1.0, seen.rows_estimated / seen.rows_done)
        else:
            estimated += max(seen.bytes_done, table.size_bytes * ratio)
    return round(estimated)


def _rows_estimate(parts: Sequence[Part], tables: Sequence[TableProgress], rows_done: int) -> int | None:
    """None where nothing is known of tables that make more than a tenth of it all: nobody analyzed them."""
    known = {part.table.oid: part.table for part in parts}.values()
    unknown_bytes = sum(table.size_bytes for table in known if table.rows_estimated is None)
    if not known or unknown_bytes * 10 > sum(table.size_bytes for table in known):
        return None
    of_unknown = sum(table.rows_done for table in tables if table.rows_estimated is None)
    return max(rows_done, of_unknown + sum(table.rows_estimated or 0 for table in known))
