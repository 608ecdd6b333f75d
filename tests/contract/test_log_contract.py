"""What every home of the change log promises (connectors.interfaces): one suite, run on both."""

from __future__ import annotations

import threading
import time
from itertools import pairwise
from random import Random

import pytest

from connectors.interfaces import Bounds, ChangeLog
from connectors.log.limits import MAX_RECORD_BYTES
from schemas.errors import HistoryBroken, InternalError, PlaceTrimmed
from schemas.finding import Severity
from tests.contract.logs import (
    append_all,
    begin,
    read_all,
    read_count,
    start_of,
    wait_durable,
)


@pytest.fixture
def log(change_log: ChangeLog) -> ChangeLog:
    change_log.create()
    return change_log


def test_a_log_exists_only_after_it_was_created(change_log: ChangeLog) -> None:
    assert not change_log.exists()
    with pytest.raises(HistoryBroken) as raised:
        change_log.bounds()
    assert raised.value.code == "log-missing"
    change_log.create()
    assert change_log.exists()
    assert change_log.bounds() == Bounds(0, 0)


def test_creating_a_log_again_changes_nothing(log: ChangeLog) -> None:
    writer = begin(log, 1)
    append_all(writer, [b"a"])
    writer.close()
    log.create()
    assert read_all(log) == [start_of(1), b"a"]


def test_a_log_without_records_gives_none_and_then_the_first_one_at_once(log: ChangeLog) -> None:
    reader = log.reader()
    assert reader.read(0) == []
    writer = begin(log, 1)
    assert [record.value for record in read_count(reader, 1)] == [start_of(1)]
    writer.close()
    reader.close()


def test_an_epoch_that_was_expected_is_one_like_any_other(log: ChangeLog) -> None:
    log.expect_epoch()
    log.expect_epoch()
    for epoch in (1, 2):  # the second one was not expected
        writer = begin(log, epoch)
        append_all(writer, [b"%d" % epoch])
        writer.close()
    log.expect_epoch()  # and this one never begins
    log.expect_reader()
    log.expect_reader()
    assert read_all(log) == [start_of(1), b"1", start_of(2), b"2"]


def test_records_come_back_as_they_were_in_order_and_once(log: ChangeLog) -> None:
    writer = begin(log, 1)
    records = [bytes([number % 256]) * (number + 1) for number in range(200)]
    assert append_all(writer, records) == 200
    assert read_all(log) == [start_of(1), *records]
    writer.close()


def test_the_start_place_is_where_capture_start_stands(log: ChangeLog) -> None:
    first = begin(log, 1)
    append_all(first, [b"a", b"b"])
    first.close()
    second = begin(log, 2)
    reader = log.reader()
    records = read_count(reader, 4)
    assert records[0].place == first.start_place
    assert records[3].place == second.start_place
    assert records[3].value == start_of(2)
    assert records[3].next_place == log.bounds().end
    reader.close()
    second.close()


def test_places_rise_and_reading_resumes_at_any_of_them(log: ChangeLog) -> None:
    writer = begin(log, 1)
    append_all(writer, [b"record %d" % number for number in range(20)])
    reader = log.reader()
    records = read_count(reader, 21)
    reader.close()
    assert all(record.place < record.next_place for record in records)
    assert all(one.next_place <= two.place for one, two in pairwise(records))
    for index in (0, 1, 10, 20):
        resumed = log.reader(records[index].place)
        values = [record.value for record in read_count(resumed, 21 - index)]
        assert values == [record.value for record in records[index:]]
        resumed.close()
    writer.close()


def test_a_reader_at_the_end_sees_only_what_comes_later(log: ChangeLog) -> None:
    writer = begin(log, 1)
    append_all(writer, [b"old"])
    reader = log.reader(log.bounds().end)
    assert reader.read(0.2) == []
    append_all(writer, [b"new"])
    assert [record.value for record in read_count(reader, 1)] == [b"new"]
    reader.close()
    writer.close()


def test_a_reader_follows_into_the_next_epoch(log: ChangeLog) -> None:
    first = begin(log, 1)
    append_all(first, [b"a"])
    reader = log.reader()
    read_count(reader, 2)
    first.close()
    second = begin(log, 2)
    append_all(second, [b"b"])
    assert [record.value for record in read_count(reader, 2)] == [start_of(2), b"b"]
    reader.close()
    second.close()


