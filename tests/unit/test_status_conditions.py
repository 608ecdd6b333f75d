"""`--fail-if`: what can be written, and when it holds."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.control.conditions import parse_condition
from schemas.errors import UsageError


def seen(**figures: Any) -> dict[str, Any]:
    standby = {"state": "streaming", "lag_s": 61.0, "lag_bytes": 2_000_000_000} | figures.pop("standby", {})
    slot = {"retained_bytes": 5 << 30, "time_to_full_s": 7000} | figures.pop("slot", {})
    return {"capture": {"state": "idle"}, "replicas": {"standby": standby}, "slot": slot}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("lag_s>60", True),
        ("lag_s > 61", False),
        ("lag_s>1m", True),
        ("lag_s>1.5m", False),
        ("lag_s>1h", False),
        ("lag_bytes>1GB", True),
        ("lag_bytes>1.9GiB", False),
        ("lag_bytes>2GB", False),
        ("retained_bytes>5GB", True),
        ("retained_bytes>5GiB", False),
        ("retained_bytes>100", True),
        ("time_to_full_s<2h", True),
        ("time_to_full_s<1h", False),
        ("streaming", True),
        ("state=streaming", True),
        ("idle", True),
        ("state = stalled", False),
        ("unknown", False),
    ],
)
def test_a_condition_holds_if_any_stage_fulfils_it(text: str, holds: bool) -> None:
    assert bool(list(parse_condition(text).holds(seen()))) is holds


def test_what_holds_is_said_in_a_sentence() -> None:
    assert list(parse_condition("lag_s>60").holds(seen())) == ["lag_s of standby is 61 (lag_s>60)"]
    assert list(parse_condition("idle").holds(seen())) == ["capture is idle"]
    assert list(parse_condition("retained_bytes>1").holds(seen(slot={"retained_bytes": None}))) == [
        "retained_bytes of the slot is unknown (retained_bytes>1)"
    ]


def test_an_unknown_lag_fails_and_an_unknown_time_to_full_means_never() -> None:
    unknown = seen(standby={"lag_s": None, "state": None}, slot={"time_to_full_s": None})
    assert list(parse_condition("lag_s>60").holds(unknown)) == ["lag_s of standby is unknown (lag_s>60)"]
    assert list(parse_condition("unknown").holds(unknown)) == ["standby is unknown"]
    assert list(parse_condition("time_to_full_s<1h").holds(unknown)) == []


@pytest.mark.parametrize(
    "text",
    ["", "lag", "lag_s", "lag_s>", "lag_s>x", "lag_s=60", "lag_s>1GB", "speed>3", "state=", "state=fine"],
)
def test_anything_else_is_refused_with_examples(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_condition(text)
    assert refused.value.code == "condition-invalid"
    assert "--fail-if 'lag_s>60'" in refused.value.hint
