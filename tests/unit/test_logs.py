"""Logs as text and as JSON."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from pipeline.logs import JsonFormatter, LogFormat, LogLevel, TextFormatter, say, set_up_logs


def record(event: str, level: int = logging.WARNING, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("keepstream.capture", level, __file__, 1, event, None, None)
    made.__dict__.update(fields)
    made.created = 1763850000.125
    return made


def test_a_text_line_has_time_level_topic_event_and_fields() -> None:
    line = TextFormatter().format(
        record("slot falls behind", slot="keepstream_crm", bytes=3, reason="a b\nc")
    )
    assert line == (
        "2025-11-22T22:20:00.125Z warning capture: slot falls behind "
        'slot=keepstream_crm bytes=3 reason="a b\\nc"'
    )


def test_no_control_character_gets_raw_into_a_line() -> None:
    evil = record("table \x1b]0;x\x07 joins\n", table="\x9b\x1b", error="\x9bplain")
    text, as_json = TextFormatter().format(evil), JsonFormatter().format(evil)
    assert text.endswith('capture: table \\x1b]0;x\\x07 joins\\n table="\\x9b\\u001b" error="\\x9bplain"')
    assert as_json.isprintable()
    assert json.loads(as_json)["table"] == "\x9b\x1b"


def test_a_json_line_is_one_object_with_the_same() -> None:
    line = json.loads(JsonFormatter().format(record("slot falls behind", slot="ü", bytes=3, why=None)))
    assert line == {
        "time": "2025-11-22T22:20:00.125Z",
        "level": "warning",
        "logger": "capture",
        "event": "slot falls behind",
        "slot": "ü",
        "bytes": 3,
        "why": None,
    }


def test_a_traceback_is_left_out_above_debug_level() -> None:
    made = record("stage failed")
    try:
        raise ValueError("a row")
    except ValueError:
        made.exc_info = sys.exc_info()
    root = logging.getLogger()
    before = root.level
    try:
        root.setLevel(logging.INFO)
        assert "a row" not in TextFormatter().format(made) + JsonFormatter().format(made)
        root.setLevel(logging.DEBUG)
        assert "a row" in TextFormatter().format(made)
    finally:
        root.setLevel(before)


@pytest.mark.parametrize("log_format", list(LogFormat))
def test_a_word_to_the_caller_is_plain_or_a_log_line(
    log_format: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        set_up_logs(log_format, LogLevel.ERROR)
        say("verify: 3 of 7 tables")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    said = capsys.readouterr().err
    if log_format is LogFormat.JSON:
        assert json.loads(said) | {"time": ""} == {
            "time": "",
            "level": "info",
            "logger": "cli",
            "event": "verify: 3 of 7 tables",
        }
    else:
        assert said == "verify: 3 of 7 tables\n"
