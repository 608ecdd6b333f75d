"""What `status` shows on a narrow terminal, and of names that are no friends."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest
from rich.console import Console

from pipeline.cli.statusview import render


def seen(**more: Any) -> dict[str, Any]:
    stage = {
        "state": "catching_up",
        "end_lsn": "16/B374D848",
        "lag_s": 185.0,
        "lag_bytes": 5 << 20,
        "rates": {"changes_per_s": 1200.0, "bytes_per_s": 5e6},
        "waiting_for": None,
        "standby": None,
        "last_error": None,
    }
    return {
        "name": "crm",
        "state": "catching_up",
        "capture": stage,
        "replicas": {"standby": stage},
        "source": {"keep_limit_bytes": None},
        "slot": {
            "name": "keepstream_crm",
            "exists": True,
            "active": True,
            "retained_bytes": 1,
            "time_to_full_s": None,
            "wal_status": "reserved",
            "wal_bytes_per_s": 1.0,
        },
        "not_replicated": [],
        "findings": [],
    } | more


def shown(status: dict[str, Any], width: int) -> list[str]:
    screen = io.StringIO()
    Console(file=screen, width=width, highlight=False).print(render(status))
    return screen.getvalue().splitlines()


@pytest.mark.parametrize(
    ("width", "row"),
    [
        (100, "standby catching_up 16/B374D848 3 min 05 s 5.0 MiB 1200 4.8 MiB"),
        (79, "standby catching_up 16/B374D848 3 min 05 s 5.0 MiB 1200"),
        (60, "standby catching_up 16/B374D848 3 min 05 s"),
        (40, "standby catching_up 3 min 05 s"),
        (25, "standby catching_up"),
    ],
)
def test_a_narrow_terminal_gets_fewer_columns_and_none_that_is_cut(width: int, row: str) -> None:
    lines = shown(seen(), width)
    assert row in [" ".join(line.split()) for line in lines]
    assert not any("…" in line for line in lines)


def test_no_control_character_of_a_name_is_shown_raw() -> None:
    evil = "x\x1b]0;owned\x07\ny\x9b"
    finding = {"severity": "error", "where": "source", "message": evil, "code": "c", "hint": evil}
    lines = shown(seen(not_replicated=[{"table": evil, "reason": evil}], findings=[finding]), 200)
    assert "not replicated: x\\x1b]0;owned\\x07\\ny\\x9b (x\\x1b]0;owned\\x07\\ny\\x9b)" in lines
    assert all(line.isprintable() for line in lines)


def test_what_to_do_about_an_error_is_told_until_it_is_history() -> None:
    error = {"code": "c", "message": "refused", "hint": "Run this.", "at": time.time()}
    stopped = seen()["capture"] | {"state": "stopped", "last_error": error}
    assert "  Run this." in shown(seen(replicas={"standby": stopped}), 100)
    assert "  Run this." not in shown(seen(replicas={"standby": stopped | {"state": "idle"}}), 100)


def test_the_form_of_rows_is_told_while_it_is_binary() -> None:
    status = seen()
    assert "binary" not in "".join(shown(status, 100))
    status["capture"] = status["capture"] | {"form": "binary"}
    assert "capture: rows come in binary form, a value is too large for text" in shown(status, 100)


@pytest.mark.parametrize("state", ["idle", "retrying"])
def test_an_error_of_the_past_is_told_with_its_age(state: str) -> None:
    error = {"code": "log-unreachable", "message": "no answer", "hint": "", "at": time.time() - 300}
    status = seen()
    status["capture"] = status["capture"] | {"state": state, "last_error": error}
    (line,) = [line for line in shown(status, 100) if "last error" in line]
    assert line.strip() == "capture: last error, 5 min 00 s ago [log-unreachable] no answer"
