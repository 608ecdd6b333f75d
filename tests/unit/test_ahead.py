"""Making a client before it is needed: what is made, taken, told and closed."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import pytest

from connectors import ahead
from connectors.ahead import Ahead
from schemas.errors import RetryLater

WAIT_S = 10.0


class Clients:
    """Makes the numbers 1, 2, …, each when `allowed`; fails with `error` where there is one."""

    def __init__(self) -> None:
        self.made = 0
        self.closed: list[int] = []
        self.error: RetryLater | None = None
        self.allowed = threading.Event()
        self.allowed.set()
        self.was_closed = threading.Event()
        self.ahead = Ahead(self._make, self._close)

    def _make(self) -> int:
        assert self.allowed.wait(WAIT_S)
        if self.error is not None:
            raise self.error
        self.made += 1
        return self.made

    def _close(self, client: int) -> None:
        self.closed.append(client)
        self.was_closed.set()


@pytest.fixture
def clients() -> Clients:
    return Clients()


def test_one_is_made_and_is_taken_once(clients: Clients) -> None:
    assert clients.ahead.take() is None
    clients.ahead.begin()
    clients.ahead.begin()
    assert clients.ahead.take() == 1
    assert clients.ahead.take() is None
    assert (clients.made, clients.closed) == (1, [])


def test_one_that_is_on_its_way_is_waited_for(clients: Clients) -> None:
    clients.allowed.clear()
    clients.ahead.begin()
    threading.Timer(0.05, clients.allowed.set).start()
    assert clients.ahead.take() == 1


def test_one_that_is_old_is_closed_and_replaced(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_FRESH_S", 0.0)
    clients.ahead.begin()
    assert clients.ahead.take() is None
    assert clients.closed == [1]
    clients.was_closed.clear()
    clients.ahead.begin()
    while clients.made < 2:
        threading.Event().wait(0.001)
    clients.ahead.begin()
    assert clients.was_closed.wait(WAIT_S)
    assert clients.closed == [1, 2]


def test_what_went_wrong_just_now_is_raised_and_older_things_are_not(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients.error = RetryLater("away", code="log-unreachable")
    clients.ahead.begin()
    with pytest.raises(RetryLater, match="away"):
        clients.ahead.take()
    monkeypatch.setattr(ahead, "_JUST_NOW_S", 0.0)
    clients.ahead.begin()
    assert clients.ahead.take() is None


def test_close_waits_for_nothing_and_what_comes_later_is_closed(clients: Clients) -> None:
    clients.allowed.clear()
    clients.ahead.begin()
    clients.ahead.close()
    assert clients.closed == []
    clients.allowed.set()
    assert clients.was_closed.wait(WAIT_S)
    clients.ahead.begin()
    assert clients.ahead.take() is None
    assert (clients.made, clients.closed) == (1, [1])


def test_one_that_is_dropped_is_closed_and_another_can_be_begun(clients: Clients) -> None:
    clients.ahead.give(7)
    clients.ahead.drop()
    assert clients.closed == [7]
    clients.ahead.begin()
    assert clients.ahead.take() == 1


def test_one_that_is_given_back_is_taken_next_and_a_second_one_is_closed(clients: Clients) -> None:
    clients.ahead.give(7)
    clients.ahead.give(8)
    clients.ahead.begin()
    assert clients.ahead.take() == 7
    clients.ahead.close()
    clients.ahead.give(9)
    assert (clients.made, clients.closed) == (0, [8, 9])


def test_a_bug_while_one_is_made_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", told.append)

    def make() -> int:
        raise AssertionError("a bug of ours")

    ahead = Ahead(make, lambda client: None)
    ahead.begin()
    with pytest.raises(CancelledError):
        ahead.take()
    ahead.begin()
    ahead.close()
