"""Planted bugs: each takes away one rule of the protocol, and a soak must catch it.

They are put into a child of the nursery before keepstream's `main` runs there; the product has no switch for
them. `BUGS` names each with the faults among which it shows.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from connectors.postgres.apply.catalog import TargetTable
from connectors.postgres.apply.set_plans import SetPlan
from connectors.postgres.copy.snapshot_tables import Observer
from connectors.postgres.replica import claim
from pipeline.apply import grouping
from pipeline.apply.backlog import Backlog
from pipeline.capture.writing.chainwriter import ChainWriter
from pipeline.follow import Followed, SameHistory
from schemas import framecodec
from schemas.change import Change
from schemas.errors import KeepstreamError
from schemas.frame import Frame, Part, Transaction, Transactions
from schemas.lsn import Position
from schemas.netchange import NetChange, Netting
from schemas.table import TableSchema


def confirm_before_acknowledgement() -> None:
    """What was appended counts as durable."""

    def settle(self: Any, timeout_s: float) -> Position:
        with contextlib.suppress(KeepstreamError):  # the next append raises it
            self._writer.durable(timeout_s)
        while self._undurable:
            self.durable_position = self._undurable.popleft()[1]
        position: Position = self.durable_position
        return position

    _put(ChainWriter, "settle", settle)


def trust_acknowledgement() -> None:
    """An acknowledged record counts, whatever its offset is and whose records stand before it (P8)."""
    from connectors.log.kafka_writer import KafkaWriter

    def check_offset(self: Any, future: Any) -> None:
        if future.failed():
            raise self._failed(future.exception)
        self._last_offset = future.value.offset

    def prove_topic(self: Any) -> None:
        self._durable = self._contiguous

    _put(KafkaWriter, "_check_offset", check_offset)
    _put(KafkaWriter, "_prove_topic", prove_topic)


def less_or_equal() -> None:
    """A transaction is skipped if its commit LSN is the position itself (P1)."""

    def holds(self: Position, commit_lsn: int) -> bool:
        return commit_lsn <= self.lsn

    def see(self: Any, *, commit_lsn: int, xid: int, commit_time: int) -> bool:
        if commit_lsn > self._position.lsn:
            self.prove()
            return False
        if commit_lsn < self._position.lsn:
            self._last = (xid, commit_time)
        return True

    _put(Position, "holds", holds)
    _put(SameHistory, "see", see)


def no_hold() -> None:
    """The progress row is set past the hold that it names (P13, P16)."""
    _advance_without(
        b"(hold_at is null or hold_expires <= clock_timestamp() or $1::pg_lsn <= hold_at)", b"true"
    )


def no_compare_and_set() -> None:
    """The progress row is set to the new position, whatever position stands there and whoever has it (P13);
    nor is the session of the one before ended (P14), which alone would hide that."""
    _advance_without(
        b"token = $7::uuid and position = $8::pg_lsn", b"$7::uuid is not null and $8::pg_lsn is not null"
    )
    _put(claim, "_end", lambda *_: None)


def _advance_without(condition: bytes, instead: bytes) -> None:
    assert condition in claim.ADVANCE
    _put(claim, "ADVANCE", claim.ADVANCE.replace(condition, instead))


def frame_only() -> None:
    """The row names the frame that was reached, not the transaction in it: a group may end inside (P13)."""
    ends: dict[int, Position] = {}
    feed, after = Backlog.feed, grouping._after

    def feed_noting_ends(self: Backlog, followed: Followed) -> None:
        body = followed.frame.body
        if isinstance(body, Transactions):
            last = body.transactions[-1].position
            ends.update({one.end_lsn: last for one in body.transactions})
        feed(self, followed)

    def after_frame(transaction: Transaction | Part, end: Position, brakes: grouping.Brakes) -> Position:
        return after(transaction, ends.get(end.lsn, end), brakes)

    _put(Backlog, "feed", feed_noting_ends)
    _put(grouping, "_after", after_frame)


def no_digest_check() -> None:
    """A record counts as a frame if it can be read as one."""
    original = framecodec.open_frame

    def open_frame(record: bytes) -> Frame | None:
        if record[:4] != framecodec.MAGIC:
            return None
        try:
            return framecodec._decode_frame(record, len(record) - 32, record[-32:])
        except (IndexError, ValueError, EOFError, KeyError, TypeError):
            return None

    for module in list(sys.modules.values()):
        if getattr(module, "open_frame", None) is original:
            _put(module, "open_frame", open_frame)


def no_relfilenode_check() -> None:
    """A table counts as the one that the snapshot shows, whatever became of it since (P19)."""

    def require_unchanged(self: Observer, table: object) -> None:
        pass

    _put(Observer, "require_unchanged", require_unchanged)


def unconditional_sets() -> None:
    """Sets are taken wherever there is a key (P15)."""

    def make_plan(table: TableSchema, target: TargetTable) -> SetPlan | None:
        key = table.key_indexes
        columns = tuple(range(len(table.columns)))
        return SetPlan(table, target, key, Netting(table, key), columns) if key else None

    from connectors.postgres.apply import plans as apply_plans

    _put(apply_plans, "make_plan", make_plan)


def unsent_as_null() -> None:
    """Sets take an unsent value for NULL (P15)."""
    net = Netting.net

    def net_all(self: Netting, changes: Sequence[Change]) -> NetChange:
        return net(self, [change._replace(absent=()) for change in changes])

    from connectors.postgres.apply import set_plans

    _put(set_plans, "encode_apart", None)
    _put(Netting, "net", net_all)


def _put(where: object, name: str, what: object) -> None:
    setattr(where, name, what)


@dataclass(frozen=True)
class Bug:
    """`plant` puts it in. `decks`: by log, the faults among which it shows there."""

    plant: Callable[[], None]
    decks: Mapping[str, Mapping[str, int]]


def _on_directory(plant: Callable[[], None], deck: Mapping[str, int]) -> Bug:
    return Bug(plant, {"directory": deck})


_KILLS = {"kill capture": 2, "kill apply": 2, "failpoint apply": 4}
BUGS: Mapping[str, Bug] = {
    "confirm-before-acknowledgement": Bug(
        confirm_before_acknowledgement,
        {"directory": _KILLS | {"log disk full": 4}, "kafka": {"kill capture": 1, "kill kafka": 3}},
    ),
    "trust-acknowledgement": Bug(trust_acknowledgement, {"kafka": _KILLS | {"stranger": 4}}),
    "less-or-equal": _on_directory(less_or_equal, {"kill capture": 1, "quiet": 3}),
    "no-hold": _on_directory(no_hold, _KILLS | {"pause": 4}),
    "no-compare-and-set": _on_directory(no_compare_and_set, {"freeze apply": 6}),
    "frame-only": _on_directory(frame_only, _KILLS | {"kill both": 4}),
    "no-digest-check": _on_directory(no_digest_check, {"kill capture": 1, "damage": 3}),
    "no-relfilenode-check": _on_directory(no_relfilenode_check, {"kill capture": 1, "truncate in copy": 3}),
    "unconditional-sets": _on_directory(unconditional_sets, _KILLS),
    "unsent-as-null": _on_directory(unsent_as_null, _KILLS),
}


def plant(name: str) -> None:
    """Put the bug into this process."""
    BUGS[name].plant()
