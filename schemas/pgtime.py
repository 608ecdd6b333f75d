"""date, time, timestamp and timestamptz: PostgreSQL's text under `DateStyle ISO` and `TimeZone UTC` ↔
days and microseconds since 1970-01-01.

The calendar is PostgreSQL's: proleptic Gregorian, 4714-11-24 BC up to the year 294276 (5874897 for a
date). ±infinity are PostgreSQL's own sentinels, the ends of int32 and int64. The last thirty years of
timestamp (from 294247-01-10 04:00:54.775807 on) are past int64 when counted from 1970; they take numbers
that no timestamp has, right after -infinity: LONG_MIN + 1 stands for LONG_MAX microseconds, and so on.

Every function raises ValueError for a text that PostgreSQL would not write.
"""

from __future__ import annotations

import re
from typing import Final

from schemas.varint import INT_MAX, INT_MIN, LONG_MAX, LONG_MIN

DAY_US: Final = 86_400_000_000
SECOND_US: Final = 1_000_000
_MEMO_LIMIT: Final = 1 << 17

_DATE: Final = re.compile(rb"(\d{4,7})-(\d\d)-(\d\d)")
_CLOCK: Final = re.compile(rb" ([01]\d|2[0-3]):([0-5]\d):([0-5]\d)")
_TIMESTAMP: Final = re.compile(rb"(\d{4,7}-\d\d-\d\d)( \d\d:\d\d:\d\d)((?:\.\d{1,6})?)((?: BC)?)")
# Days before each month in a year that begins in March: January, February, March …
_MONTH_START: Final = (306, 337, 0, 31, 61, 92, 122, 153, 184, 214, 245, 275)
_EPOCH_DAY: Final = 719_468  # 1970-01-01 counted from 0000-03-01
_ERA_DAYS: Final = 146_097  # of 400 years
_FIRST_DAY: Final = -2_440_588  # 4714-11-24 BC, Julian day 0
_FIRST_AD_DAY: Final = -719_162
_AFTER_LAST_DATE: Final = 2_145_042_906
_AFTER_LAST_TIMESTAMP: Final = 9_224_318_016_000_000_000  # 294277-01-01
_OVERFLOW: Final = LONG_MAX - (LONG_MIN + 1)
_LAST_OVERFLOWED: Final = _AFTER_LAST_TIMESTAMP - _OVERFLOW
_FIRST_US: Final = _FIRST_DAY * DAY_US


class _DayStarts(dict[bytes, int]):
    """`2024-05-01` → microseconds since 1970 at its start, remembered: rows name few days."""

    def __missing__(self, text: bytes) -> int:
        if len(self) >= _MEMO_LIMIT:
            self.clear()
        start = self[text] = _parse_day(text) * DAY_US
        return start


class _Clocks(dict[bytes, int]):
    """` 12:34:56` → microseconds since midnight; at most 86 400 entries."""

    def __missing__(self, text: bytes) -> int:
        match = _CLOCK.fullmatch(text)
        if match is None:
            raise ValueError("not a time of day in PostgreSQL's form")
        micros = self[text] = (int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3])) * SECOND_US
        return micros


class _DayTexts(dict[int, bytes]):
    """Days since 1970 → `2024-05-01`, remembered. Not for years BC."""

    def __missing__(self, day: int) -> bytes:
        if len(self) >= _MEMO_LIMIT:
            self.clear()
        text = self[day] = _format_day(day)
        return text


DAY_START_US: Final = _DayStarts()
CLOCK_US: Final = _Clocks()
DAY_TEXT: Final = _DayTexts()


def parse_date(text: bytes) -> int:
    """→ days since 1970-01-01."""
    if text.endswith(b" BC"):
        return _parse_day(text[:-3], before_christ=True)
    if text == b"infinity":
        return INT_MAX
    if text == b"-infinity":
        return INT_MIN
    return _parse_day(text)


def format_date(day: int) -> bytes:
    """Days since 1970-01-01 → text."""
    if _FIRST_AD_DAY <= day < _AFTER_LAST_DATE:
        return DAY_TEXT[day]
    if day == INT_MAX:
        return b"infinity"
    if day == INT_MIN:
        return b"-infinity"
    if _FIRST_DAY <= day < _FIRST_AD_DAY:
        return _format_day(day) + b" BC"
    raise ValueError("no date that PostgreSQL has")


def parse_time(text: bytes) -> int:
    """→ microseconds since midnight; 24:00:00 is a time of its own."""
    if text == b"24:00:00":
        return DAY_US
    return CLOCK_US[b" " + text[:8]] + _parse_fraction(text[8:])


def format_time(micros: int) -> bytes:
    """Microseconds since midnight → text."""
    if micros == DAY_US:
        return b"24:00:00"
    if 0 <= micros < DAY_US:
        return _format_clock(micros)
    raise ValueError("no time that PostgreSQL has")