def test_records_arrive_in_order_while_they_are_being_written(log: ChangeLog) -> None:
    """P3: readers that start at different times see one order, whatever the writer is doing."""
    random = Random(7)
    records = [
        number.to_bytes(4, "big") + random.randbytes(random.choice((1, 100, 30_000))) for number in range(600)
    ]
    writer = begin(log, 1)
    failures: list[str] = []

    def follow(delay_s: float) -> None:
        time.sleep(delay_s)
        reader = log.reader()
        values = [record.value for record in read_count(reader, len(records) + 1)]
        reader.close()
        if values != [start_of(1), *records]:
            failures.append(f"the reader that began after {delay_s} s saw another order")

    readers = [threading.Thread(target=follow, args=(delay_s,)) for delay_s in (0.0, 0.1)]
    for thread in readers:
        thread.start()
    for number, record in enumerate(records):
        writer.append(record, boundary=number % 150 == 0)
        if number % 7 == 0:
            writer.durable(0)
    wait_durable(writer, len(records))
    for thread in readers:
        thread.join(60)
        assert not thread.is_alive()
    assert failures == []
    writer.close()


def test_the_largest_record_passes_and_a_larger_one_is_our_own_bug(log: ChangeLog) -> None:
    writer = begin(log, 1)
    largest = Random(1).randbytes(MAX_RECORD_BYTES)
    append_all(writer, [b"before", largest, b"after"])
    assert read_all(log) == [start_of(1), b"before", largest, b"after"]
    for record in (largest + b"!", b""):
        with pytest.raises(InternalError) as raised:
            writer.append(record)
        assert raised.value.code == "record-too-large"
    writer.close()


def test_a_writer_is_idle_once_all_records_have_their_answer(log: ChangeLog) -> None:
    writer = begin(log, 1)
    assert writer.is_idle(0)
    for number in range(20):
        writer.append(b"%d" % number)
    deadline = time.monotonic() + 30
    while not writer.is_idle(1):
        assert time.monotonic() < deadline
    assert writer.is_idle(0)
    assert wait_durable(writer, 20) == 20
    writer.close()


def test_more_than_may_be_in_flight_can_be_appended_without_asking_what_is_durable(log: ChangeLog) -> None:
    writer = begin(log, 1)
    block = Random(2).randbytes(512 * 1024)
    for _ in range(80):
        writer.append(block)
    assert wait_durable(writer, 80) == 80
    writer.close()


def test_durable_counts_a_prefix_and_never_more_than_was_appended(log: ChangeLog) -> None:
    writer = begin(log, 1)
    assert writer.durable(0) == 0
    before = time.monotonic()
    assert writer.durable(0.2) == 0
    assert time.monotonic() - before >= 0.15
    seen = [0]
    for number in range(50):
        writer.append(b"%d" % number)
        seen.append(writer.durable(0))
        assert seen[-1] <= number + 1
    assert seen == sorted(seen)
    assert wait_durable(writer, 50) == 50
    writer.close()


def test_what_was_reported_durable_is_there_for_a_reader_that_opens_then(log: ChangeLog) -> None:
    """P8, P9: the slot is confirmed up to there, so nobody will send it again."""
    writer = begin(log, 1)
    for number in range(30):
        append_all(writer, [b"%d" % number])
        assert read_all(log)[-1] == b"%d" % number
    writer.close()


def test_rewind_names_a_place_before_which_there_is_a_record_or_the_first(log: ChangeLog) -> None:
    for epoch in (1, 2, 3):
        writer = begin(log, epoch)
        append_all(writer, [b"%d of epoch %d" % (number, epoch) for number in range(5)])
        writer.close()
    first, end = log.bounds().first, log.bounds().end
    place = end
    while place > first:
        earlier = log.rewind(place, first=first)
        assert first <= earlier < place
        reader = log.reader(earlier)
        assert reader.read(10)[0].place == earlier
        reader.close()
        place = earlier
    assert log.rewind(first, first=first) == first
    assert log.rewind(end, 2, first=first) == log.rewind(log.rewind(end, first=first), first=first)
    assert log.rewind(end, 1000, first=first) == first


