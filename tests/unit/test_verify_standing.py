"""The hold of a replica that stands lasts as long as the work for which it stands, and no longer."""

from __future__ import annotations

import threading
from unittest.mock import Mock

import pytest

from pipeline.dev.process import require, wait_until
from pipeline.verify import standing
from pipeline.verify.standing import Standing
from pipeline.verify.watch import Watch


def test_whoever_was_told_to_end_keeps_no_replica_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while its own thread waits for a server that says nothing, and so cannot end yet."""
    monkeypatch.setattr(standing, "PROLONG_S", 0.01)
    stop, steps, unused = threading.Event(), Mock(), Mock()
    stands = Standing(
        options=unused,
        watch=Watch(stop, Mock()),
        steps=steps,
        snapshot=unused,
        reader=unused,
        found=unused,
        locked=False,
        began_at=0.0,
        sequences=unused,
        source_observer=unused,
        replica_observer=unused,
    )
    with stands.kept():
        require(lambda: steps.prolong.call_count > 1, 5.0, what="the hold to be kept")
        stop.set()
        keeper = stands._keeper
        assert keeper is not None
        assert wait_until(lambda: not keeper.is_alive(), 5.0)


def test_a_deadline_inside_of_another_ends_with_what_is_inside() -> None:
    watch, late = Watch(threading.Event(), Mock()), Mock()
    with watch.deadline(0.0, late), watch.deadline(60.0, Mock()):
        watch.check()
    watch.check()
    late.assert_not_called()
    with watch.deadline(0.0, Mock(return_value=TimeoutError("outer"))):
        with watch.deadline(60.0, Mock()):
            pass
        with pytest.raises(TimeoutError, match="outer"):
            watch.check()