def parse_timestamp(text: bytes) -> int:
    """timestamp → microseconds since 1970-01-01 00:00:00 (see above for ±infinity and far years)."""
    if text[4:5] == b"-" and text[-1:] != b"C":
        micros = DAY_START_US[text[:10]] + CLOCK_US[text[10:19]]
        return micros + _parse_fraction(text[19:]) if len(text) > 19 else micros
    return _parse_rare_timestamp(text)


def format_timestamp(micros: int) -> bytes:
    """Microseconds since 1970-01-01 00:00:00 → timestamp's text."""
    day, clock = divmod(micros, DAY_US)
    if day >= _FIRST_AD_DAY and micros != LONG_MAX:
        return DAY_TEXT[day] + b" " + _format_clock(clock)
    return _format_rare_timestamp(micros, b"")


def parse_timestamptz(text: bytes) -> int:
    """timestamptz in UTC → microseconds since 1970-01-01 00:00:00 UTC."""
    if text.endswith(b"+00"):
        return parse_timestamp(text[:-3])
    if text.endswith(b"+00 BC"):
        return parse_timestamp(text[:-6] + b" BC")
    if text in (b"infinity", b"-infinity"):
        return parse_timestamp(text)
    raise ValueError("not a timestamptz in UTC")


def format_timestamptz(micros: int) -> bytes:
    """Microseconds since 1970-01-01 00:00:00 UTC → timestamptz's text in UTC."""
    day, clock = divmod(micros, DAY_US)
    if day >= _FIRST_AD_DAY and micros != LONG_MAX:
        return DAY_TEXT[day] + b" " + _format_clock(clock) + b"+00"
    return _format_rare_timestamp(micros, b"+00")


def _parse_rare_timestamp(text: bytes) -> int:
    if text == b"infinity":
        return LONG_MAX
    if text == b"-infinity":
        return LONG_MIN
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        raise ValueError("not a timestamp in PostgreSQL's form")
    start = _parse_day(match[1], before_christ=bool(match[4])) * DAY_US
    micros = start + CLOCK_US[match[2]] + _parse_fraction(match[3])
    if micros >= _AFTER_LAST_TIMESTAMP:
        raise ValueError("later than PostgreSQL's last timestamp")
    return micros if micros < LONG_MAX else micros - _OVERFLOW


def _format_rare_timestamp(micros: int, zone: bytes) -> bytes:
    if micros == LONG_MAX:
        return b"infinity"
    if micros == LONG_MIN:
        return b"-infinity"
    if micros < _LAST_OVERFLOWED:
        micros += _OVERFLOW
    elif micros < _FIRST_US:
        raise ValueError("no timestamp that PostgreSQL has")
    day, clock = divmod(micros, DAY_US)
    era = b" BC" if day < _FIRST_AD_DAY else b""
    return _format_day(day) + b" " + _format_clock(clock) + zone + era


def _parse_day(text: bytes, before_christ: bool = False) -> int:
    match = _DATE.fullmatch(text)
    if match is None:
        raise ValueError("not a date in PostgreSQL's form")
    year, month, day_of_month = (int(part) for part in match.groups())
    if before_christ:
        year = 1 - year
    if not 1 <= month <= 12:
        raise ValueError("no such month")
    era, year_of_era = divmod(year - (month <= 2), 400)
    day_of_era = 365 * year_of_era + year_of_era // 4 - year_of_era // 100 + _MONTH_START[month - 1]
    day = era * _ERA_DAYS + day_of_era + day_of_month - 1 - _EPOCH_DAY
    # The way back refuses 30 February, the year 0 and five digits that four would do for.
    if not _FIRST_DAY <= day < _AFTER_LAST_DATE or _format_day(day) != text or (year < 1) != before_christ:
        raise ValueError("not a date in PostgreSQL's form")
    return day


def _format_day(day: int) -> bytes:
    era, day_of_era = divmod(day + _EPOCH_DAY, _ERA_DAYS)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month_from_march = (5 * day_of_year + 2) // 153
    day_of_month = day_of_year - (153 * month_from_march + 2) // 5 + 1
    month = month_from_march + 3 if month_from_march < 10 else month_from_march - 9
    year = era * 400 + year_of_era + (month <= 2)
    return b"%04d-%02d-%02d" % (year if year > 0 else 1 - year, month, day_of_month)


def _parse_fraction(text: bytes) -> int:
    """`.5` → 500000. PostgreSQL writes no trailing zeros, and no point without a digit."""
    if not text:
        return 0
    digits = text[1:]
    if text[:1] == b"." and digits.isdigit() and len(digits) <= 6 and digits[-1:] != b"0":
        return int(digits.ljust(6, b"0"))
    raise ValueError("not a fraction of a second in PostgreSQL's form")


def _format_clock(micros: int) -> bytes:
    seconds, fraction = divmod(micros, SECOND_US)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    clock = b"%02d:%02d:%02d" % (hour, minute, second)
    return clock + (b".%06d" % fraction).rstrip(b"0") if fraction else clock
