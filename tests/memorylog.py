"""A change log in memory, as much of one as reading needs."""

from __future__ import annotations

from connectors.interfaces import Bounds, Record

STEP = 5


class MemoryLog:
    """Records whose places are their indexes. Goes back by few records at a time."""

    name = "memory"

    def __init__(self, records: list[bytes], *, first: int = 0) -> None:
        self.records = records
        self.first = first
        self.scanned_from: list[int] = []

    def bounds(self) -> Bounds:
        return Bounds(self.first, len(self.records))

    def rewind(self, place: int, times: int = 1, *, first: int) -> int:
        return max(first, place - times * STEP)

    def reader(self, place: int | None = None) -> MemoryReader:
        begin = self.first if place is None else place
        self.scanned_from.append(begin)
        return MemoryReader(self.records, begin)


class MemoryReader:
    """Gives everything that is there at once."""

    def __init__(self, records: list[bytes], place: int) -> None:
        self._records = records
        self.place = place

    def read(self, timeout_s: float) -> list[Record]:
        first, self.place = self.place, len(self._records)
        return [Record(i, i + 1, self._records[i]) for i in range(first, self.place)]

    def close(self) -> None: ...


class SlowReader(MemoryReader):
    """Gives one record a read, and every other time none."""

    halts = True

    def read(self, timeout_s: float) -> list[Record]:
        self.halts = not self.halts
        records = [] if self.halts else super().read(timeout_s)[:1]
        self.place = records[-1].next_place if records else self.place
        return records


class SlowLog(MemoryLog):
    """Its readers are slow. `last_reader`: the one made last."""

    def reader(self, place: int | None = None) -> MemoryReader:
        self.last_reader = SlowReader(self.records, place or 0)
        return self.last_reader
