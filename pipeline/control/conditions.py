"""`--fail-if`: conditions on a status.

    condition  = state | "state=" state | figure ">" limit
    state      = starting | copying | … | stopped | unknown
    figure     = lag_s | lag_bytes | retained_bytes | time_to_full_s
    limit      = number with an optional unit: s, m, h, d for seconds; kB … TB, KiB … TiB for bytes

`<` is for time_to_full_s, where little is bad. A state holds if any stage is in it, a figure if any
replica's, or the slot's, is past the limit. A lag or retained WAL that is unknown fails its condition,
too: a check that cannot look must not say that all is well. An unknown time to full means never.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.reports import StageState
from schemas.errors import UsageError

_STATES = frozenset({state.value for state in StageState} | {"unknown"})
_CONDITION = re.compile(r"(?P<name>\w+)\s*(?P<sign>[<>=])\s*(?P<limit>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z]*)")
_STATE = re.compile(r"(?:state\s*=\s*)?(?P<state>\w+)")

_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1.0, "B": 1.0} | {
    f"{letter}{suffix}": factor ** (index + 1)
    for index, letter in enumerate("kMGT")
    for suffix, factor in (("B", 1000.0), ("iB", 1024.0))
}
_BYTES |= {"K" + unit[1:]: value for unit, value in _BYTES.items() if unit.startswith("k")}
_IN_REPLICAS = frozenset({"lag_s", "lag_bytes"})
_IN_SLOT = frozenset({"retained_bytes", "time_to_full_s"})


@dataclass(frozen=True, slots=True)
class Condition:
    """`sign` is `=` for a state, whose name is then `limit`."""

    text: str
    name: str
    sign: str
    limit: float | str

    def holds(self, seen: Mapping[str, Any]) -> Iterator[str]:
        """What fulfils it in a status's JSON, one sentence each; nothing if it does not hold."""
        stages = {"capture": seen["capture"], **seen["replicas"]}
        if self.sign == "=":
            for name, stage in stages.items():
                if (stage["state"] or "unknown") == self.limit:
                    yield f"{name} is {self.limit}"
            return
        if self.name in _IN_REPLICAS:
            for name, stage in seen["replicas"].items():
                yield from self._compare(f"{self.name} of {name}", stage[self.name])
        else:
            yield from self._compare(f"{self.name} of the slot", seen["slot"][self.name])

    def _compare(self, what: str, value: float | None) -> Iterator[str]:
        assert isinstance(self.limit, float)
        if value is None:
            if self.name != "time_to_full_s":
                yield f"{what} is unknown ({self.text})"
        elif value > self.limit if self.sign == ">" else value < self.limit:
            yield f"{what} is {value:g} ({self.text})"


def parse_condition(text: str) -> Condition:
    """Raises UsageError (`condition-invalid`)."""
    figure, state = _CONDITION.fullmatch(text.strip()), _STATE.fullmatch(text.strip())
    if state is not None and state["state"] in _STATES:
        return Condition(text, "state", "=", state["state"])
    if figure is None or figure["name"] not in _IN_REPLICAS | _IN_SLOT or figure["sign"] == "=":
        raise _invalid(text)
    units = _BYTES if figure["name"].endswith("_bytes") else _SECONDS
    if figure["unit"] not in units:
        raise _invalid(text)
    return Condition(text, figure["name"], figure["sign"], float(figure["limit"]) * units[figure["unit"]])


def _invalid(text: str) -> UsageError:
    figures = ", ".join(sorted(_IN_REPLICAS | _IN_SLOT))
    return UsageError(
        f"--fail-if does not know the condition {text!r}",
        code="condition-invalid",
        hint=f"Write a state ({', '.join(sorted(_STATES))}) or a figure ({figures}) with its limit, for"
        " example --fail-if stalled --fail-if 'lag_s>60' --fail-if 'retained_bytes>10GB'.",
    )
