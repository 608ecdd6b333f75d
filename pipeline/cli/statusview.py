"""How a status looks: a table for people, one line each second where there is no terminal.

A narrow terminal gets fewer columns, never cut ones.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline.cli.output import console, human_bytes, human_seconds, print_json_line, print_text, styled

_COLUMNS = ("stage", "state", "position", "lag", "lag bytes", "changes/s", "bytes/s")
_LEFT_OUT = ("bytes/s", "changes/s", "lag bytes", "position", "lag")
"""Where there is no room: the first before the others."""

_STYLES = {
    "streaming": "green",
    "idle": "green",
    "copying": "cyan",
    "catching_up": "cyan",
    "starting": "cyan",
    "paused": "yellow",
    "waiting_for_approval": "yellow",
    "retrying": "yellow",
    "stalled": "bold red",
    "stopped": "bold red",
}
_RECOVERED = frozenset({"streaming", "idle", "catching_up", "paused", "waiting_for_approval"})
"""What a stage's last error is of no more than history beside."""


def render(seen: dict[str, Any]) -> Group:
    """Everything, for `console().print`. `seen` is the status's JSON. Values are never read as markup."""
    return Group(_head(seen), _Stages(seen), _slot_line(seen), *_more(seen))


def _head(seen: dict[str, Any]) -> Text:
    return Text.assemble(styled(seen["name"], "bold"), "  ", _state(seen["state"]))


def _state(state: str | None) -> Text:
    return styled(state or "unknown", style=_STYLES.get(state or "", "yellow"))


class _Stages:
    """The table of stages, with as many columns as there is room for."""

    def __init__(self, seen: dict[str, Any]) -> None:
        stages = {"capture": seen["capture"], **seen["replicas"]}
        self._rows = [_cells(name, stage) for name, stage in stages.items()]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        unbounded = options.update(max_width=1000)
        table = self._table(())
        for count in range(1, len(_LEFT_OUT) + 1):
            if console.measure(table, options=unbounded).maximum <= options.max_width:
                break
            table = self._table(_LEFT_OUT[:count])
        yield table

    def _table(self, left_out: Sequence[str]) -> Table:
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        shown = [column for column in _COLUMNS if column not in left_out]
        for column in shown:
            table.add_column(column, overflow="fold")
        for row in self._rows:
            table.add_row(*(row[column] for column in shown))
        return table


def _cells(name: str, stage: dict[str, Any]) -> dict[str, Text]:
    rates = stage["rates"]
    return {
        "stage": styled(name),
        "state": _state(stage["state"]),
        "position": styled(stage["end_lsn"] or "-"),
        "lag": styled(human_seconds(stage["lag_s"])),
        "lag bytes": styled(human_bytes(stage["lag_bytes"])),
        "changes/s": styled(_number(rates["changes_per_s"])),
        "bytes/s": styled(human_bytes(rates["bytes_per_s"])),
    }


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _slot_line(seen: dict[str, Any]) -> Text:
    slot = seen["slot"]
    if not slot["exists"]:
        missing = "is not ours" if slot["foreign"] else "does not exist"
        return styled(f"slot {slot['name']}: {'unknown' if slot['exists'] is None else missing}")
    active = "active" if slot["active"] else "INACTIVE"
    full = f", full in {human_seconds(slot['time_to_full_s'])}" if slot["time_to_full_s"] is not None else ""
    limit = seen["source"]["keep_limit_bytes"]
    limits = f" of at most {human_bytes(limit)}" if limit is not None else ""
    return styled(
        f"slot {slot['name']}: {active}, keeps {human_bytes(slot['retained_bytes'])} of WAL{limits}{full}"
        f" ({slot['wal_status']}; the source writes {human_bytes(slot['wal_bytes_per_s'])}/s)"
    )


def _more(seen: dict[str, Any]) -> Iterator[Text]:
    for name, stage in {"capture": seen["capture"], **seen["replicas"]}.items():
        yield from _stage_lines(name, stage)
    sequences = seen["capture"].get("sequences")
    if sequences and sequences["read_at"]:
        ago = human_seconds(max(0.0, time.time() - sequences["read_at"]))
        yield styled(f"sequences: {sequences['count']}, read {ago} ago")
    for left_out in seen["not_replicated"]:
        yield styled(f"not replicated: {left_out['table']} ({left_out['reason']})", style="yellow")
    for finding in seen["findings"]:
        style = "red" if finding["severity"] == "error" else "yellow"
        yield styled(f"{finding['where']}: {finding['message']} [{finding['code']}]", style=style)
        if finding["hint"]:
            yield styled(f"  {finding['hint']}", style=style)


def _stage_lines(name: str, stage: dict[str, Any]) -> Iterator[Text]:
    if stage.get("copy"):
        yield styled(f"{name}: {_copy_line(stage['copy'])}")
    if stage.get("form") == "binary":
        yield styled(f"{name}: rows come in binary form, a value is too large for text")
    if stage.get("hold"):
        hold = stage["hold"]
        yield styled(f"{name}: held at {hold['at']} ({hold['kind']})", style="yellow")
    if stage["waiting_for"]:
        yield styled(f"{name}: waits for {stage['waiting_for']}")
    standby = stage["standby"]
    if standby:
        yield styled(f"{name}: process {standby['pid']} on {standby['host']} stands by")
    error = stage["last_error"]
    if error:
        ago = human_seconds(max(0.0, time.time() - error["at"]))
        style = "" if stage["state"] in _RECOVERED else "red"
        yield styled(f"{name}: last error, {ago} ago [{error['code']}] {error['message']}", style=style)
        if error["hint"] and stage["state"] not in _RECOVERED:
            yield styled(f"  {error['hint']}", style=style)


def _copy_line(copy: dict[str, Any]) -> str:
    estimated = f" of ~{copy['rows_estimated']}" if copy["rows_estimated"] else ""
    said = [
        f"copy: {copy['phase']}",
        f"{copy['tables']}/{copy['tables_total']} tables",
        f"{copy['rows']}{estimated} rows",
        human_bytes(copy["bytes"]),
    ]
    if copy["eta_s"] is not None:
        said.append(f"{human_seconds(copy['eta_s'])} left")
    if copy["source_xmin_age"] is not None:
        said.append(f"the source keeps the dead rows of {copy['source_xmin_age']} transactions")
    return ", ".join(said)


def line(seen: dict[str, Any]) -> str:
    """The same in one line."""
    stages = [f"capture {seen['capture']['state'] or 'unknown'}"]
    for name, replica in seen["replicas"].items():
        lag = f"lag {human_seconds(replica['lag_s'])} {human_bytes(replica['lag_bytes'])}"
        stages.append(f"{name} {replica['state'] or 'unknown'} at {replica['end_lsn'] or '-'} {lag}")
    kept = human_bytes(seen["slot"]["retained_bytes"])
    return f"{seen['state'] or 'unknown'}: {'; '.join(stages)}; slot keeps {kept}"


class PlainView:
    """One line a look."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def __enter__(self) -> PlainView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is open."""

    def __call__(self, seen: dict[str, Any]) -> None:
        if self._as_json:
            print_json_line(seen)
        else:
            print_text(line(seen))


class LiveView:
    """The table, drawn again in place."""

    def __init__(self) -> None:
        self._live = Live(console=console(), auto_refresh=False, transient=False)

    def __enter__(self) -> LiveView:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def __call__(self, seen: dict[str, Any]) -> None:
        self._live.update(render(seen), refresh=True)
