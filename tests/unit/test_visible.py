"""What a snapshot's text says of transactions (P18)."""

from __future__ import annotations

import pytest

from connectors.postgres.copy.visibility import is_visible, not_yet_visible


@pytest.mark.parametrize(
    ("imported", "fresh", "missing"),
    [
        ("10:10:", "10:10:", set()),
        ("10:20:12,13", "12:20:12,13", set()),
        ("10:20:12", "12:20:12,15", {15}),
        ("10:20:", "12:18:12", {12, 18, 19}),
        ("10:20:18,19", "12:18:12", {12}),
        ("10:20:12", "25:30:27", set()),
    ],
)
def test_a_transaction_that_the_snapshot_counts_as_done_is_missed_while_it_still_runs(
    imported: str, fresh: str, missing: set[int]
) -> None:
    assert not_yet_visible(imported, fresh) == missing


@pytest.mark.parametrize(
    ("snapshot", "xid", "visible"),
    [
        ("10:10:", 9, True),
        ("10:10:", 10, False),
        ("8:12:8,10", 10, False),
        ("8:12:8,10", 9, True),
        (f"{2**32 + 10}:{2**32 + 10}:", 9, True),
        (f"{2**32 + 5}:{2**32 + 5}:", 2**32 - 3, True),
        (f"{2**32 - 3}:{2**32 + 5}:{2**32 - 3}", 2**32 - 3, False),
        (f"{2**32 - 3}:{2**32 - 3}:", 3, False),
    ],
)
def test_a_transaction_is_visible_once_no_snapshot_has_it_running(
    snapshot: str, xid: int, visible: bool
) -> None:
    assert is_visible(snapshot, xid) is visible
