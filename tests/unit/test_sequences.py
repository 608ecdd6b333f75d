"""What the log is told of sequences, what a replica makes of it, and when it has come far enough."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace

import pytest

from connectors.postgres.sequences.reading import Cycle, KnownSequence
from pipeline.capture import sequences
from pipeline.capture.sequences import Announced, Read, SequenceReader, Sequences
from pipeline.control.sequences import Stood, is_reached
from schemas.errors import RetryLater
from schemas.lsn import Lsn, Position
from schemas.sequence import SequenceValue, last_of


def at(
    last: int, *, called: bool = True, back_from: int | None = None, ascending: bool = True
) -> SequenceValue:
    return SequenceValue("public", "s", ascending, last, called, back_from)


def read(*values: SequenceValue, written: int = 0) -> Read:
    return Read(values, frozenset(value.key for value in values), Lsn(written))


def test_a_value_is_told_once_and_again_when_it_moved() -> None:
    announced = Announced()
    for value, told in ((at(5), (at(5),)), (at(5), ()), (at(6), (at(6),))):
        announced.see(read(value))
        assert announced.take(Lsn(0)) == told
    announced.see(Read((), frozenset({at(6).key}), Lsn(0)))  # locked by others
    announced.see(read(at(6)))
    assert announced.take(Lsn(0)) == ()
    announced.forget()
    announced.see(read(at(6)))
    assert announced.take(Lsn(0)) == (at(6),)
    announced.see(read(at(6)))
    assert announced.take(Lsn(0)) == ()


def test_one_that_was_set_back_is_told_once_the_log_is_past_what_was_written_before() -> None:
    announced = Announced()
    announced.see(read(at(900)))
    assert announced.take(Lsn(0)) == (at(900),)
    announced.see(read(at(5), written=1000))
    assert announced.take(Lsn(999)) == ()
    announced.see(read(at(7), written=2000))  # it goes on from there
    assert announced.is_due(Lsn(1000))
    assert announced.take(Lsn(1000)) == (at(7, back_from=900),)
    announced.see(read(at(8), written=3000))
    assert announced.take(Lsn(0)) == (at(8),)


def test_one_that_was_set_back_is_told_so_even_if_everything_is_told_again() -> None:
    announced = Announced()
    announced.see(read(at(900)))
    announced.take(Lsn(0))
    announced.forget()
    announced.see(read(at(5), written=1000))
    assert announced.take(Lsn(1000)) == (at(5, back_from=900),)


def test_one_that_is_set_back_twice_waits_for_the_second_time() -> None:
    announced = Announced()
    announced.see(read(at(900)))
    announced.take(Lsn(0))
    announced.see(read(at(50), written=1000))
    announced.see(read(at(5), written=2000))
    assert announced.take(Lsn(1999)) == ()
    assert announced.take(Lsn(2000)) == (at(5, back_from=900),)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_replica_goes_back_only_from_where_the_source_had_come(sign: int) -> None:
    def value(last: int, back_from: int | None = None) -> SequenceValue:
        return at(sign * last, back_from=back_from and sign * back_from, ascending=sign > 0)

    assert last_of(value(9), [value(7)]) == value(9)
    assert last_of(value(9), [value(7), value(12)]) == value(12)
    assert last_of(value(9), [value(1, back_from=9)]).last_value == sign
    assert last_of(value(12), [value(1, back_from=9), value(3)]) == value(3)
    assert last_of(value(8), [value(1, back_from=9)]) == value(8), "it went back before, with a later copy"
    uncalled = replace(value(9), is_called=False)
    assert last_of(value(9), [uncalled]) == value(9)
    assert last_of(value(9), [replace(uncalled, back_from=sign * 9)]).is_called is False


def stood(value: SequenceValue, cycle: Cycle | None = None) -> Stood:
    known = KnownSequence(1, "public", "s", value.ascending, 1, 10, readable=True, settable=True, cycle=cycle)
    return Stood(known, value)


def test_a_replica_has_come_far_enough_at_or_past_the_source() -> None:
    assert not is_reached(stood(at(5)), at(4), None)
    assert is_reached(stood(at(5)), at(5), None)
    assert not is_reached(stood(at(5)), at(5, called=False), None)
    assert is_reached(stood(at(5)), at(2), at(2)), "the source was set back meanwhile"
    assert not is_reached(stood(at(5)), at(2), at(3))
    assert not is_reached(stood(at(5)), None, at(5))
    assert is_reached(stood(at(-5, ascending=False)), at(-6, ascending=False), None)


@pytest.mark.parametrize("sign", [1, -1])
def test_of_one_that_goes_round_the_way_from_there_to_now_counts(sign: int) -> None:
    def value(last: int) -> SequenceValue:
        return at(sign * last, ascending=sign > 0)

    began = stood(value(2), Cycle(sign, 10 * sign))
    assert not is_reached(began, value(9), value(4)), "it stands before the end of the cycle before"
    assert is_reached(began, value(3), value(4))
    assert is_reached(began, value(9), value(1)), "the source went on into the next cycle"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeReader(SequenceReader):
    """Reads what it is given, at once, and counts how often."""

    def __init__(self) -> None:
        super().__init__("", "", purpose="test")
        self.reads = 0
        self.found: Read | RetryLater = read(at(1))

    def read(self) -> Read:
        self.reads += 1
        if isinstance(self.found, RetryLater):
            raise self.found
        return self.found


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> tuple[Sequences, FakeReader, Clock]:
    def at_once(work: object, *, name: str) -> Future[object]:
        done: Future[object] = Future()
        try:
            done.set_result(work())  # type: ignore[operator]
        except RetryLater as error:
            done.set_exception(error)
        return done

    monkeypatch.setattr(sequences, "in_background", at_once)
    reader, clock = FakeReader(), Clock()
    return Sequences(reader, clock=clock), reader, clock


def later(look: tuple[Sequences, FakeReader, Clock], seconds: float, *, xid: int = 1) -> int:
    """How often they have been read after a look then, which ends a reading that it began."""
    looked, reader, clock = look
    clock.now += seconds
    for _ in range(2):
        looked.look(Position(Lsn(xid), xid))
    return reader.reads


def test_they_are_read_every_ten_seconds_when_it_becomes_silent_and_when_asked(
    look: tuple[Sequences, FakeReader, Clock],
) -> None:
    assert later(look, 0) == 1
    assert later(look, 9.9) == 1
    assert later(look, 0.2) == 2
    assert later(look, 0.5, xid=2) == 2
    assert later(look, 0.9, xid=2) == 2
    assert later(look, 0.2, xid=2) == 3, "the stream fell silent"
    assert later(look, 5.0, xid=2) == 3, "there was nothing in it since"
    look[0].ask()
    assert later(look, 0.1, xid=2) == 4
    look[0].ask()
    assert later(look, 0.1, xid=2) == 4, "not again at once, however often somebody asks"
    assert later(look, 0.2, xid=2) == 5


def test_a_source_that_cannot_be_asked_holds_nothing_up(look: tuple[Sequences, FakeReader, Clock]) -> None:
    looked, reader, _ = look
    reader.found = RetryLater("away", code="connection-lost")
    assert later(look, 0) == 1
    assert looked.to_json()["error"] == "connection-lost"
    assert later(look, 5) == 1
    reader.found = read(at(1))
    assert later(look, 5.1) == 2
    assert looked.to_json()["error"] is None
    assert looked.is_due(Lsn(0))
    assert looked.take(Lsn(0)) == [(at(1),)]
