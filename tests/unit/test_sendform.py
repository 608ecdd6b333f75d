"""When rows come in binary form, and when that is no use."""

from __future__ import annotations

from pipeline.capture.sendform import SendForm
from schemas.lsn import Lsn

X, Y = Lsn(100), Lsn(200)
BEFORE, AFTER = Lsn(90), Lsn(110)


def failing(*failures: tuple[Lsn, Lsn]) -> tuple[SendForm, list[bool]]:
    """(where, tail) one after the other; whether each is worth another try."""
    form = SendForm()
    return form, [form.failed(at, tail=tail) for at, tail in failures]


def test_a_transaction_that_text_cannot_carry_comes_in_binary_form_and_then_text_again() -> None:
    form, tries = failing((X, BEFORE))
    assert (tries, form.binary_until) == ([True], X)
    form.passed()
    assert not form.is_binary
    assert form.failed(Y, tail=AFTER)
    assert form.binary_until == Y


def test_one_that_neither_form_can_carry_ends_capture_wherever_the_log_ends_meanwhile() -> None:
    assert failing((X, BEFORE), (X, Lsn(95)))[1] == [True, False]


def test_one_that_only_text_can_carry_is_tried_as_text() -> None:
    form, tries = failing((X, BEFORE), (Y, AFTER))
    assert (tries, form.is_binary) == ([True, True], False)


def test_two_that_keep_each_other_from_coming_end_capture() -> None:
    """The source sends the first one again until it is confirmed, and in its form not the second one."""
    assert failing((X, BEFORE), (Y, AFTER), (X, AFTER), (Y, AFTER))[1] == [True, True, True, False]
