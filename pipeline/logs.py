"""Logs: one event a line on stderr, as text or JSON, a fixed event text plus fields.

    logger = logging.getLogger("keepstream.capture")
    logger.info("slot created", extra={"slot": slot, "lsn": format_lsn(lsn)})

Fields come from `extra`; `name`, `msg`, `args` and `message` are logging's own words and cannot be
used there. A traceback is written only at debug level: its texts may hold row values.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from pipeline.printable import printable, printable_json, printable_lines

_OWN_ATTRIBUTES = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class LogFormat(Enum):
    TEXT = "text"
    JSON = "json"


class LogLevel(Enum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def set_up_logs(log_format: LogFormat, level: LogLevel) -> None:
    """Send this process's logs to stderr. May be called again to change either."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format is LogFormat.JSON else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.value.upper())
    # kafka-python reports each failed attempt; what matters comes to us as an exception.
    debugging = level is LogLevel.DEBUG
    logging.getLogger("kafka").setLevel(logging.DEBUG if debugging else logging.CRITICAL)


def say(text: str) -> None:
    """A word to whoever called, on stderr, at any level: plain, or a log line where those are JSON."""
    root = logging.getLogger()
    if any(isinstance(handler.formatter, JsonFormatter) for handler in root.handlers):
        logger = logging.getLogger("keepstream.cli")
        logger.handle(logger.makeRecord(logger.name, logging.INFO, "", 0, text, (), None))
    else:
        sys.stderr.write(f"{printable_lines(text)}\n")
        sys.stderr.flush()


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What was given as `extra`."""
    return {name: value for name, value in record.__dict__.items() if name not in _OWN_ATTRIBUTES}


class TextFormatter(logging.Formatter):
    """`2026-11-22T22:15:00.123Z warning capture: slot falls behind slot=keepstream_crm bytes=1`"""

    def format(self, record: logging.LogRecord) -> str:
        head = f"{_time(record)} {record.levelname.lower():7} {_topic(record)}: {record.getMessage()}"
        fields = "".join(f" {name}={_text(value)}" for name, value in fields_of(record).items())
        return printable(head + fields) + printable_lines(_traceback(record))


class JsonFormatter(logging.Formatter):
    """One object a line: `time`, `level`, `logger`, `event`, and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": _topic(record),
            "event": record.getMessage(),
            **fields_of(record),
        }
        trace = _traceback(record)
        if trace:
            line["traceback"] = trace.strip()
        return printable_json(json.dumps(line, ensure_ascii=False, default=str))


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _topic(record: logging.LogRecord) -> str:
    first, _, rest = record.name.partition(".")
    return rest if first in ("keepstream", "pipeline", "connectors") and rest else record.name


def _text(value: object) -> str:
    text = str(value)
    plain = text.isprintable() and text and not any(character in text for character in ' "=')
    return text if plain else json.dumps(text, ensure_ascii=False)


def _traceback(record: logging.LogRecord) -> str:
    if not record.exc_info or not record.exc_info[0] or logging.getLogger().level > logging.DEBUG:
        return ""
    return "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
