"""When apply copies tables that await it: all at once, then those that failed one by one, with pauses."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from pipeline.apply import awaited
from pipeline.apply.awaited import AwaitedCopies
from pipeline.copy.progress import CopyMeter, CopyProgress
from pipeline.dev.process import require
from schemas.errors import KeepstreamError, OperatorNeeded, RetryLater

A, B, C = (("public", name) for name in "abc")
AWAY = RetryLater("the source is away", code="server-unreachable", hint="Start it.")
UNFIT = OperatorNeeded("public.a cannot hold it", code="replica-schema", hint="Mend it.")
TOOK_S = 0.15
HELD = OperatorNeeded("it is paused", code="replica-held", hint="Resume it.")


class Copier:
    """Notes each attempt, and does what `answer` says of its tables. `go`: what it waits for before."""

    def __init__(self, answer: Callable[[Sequence[Any]], BaseException | None] = lambda _: None) -> None:
        self.attempts: list[tuple[Any, ...]] = []
        self.go = threading.Event()
        self.go.set()
        self._answer = answer

    def __call__(
        self,
        tables: Sequence[Any],
        *,
        stop: threading.Event,
        tell: Callable[[str], None],
        on_progress: Callable[[CopyProgress], None],
    ) -> object:
        self.attempts.append(tuple(name for _, name in tables))
        tell("waiting until the replica has caught up")
        while not self.go.wait(0.01):
            if stop.is_set():
                raise RetryLater("stopped", code="connection-lost")
        if error := self._answer(tables):
            raise error
        on_progress(CopyMeter().progress(0.0))
        return None


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awaited, "FIRST_S", 0.03)


def done(copies: AwaitedCopies) -> None:
    require(lambda: not copies.is_running, 5.0, what="the copy's end")


def seen_until(
    copies: AwaitedCopies,
    tables: set[Any],
    condition: Callable[[], bool],
    *,
    go: threading.Event | None = None,
) -> None:
    """`go`: set once the last attempt has taken TOOK_S."""

    def is_so() -> bool:
        copies.see(tables, free=True)
        return condition()

    require(is_so, 5.0, what="the attempts")
    if go is not None:
        threading.Timer(TOOK_S, go.set).start()
    done(copies)


def said(copies: AwaitedCopies) -> Any:
    return copies.details()["awaited_copies"]


def test_nothing_is_copied_where_an_operator_does_or_somebody_holds_the_replica() -> None:
    copier = Copier()
    AwaitedCopies(None).see({A}, free=True)
    copies = AwaitedCopies(copier)
    copies.see({A}, free=False)
    copies.see((), free=True)
    assert (copier.attempts, AwaitedCopies(None).details()) == ([], {})


def test_all_tables_are_copied_at_once_and_one_copy_runs_at_a_time() -> None:
    copier = Copier()
    copier.go.clear()
    copies = AwaitedCopies(copier)
    for _ in range(3):
        copies.see({B, A}, free=True)
    require(lambda: "waiting" in said(copies)["doing"], 5.0, what="it to tell")
    assert said(copies)["running"] == ["public.a", "public.b"]
    assert copies.waiting_for == ("the copy of public.a, public.b: waiting until the replica has caught up")
    copier.go.set()
    done(copies)
    assert copier.attempts == [("a", "b")]
    assert said(copies) == {"running": [], "doing": None, "failed": {}}


def test_a_table_that_fails_keeps_no_other_from_being_copied(caplog: pytest.LogCaptureFixture) -> None:
    copier = Copier(lambda tables: UNFIT if A in tables else None)
    copies = AwaitedCopies(copier)
    caplog.set_level(logging.WARNING, "keepstream.apply")
    copies.see({A, B}, free=True)
    done(copies)
    assert set(said(copies)["failed"]) == {"public.a", "public.b"}
    copies.see({A, B, C}, free=True)
    done(copies)
    assert copier.attempts == [("a", "b"), ("c",)]
    seen_until(copies, {A, B}, lambda: ("b",) in copier.attempts and copier.attempts.count(("a",)) > 2)
    copies.see({A}, free=False)
    failed = said(copies)["failed"]["public.a"]
    assert (failed["code"], failed["hint"], set(said(copies)["failed"])) == (
        "replica-schema",
        "Mend it.",
        {"public.a"},
    )
    assert failed["retry_s"] > 0.05


def test_a_failure_is_told_once_until_a_copy_works_again(caplog: pytest.LogCaptureFixture) -> None:
    answers: Iterator[BaseException | None] = iter([AWAY, AWAY, AWAY, None, AWAY])
    copier = Copier(lambda _: next(answers, None))
    copies = AwaitedCopies(copier)
    caplog.set_level(logging.WARNING, "keepstream.apply")
    seen_until(copies, {A}, lambda: len(copier.attempts) == 5)
    assert [record.getMessage() for record in caplog.records] == [
        "copy of tables that await it failed, and is tried again"
    ] * 2


def test_the_pause_is_no_shorter_than_the_attempt_was() -> None:
    copier = Copier(lambda _: AWAY)
    copier.go.clear()
    copies = AwaitedCopies(copier)
    copies.see({A}, free=True)
    began_at = time.monotonic()
    require(lambda: time.monotonic() - began_at > 0.3, 5.0, what="some time")
    copier.go.set()
    done(copies)
    assert said(copies)["failed"]["public.a"]["retry_s"] > 0.2


@pytest.mark.parametrize("error", [AWAY, UNFIT])
def test_what_a_person_must_mend_is_tried_again_after_as_long_as_all_attempts_took(
    monkeypatch: pytest.MonkeyPatch, error: KeepstreamError
) -> None:
    """Each of them may have been a long copy, in which the replica stood still."""
    monkeypatch.setattr(awaited, "FIRST_S", 0.0)
    copier = Copier(lambda _: error)
    copies = AwaitedCopies(copier)
    for attempts in (1, 2, 3):
        copier.go.clear()
        seen_until(copies, {A}, lambda: len(copier.attempts) == attempts, go=copier.go)  # noqa: B023
    retry_s = said(copies)["failed"]["public.a"]["retry_s"]
    assert (retry_s > 2.5 * TOOK_S) == (error is UNFIT)


def test_a_table_that_stays_on_the_list_is_not_copied_on_and_on() -> None:
    copier = Copier()
    copies = AwaitedCopies(copier)
    copies.see({A}, free=True)
    done(copies)
    copies.see({A}, free=True)
    done(copies)
    assert copier.attempts == [("a",)]
    copies.see((), free=True)
    copies.see({A}, free=True)
    done(copies)
    assert copier.attempts == [("a",)] * 2


@pytest.mark.parametrize("error", [HELD, None])
def test_who_holds_the_replica_or_ends_apply_makes_no_failure(error: KeepstreamError | None) -> None:
    copier = Copier(lambda _: error)
    copies = AwaitedCopies(copier)
    if error is None:
        copier.go.clear()
    copies.see({A}, free=True)
    if error is None:
        copies.end()
    done(copies)
    assert said(copies)["failed"] == {}
    copier.go.set()
    copies.see({A}, free=True)
    done(copies)
    assert copier.attempts == [("a",)] * 2


def test_a_bug_in_a_copy_does_not_end_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one in what is made of its end keep others from beginning."""
    copier = Copier(lambda _: ZeroDivisionError())
    copies = AwaitedCopies(copier)
    copies.see({A}, free=True)
    done(copies)
    assert said(copies)["failed"]["public.a"]["code"] == "internal"
    monkeypatch.setattr(awaited, "_understood", lambda _: [][0])
    copies.see({B}, free=True)
    done(copies)
    copies.see({C}, free=True)
    done(copies)
    assert copier.attempts == [("a",), ("b",), ("c",)]
