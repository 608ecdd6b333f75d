"""Packing decoded changes into frame bodies (P3). Sans-I/O: changes in, bodies out.

Small transactions share a frame; a transaction that outgrows `target_bytes` becomes part frames
1 … k; a change that alone outgrows it is cut into fragments. Memory is bounded by the target and
the largest single change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from schemas.frame import FRAME_TARGET_BYTES, Commit, Fragment
from schemas.framecodec import encode_part, encode_transaction, encode_transactions
from schemas.lsn import Lsn, Position
from schemas.table import TableSchema


@dataclass(frozen=True, slots=True)
class PackedBody:
    """A frame body ready to be sealed. `position`: where the log stands after it, None inside a
    transaction."""

    body: bytes
    tables: tuple[TableSchema, ...]
    position: Position | None
    changes: int
    transactions: int


@dataclass(slots=True)
class _Open:
    """The transaction being received."""

    xid: int
    commit_lsn: Lsn
    commit_time: int
    origin: str | None = None
    part: int = 0


class FramePacker:
    """Feed `begin`, `add`, `commit` in stream order; take what each returns; `flush` when idle.

    `live` are the table versions that the log already holds, by id; versions that are not among
    them travel in the first frame that needs them, and never in one before the transaction that
    brought them: should that be voided, a capture that continues must find them new again (P7).
    """

    def __init__(self, live: Iterable[TableSchema], *, target_bytes: int = FRAME_TARGET_BYTES) -> None:
        self._target_bytes = target_bytes
        self._live = {table.id: table for table in live}
        self._new_tables: list[TableSchema] = []
        self._open_tables: list[TableSchema] = []
        self._whole: list[bytes] = []
        self._whole_count = 0
        self._whole_bytes = 0
        self._whole_changes = 0
        self._position: Position | None = None
        self._open: _Open | None = None
        self._changes: list[bytes] = []
        self._change_count = 0
        self._change_bytes = 0

    @property
    def live_tables(self) -> tuple[TableSchema, ...]:
        """All versions that rows may still use: what an ANCHOR must carry (P6)."""
        return tuple(self._live.values())

    @property
    def holds_transactions(self) -> bool:
        """Whether `flush` would return something."""
        return bool(self._whole)

    @property
    def held_bytes(self) -> int:
        """What the next frame holds of whole transactions."""
        return self._whole_bytes

    @property
    def target_bytes(self) -> int:
        """What a frame holds, or one transaction or change more."""
        return self._target_bytes

    @property
    def room_bytes(self) -> int:
        """How much more of the open transaction goes into one frame."""
        return self._target_bytes - self._change_bytes

    def begin(self, *, xid: int, commit_lsn: Lsn, commit_time: int) -> None:
        """A transaction begins. `commit_time` is in µs since 1970 UTC."""
        self._open = _Open(xid, commit_lsn, commit_time)

    def set_origin(self, origin: str) -> None:
        """The open transaction came from elsewhere (pgoutput's Origin)."""
        assert self._open is not None
        self._open.origin = origin

    def need(self, table: TableSchema) -> None:
        """Rows of this version follow. A newer version of a table replaces the older one."""
        if table.id in self._live:
            return
        outdated = [t.id for t in self._live.values() if (t.schema, t.name) == (table.schema, table.name)]
        for table_id in outdated:
            del self._live[table_id]
        self._live[table.id] = table
        (self._new_tables if self._open is None else self._open_tables).append(table)

    def forget(self, table: TableSchema) -> None:
        """No row of this version follows: the table has another name, or is gone."""
        self._live.pop(table.id, None)

    def add(self, change: bytes) -> Iterable[PackedBody]:
        """The next encoded change of the open transaction."""
        self._change_bytes += len(change)
        if self._change_bytes <= self._target_bytes:
            self._changes.append(change)
            self._change_count += 1
            return ()
        self._change_bytes -= len(change)
        return self._add_past_target(change)

    def _add_past_target(self, change: bytes) -> Iterator[PackedBody]:
        if self._change_bytes:
            yield from self._spill()
        if len(change) > self._target_bytes:
            yield from self._cut(change)
            return
        self._changes.append(change)
        self._change_count = 1
        self._change_bytes = len(change)

    def add_many(self, changes: bytes, count: int) -> None:
        """As many changes of the open transaction, of at most `room_bytes`."""
        self._changes.append(changes)
        self._change_count += count
        self._change_bytes += len(changes)

    def take(self, transactions: bytes, count: int, changes: int, position: Position) -> Iterator[PackedBody]:
        """As many whole transactions, encoded, which fit into the next frame. `position`: after the last."""
        self._whole.append(transactions)
        self._whole_count += count
        self._whole_bytes += len(transactions)
        self._whole_changes += changes
        self._position = position
        if self._whole_bytes >= self._target_bytes:
            yield from self.flush()

    def commit(self, *, end_lsn: Lsn) -> Iterator[PackedBody]:
        """The open transaction is complete."""
        opened = self._open
        assert opened is not None
        self._open = None
        if opened.part:
            yield self._last_part(opened, Commit(end_lsn, opened.origin))
            return
        encoded = encode_transaction(
            xid=opened.xid,
            commit_lsn=opened.commit_lsn,
            end_lsn=end_lsn,
            commit_time=opened.commit_time,
            origin=opened.origin,
            changes=self._changes,
            count=self._change_count,
        )
        if self._whole and self._whole_bytes + len(encoded) > self._target_bytes:
            yield from self.flush()
        self._take_open_tables()
        changes = self._change_count
        self._forget_changes()
        yield from self.take(encoded, 1, changes, Position(end_lsn, opened.xid, opened.commit_time))

    def flush(self) -> Iterator[PackedBody]:
        """What is complete and was not handed out yet."""
        if not self._whole:
            return
        body = PackedBody(
            encode_transactions(self._whole, self._whole_count),
            self._take_tables(),
            self._position,
            self._whole_changes,
            self._whole_count,
        )
        self._whole, self._whole_count, self._whole_bytes, self._whole_changes = [], 0, 0, 0
        yield body

    def _spill(self) -> Iterator[PackedBody]:
        """Hand out the open transaction's changes as a part."""
        yield from self.flush()
        yield self._part(None)

    def _cut(self, change: bytes) -> Iterator[PackedBody]:
        """Hand out one oversized change as fragments, each in a part of its own."""
        if self._changes:
            yield from self._spill()
        yield from self.flush()
        view = memoryview(change)
        for start in range(0, len(change), self._target_bytes):
            end = start + self._target_bytes
            yield self._part(Fragment(bytes(view[start:end]), last=end >= len(change)))

    def _part(self, fragment: Fragment | None) -> PackedBody:
        opened = self._open
        assert opened is not None
        opened.part += 1
        count = self._change_count + (1 if fragment is not None and fragment.last else 0)
        body = encode_part(
            xid=opened.xid,
            commit_lsn=opened.commit_lsn,
            commit_time=opened.commit_time,
            part=opened.part,
            changes=self._changes,
            fragment=fragment,
            commit=None,
            count=self._change_count,
        )
        self._forget_changes()
        self._take_open_tables()
        return PackedBody(body, self._take_tables(), None, count, 0)

    def _last_part(self, opened: _Open, commit: Commit) -> PackedBody:
        body = encode_part(
            xid=opened.xid,
            commit_lsn=opened.commit_lsn,
            commit_time=opened.commit_time,
            part=opened.part + 1,
            changes=self._changes,
            fragment=None,
            commit=commit,
            count=self._change_count,
        )
        count = self._change_count
        self._forget_changes()
        self._take_open_tables()
        position = Position(commit.end_lsn, opened.xid, opened.commit_time)
        return PackedBody(body, self._take_tables(), position, count, 1)

    def _forget_changes(self) -> None:
        self._changes, self._change_count, self._change_bytes = [], 0, 0

    def _take_open_tables(self) -> None:
        """What the transaction brought may travel in the next frame, because that begins or is it."""
        self._new_tables += self._open_tables
        self._open_tables.clear()

    def _take_tables(self) -> tuple[TableSchema, ...]:
        tables = tuple(self._new_tables)
        self._new_tables.clear()
        return tables
