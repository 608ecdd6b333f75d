"""Taking XLogData messages: values in, values out, in C and in Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest

from connectors.postgres.replication.copydata import MESSAGE_OVERHEAD_BYTES, Taken, take_in_c, take_in_python

ROOM = 10_000
KEEPALIVE = b"k" + bytes(17)
WAYS: list[Callable[..., Taken]] = [take_in_python]
if take_in_c is not None:
    in_c = take_in_c
    WAYS.append(lambda get, messages, room: Taken(*in_c(get, messages, room, MESSAGE_OVERHEAD_BYTES)))


def xlog_data(content: bytes, *, time: int = 0) -> bytes:
    return b"w" + bytes(16) + time.to_bytes(8, "big") + content


def libpq(items: Iterable[bytes], *, then: int = 0) -> Callable[[int], tuple[int, memoryview]]:
    """What PQgetCopyData says of these, then `then`."""
    left: Iterator[bytes] = iter(items)

    def get_copy_data(asynchronous: int) -> tuple[int, memoryview]:
        assert asynchronous == 1
        item = next(left, None)
        return (then, memoryview(b"")) if item is None else (len(item), memoryview(item))

    return get_copy_data


@pytest.fixture(params=WAYS, ids=["python", "c"][: len(WAYS)])
def take(request: pytest.FixtureRequest) -> Callable[..., Taken]:
    way: Callable[..., Taken] = request.param
    return way


@pytest.mark.parametrize("then", [0, -1])
def test_all_that_is_there_is_taken_in_order(take: Callable[..., Taken], then: int) -> None:
    messages = [b"before"]
    taken = take(libpq([xlog_data(b"one", time=1), xlog_data(b"", time=2)], then=then), messages, ROOM)

    assert messages == [b"before", b"one", b""]
    assert (taken.length, taken.size_bytes) == (then, 2 * (25 + MESSAGE_OVERHEAD_BYTES) + 3)
    assert taken.header == xlog_data(b"", time=2)


@pytest.mark.parametrize("other", [KEEPALIVE, b"?", b"w" + bytes(23)])
def test_what_is_no_xlog_data_is_handed_over_and_nothing_behind_it_is_taken(
    take: Callable[..., Taken], other: bytes
) -> None:
    messages: list[bytes] = []
    get_copy_data = libpq([xlog_data(b"one"), other, xlog_data(b"two")])
    taken = take(get_copy_data, messages, ROOM)

    assert messages == [b"one"]
    assert taken.length == len(other)
    assert taken.data is not None
    assert bytes(taken.data) == other
    assert take(get_copy_data, messages, ROOM).length == 0
    assert messages == [b"one", b"two"]


def test_no_more_is_taken_than_there_is_room_for_and_one_message_more(take: Callable[..., Taken]) -> None:
    messages: list[bytes] = []
    get_copy_data = libpq([xlog_data(b"x" * 1000)] * 3)
    taken = take(get_copy_data, messages, 1500)

    assert len(messages) == 2
    assert (taken.length, taken.data, taken.size_bytes) == (1025, None, 2 * (1025 + MESSAGE_OVERHEAD_BYTES))
    assert take(get_copy_data, messages, 1).size_bytes == 1025 + MESSAGE_OVERHEAD_BYTES


def test_nothing_there_is_no_header(take: Callable[..., Taken]) -> None:
    messages: list[bytes] = []
    taken = take(libpq([], then=-1), messages, ROOM)
    assert (taken.length, taken.size_bytes, taken.header, messages) == (-1, 0, b"", [])


def test_an_error_of_libpq_comes_through_and_what_was_taken_stays(take: Callable[..., Taken]) -> None:
    given = libpq([xlog_data(b"one")])

    def get_copy_data(asynchronous: int) -> tuple[int, memoryview]:
        length, data = given(asynchronous)
        if not length:
            raise ConnectionError("lost")
        return length, data

    messages: list[bytes] = []
    with pytest.raises(ConnectionError, match="lost"):
        take(get_copy_data, messages, ROOM)
    assert messages == [b"one"]