def test_p12_a_trimmed_log_begins_at_a_boundary_and_keeps_all_after_it(log: ChangeLog) -> None:
    writer = begin(log, 1)
    for anchor in range(4):
        writer.append(b"anchor %d" % anchor, boundary=True)
        writer.append(b"row %d" % anchor)
    wait_durable(writer, 8)
    reader = log.reader()
    records = read_count(reader, 9)
    reader.close()
    kept = next(record for record in records if record.value == b"anchor 2")
    log.trim(kept.place)
    assert log.bounds().first == kept.place
    assert read_all(log) == [b"anchor 2", b"row 2", b"anchor 3", b"row 3"]
    log.trim(kept.place)
    append_all(writer, [b"later"])
    assert read_all(log)[-1] == b"later"
    writer.close()


def test_p12_a_reader_whose_place_was_trimmed_is_told_how_to_copy_anew(log: ChangeLog) -> None:
    writer = begin(log, 1)
    writer.append(b"anchor 0", boundary=True)
    writer.append(b"row 0")
    writer.append(b"row 1")
    writer.append(b"anchor 1", boundary=True)
    wait_durable(writer, 4)
    reader = log.reader()
    records = read_count(reader, 5)
    reader.close()
    log.trim(records[4].place)
    late = log.reader(records[1].place)
    with pytest.raises(PlaceTrimmed) as raised:
        late.read(5)
    assert raised.value.code == "log-trimmed"
    assert "copied anew" in raised.value.hint
    late.close()
    writer.close()


def test_p12_trimming_what_a_reader_has_just_read_does_not_disturb_it(log: ChangeLog) -> None:
    writer = begin(log, 1)
    writer.append(b"anchor 0", boundary=True)
    wait_durable(writer, 1)
    reader = log.reader()
    read_count(reader, 2)
    writer.append(b"anchor 1", boundary=True)
    wait_durable(writer, 2)
    other = log.reader()
    log.trim(read_count(other, 3)[2].place)
    other.close()
    assert [record.value for record in read_count(reader, 1)] == [b"anchor 1"]
    reader.close()
    writer.close()


def test_a_place_beyond_the_end_belongs_to_another_log(log: ChangeLog) -> None:
    writer = begin(log, 1)
    append_all(writer, [b"a", b"b", b"c"])
    place = log.bounds().end
    writer.close()
    log.destroy()
    log.create()
    writer = begin(log, 1)
    reader = log.reader(place)
    with pytest.raises(HistoryBroken) as raised:
        reader.read(5)
    assert raised.value.code == "log-recreated"
    reader.close()
    writer.close()


def test_a_reader_says_so_when_its_log_is_gone(log: ChangeLog) -> None:
    log.destroy()
    reader = log.reader()
    with pytest.raises(HistoryBroken) as raised:
        reader.read(5)
    assert raised.value.code == "log-missing"
    reader.close()


def test_reports_are_the_newest_of_each_stage(log: ChangeLog) -> None:
    assert log.reports() == {}
    log.put_report("capture", b'{"state": "starting"}')
    log.put_report("apply:standby", b'{"state": "idle"}')
    log.put_report("capture", b'{"state": "streaming"}')
    wanted = {"capture": b'{"state": "streaming"}', "apply:standby": b'{"state": "idle"}'}
    deadline = time.monotonic() + 20
    while log.reports() != wanted:
        assert time.monotonic() < deadline, log.reports()
        time.sleep(0.02)
    log.put_report("capture", b'{"state": "stopped"}')
    while log.reports()["capture"] != b'{"state": "stopped"}':
        assert time.monotonic() < deadline


def test_the_last_report_before_closing_arrives(log: ChangeLog) -> None:
    log.put_report("capture", b'{"state": "stopped"}')
    log.close()
    deadline = time.monotonic() + 20
    while log.reports() != {"capture": b'{"state": "stopped"}'}:
        assert time.monotonic() < deadline, log.reports()
        time.sleep(0.02)


def test_a_destroyed_log_and_its_reports_are_gone_and_can_be_made_anew(log: ChangeLog) -> None:
    writer = begin(log, 1)
    append_all(writer, [b"a"])
    log.put_report("capture", b"{}")
    writer.close()
    log.destroy()
    assert not log.exists()
    log.destroy()
    log.create()
    assert log.bounds() == Bounds(0, 0)
    assert log.reports() == {}


def test_inspect_finds_no_error_before_and_after_creation(change_log: ChangeLog) -> None:
    before = change_log.inspect()
    change_log.create()
    after = change_log.inspect()
    for findings in (before, after):
        assert findings
        assert all(finding.severity is not Severity.ERROR for finding in findings)
    assert not any(word in change_log.name for word in ("password", "@"))
