"""Large objects of the first copy: in its snapshot, under their own OIDs.

AT_ONCE of them are one transaction of the replica, which records that they are there. A session that is
lost ends the copy, which is then begun anew.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Final

from connectors.postgres.copy.part_copier import CopierSetup
from connectors.postgres.copy.run import CopyRun, finish_part, has_part, take_part
from connectors.postgres.copy.snapshot import begin_in_snapshot
from connectors.postgres.large_objects.reading import LargeObject, list_large_objects, read_pieces
from connectors.postgres.large_objects.writing import (
    give_to_owners,
    require_none,
    unlink_all,
    write_large_objects,
)
from connectors.postgres.session import Session, connect, wrapped
from pipeline.cancelling import cancelled_by
from pipeline.copy.progress import CopyMeter
from pipeline.copy.watch import CopyWatch

_PART: Final = ("pg_catalog", "pg_largeobject")
_NAMED: Final = 5


def copy_large_objects(setup: CopierSetup, meter: CopyMeter, stop: threading.Event) -> None:
    """Copy those that our role may read; the others are named in what the replica is made without.

    Raises OperatorNeeded (`replica-not-empty`, `copy-replaced`), SnapshotLost, RetryLater.
    """
    with (
        contextlib.closing(connect(setup.source, purpose=setup.purpose)) as source,
        contextlib.closing(connect(setup.replica, purpose=setup.purpose)) as replica,
        cancelled_by(stop, [source, replica]),
    ):
        begin_in_snapshot(source, setup.snapshot)
        _Copying(setup.run, source, replica, meter).run()


class _Copying:
    def __init__(self, run: CopyRun, source: Session, replica: Session, meter: CopyMeter) -> None:
        self._run = run
        self._source = source
        self._replica = replica
        self._meter = meter
        self._hidden: list[int] = []
        self._hidden_count = 0
        self._kept: Counter[str] = Counter()

    def run(self) -> None:
        for number, objects in enumerate(list_large_objects(self._source)):
            if number == 0:
                require_none(self._replica)
            hidden = [each.oid for each in objects if not each.readable]
            self._hidden_count += len(hidden)
            self._hidden += hidden[: _NAMED - len(self._hidden)]
            self._copy(number, [each for each in objects if each.readable])
        self._tell_of_left_out()

    def _copy(self, number: int, objects: Sequence[LargeObject]) -> None:
        oids = [each.oid for each in objects]
        with wrapped("copying large objects"), self._replica.transaction():
            if oids and take_part(self._replica, self._run, _PART, number):
                write_large_objects(self._replica, objects, read_pieces(self._source, oids))
                self._kept.update(give_to_owners(self._replica, objects))
                finish_part(self._replica, self._run, _PART, number, len(oids))
        for oid in oids:
            self._meter.made_item(f"large object {oid}")

    def _tell_of_left_out(self) -> None:
        if self._hidden_count:
            some = ", ".join(map(str, self._hidden))
            more = f" and {self._hidden_count - _NAMED} more" if self._hidden_count > _NAMED else ""
            self._meter.leave_out([f"large objects that the source role may not read: {some}{more}"])
        self._meter.leave_out(
            f"owner {owner} of {count} large objects: they are our role's there"
            for owner, count in self._kept.items()
        )


def clear_large_objects(replica: Session, run: CopyRun, watch: CopyWatch) -> None:
    """Take those away that a killed copy brought: before it there were none."""
    if has_part(replica, run, _PART):
        unlink_all(replica, watch.tick)
