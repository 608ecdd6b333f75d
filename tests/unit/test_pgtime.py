"""schemas.pgtime: dates and times as numbers. The integration tests ask PostgreSQL for a great many."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.pgtime import (
    DAY_US,
    format_date,
    format_time,
    format_timestamp,
    format_timestamptz,
    parse_date,
    parse_time,
    parse_timestamp,
    parse_timestamptz,
)
from schemas.varint import INT_MAX, INT_MIN, LONG_MAX, LONG_MIN

FIRST_DAY, LAST_DAY = -2_440_588, 2_145_042_905
LAST_TIMESTAMP = 9_224_318_015_999_999_999
EPOCH = dt.datetime(1970, 1, 1)


@pytest.mark.parametrize(
    ("text", "day"),
    [
        (b"1970-01-01", 0),
        (b"1969-12-31", -1),
        (b"2000-02-29", 11016),
        (b"0001-01-01", -719162),
        (b"0001-12-31 BC", -719163),
        (b"4714-11-24 BC", FIRST_DAY),
        (b"5874897-12-31", LAST_DAY),
        (b"infinity", INT_MAX),
        (b"-infinity", INT_MIN),
    ],
)
def test_dates_are_days_since_1970(text: bytes, day: int) -> None:
    assert parse_date(text) == day
    assert format_date(day) == text


@given(st.integers(FIRST_DAY, LAST_DAY) | st.integers(-1_000_000, 100_000))
def test_every_date_comes_back(day: int) -> None:
    assert parse_date(format_date(day)) == day


@given(st.dates())
def test_dates_agree_with_the_standard_library(date: dt.date) -> None:
    assert parse_date(date.isoformat().encode()) == (date - EPOCH.date()).days


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        (b"1970-01-01 00:00:00", 0),
        (b"1969-12-31 23:59:59.999999", -1),
        (b"2024-02-29 12:34:56.5", 1_709_210_096_500_000),
        (b"0044-03-15 12:00:00 BC", -63_517_780_800_000_000),
        (b"0044-03-15 12:00:00.123 BC", -63_517_780_799_877_000),
        (b"4714-11-24 00:00:00 BC", FIRST_DAY * DAY_US),
        (b"10000-01-01 00:00:00.00001", 253_402_300_800_000_010),
        (b"294247-01-10 04:00:54.775806", LONG_MAX - 1),
        (b"294247-01-10 04:00:54.775807", LONG_MIN + 1),  # LONG_MAX is infinity
        (b"294247-01-10 04:00:54.775808", LONG_MIN + 2),
        (b"294276-12-31 23:59:59.999999", LONG_MIN + 1 + LAST_TIMESTAMP - LONG_MAX),
        (b"infinity", LONG_MAX),
        (b"-infinity", LONG_MIN),
    ],
)
def test_timestamps_are_microseconds_since_1970(text: bytes, micros: int) -> None:
    assert parse_timestamp(text) == micros
    assert format_timestamp(micros) == text
    zoned = (
        text
        if text.endswith(b"infinity")
        else text.replace(b" BC", b"") + b"+00" + text[-3:] * (text.endswith(b" BC"))
    )
    assert parse_timestamptz(zoned) == micros
    assert format_timestamptz(micros) == zoned


@given(st.datetimes())
def test_timestamps_agree_with_the_standard_library(moment: dt.datetime) -> None:
    micros = (moment - EPOCH) // dt.timedelta(microseconds=1)
    assert parse_timestamp(format_timestamp(micros)) == micros
    assert (
        dt.datetime.fromisoformat(format_timestamp(micros).decode().ljust(20, ".").ljust(26, "0")) == moment
    )


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        (b"00:00:00", 0),
        (b"23:59:59.999999", DAY_US - 1),
        (b"24:00:00", DAY_US),
        (b"04:05:06.7", 14_706_700_000),
    ],
)
def test_times_are_microseconds_since_midnight(text: bytes, micros: int) -> None:
    assert parse_time(text) == micros
    assert format_time(micros) == text


@pytest.mark.parametrize(
    "text",
    [
        b"", b"2024-02-30", b"2023-02-29", b"2024-13-01", b"2024-00-01", b"2024-1-1", b"01/02/2024",
        b"02024-01-01", b"0000-01-01", b"0000-01-01 BC", b"4714-11-23 BC", b"5874898-01-01",
        b"2024-01-01 ", b" 2024-01-01",
        b"2024-01-01 AD", b"Infinity", b"2024-01-0\xd9\xa1", b"2024-01-01\n",
    ],
)  # fmt: skip
def test_a_date_that_postgresql_would_not_write_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        parse_date(text)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"2024-01-01", b"2024-01-01 24:00:00", b"2024-01-01 12:60:00", b"2024-01-01 12:00:60",
        b"2024-01-01T12:00:00", b"2024-01-01 12:00:00.", b"2024-01-01 12:00:00.50",
        b"2024-01-01 12:00:00.1234567", b"2024-01-01 12:00:00,5", b"2024-01-01 12:00:00.+5",
        b"2024-01-01 12:00:00+00",
        b"2024-01-01 12:00:00 bc", b"294277-01-01 00:00:00", b"4714-11-23 23:59:59 BC",
        b"02024-01-01 12:00:00", b"2024-02-30 12:00:00",
    ],
)  # fmt: skip
def test_a_timestamp_that_postgresql_would_not_write_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        parse_timestamp(text)


@pytest.mark.parametrize(
    "text", [b"2024-01-01 12:00:00", b"2024-01-01 12:00:00+02", b"2024-01-01 12:00:00+00:00"]
)
def test_a_timestamptz_in_another_zone_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="not a timestamptz in UTC"):
        parse_timestamptz(text)


@pytest.mark.parametrize(
    "text", [b"", b"24:00:01", b"24:00:00.1", b"1:02:03", b"12:00", b"12:00:00.0", b"12:00:00 "]
)
def test_a_time_that_postgresql_would_not_write_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        parse_time(text)


@pytest.mark.parametrize("day", [FIRST_DAY - 1, LAST_DAY + 1, INT_MAX - 1, INT_MIN + 1])
def test_a_day_that_postgresql_does_not_have_is_refused(day: int) -> None:
    with pytest.raises(ValueError, match="no date that PostgreSQL has"):
        format_date(day)


def test_microseconds_that_postgresql_does_not_have_are_refused() -> None:
    for micros in (FIRST_DAY * DAY_US - 1, LONG_MIN + 2 + LAST_TIMESTAMP - LONG_MAX):
        with pytest.raises(ValueError, match="no timestamp that PostgreSQL has"):
            format_timestamp(micros)
    for micros in (-1, DAY_US + 1):
        with pytest.raises(ValueError, match="no time that PostgreSQL has"):
            format_time(micros)
