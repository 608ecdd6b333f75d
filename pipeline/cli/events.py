"""`keepstream events tail`: changes as JSON lines, or as text for people."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.invocation import invocation
from pipeline.cli.output import json_line
from pipeline.printable import printable
from schemas.errors import UsageError

if TYPE_CHECKING:
    from pipeline.config.values import TablePattern
    from pipeline.events.tail import Beginning

app = typer.Typer(no_args_is_help=True)


@app.callback()
def events() -> None:
    """Read changes from the log."""


@app.command()
def tail(
    context: typer.Context,
    *,
    table: Annotated[
        list[str] | None, typer.Option("--table", help="Only of this schema.table; * matches; repeatable.")
    ] = None,
    start: Annotated[
        str,
        typer.Option("--from", metavar="start|now|LSN|TIME", help="Where to begin; TIME is RFC 3339."),
    ] = "now",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    follow: Annotated[bool, typer.Option(help="Go on as the log grows.")] = True,
    longest: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="CHARACTERS", help='Of longer values show the length alone, as {"length": N}.'
        ),
    ] = None,
) -> None:
    """Print every change of whole transactions, in commit order. Ends with SIGTERM or Ctrl-C."""
    from pipeline.app import open_log
    from pipeline.events.tail import EventTail
    from pipeline.events.value import shortened
    from pipeline.signals import stop_on_signals

    patterns, beginning = [_pattern(text) for text in table or ()], _beginning(start)
    log = open_log(invocation(context).config)
    show = json_line if as_json else _line
    try:
        reading = EventTail(log, beginning)
        for event in reading.events(stop_on_signals(), follow=follow, before_waiting=sys.stdout.flush):
            if not patterns or _named_by(patterns, event):
                event = event if longest is None else shortened(event, longest)
                sys.stdout.write(show(event) + "\n")
        sys.stdout.flush()
    finally:
        log.close()


def _named_by(patterns: list[TablePattern], event: dict[str, Any]) -> bool:
    schema, name = event["schema"], event["name"]
    return name is not None and any(pattern.matches(schema, name) for pattern in patterns)


def _pattern(text: str) -> TablePattern:
    from pipeline.config.values import TablePattern

    try:
        return TablePattern.parse(text)
    except ValueError as error:
        raise UsageError(
            f"--table {text!r} {error}", code="table-pattern-invalid", hint="For example --table 'public.*'."
        ) from error


def _beginning(start: str) -> Beginning:
    from pipeline.cli.apply import parse_until
    from pipeline.events.tail import Beginning
    from schemas.lsn import ZERO

    if start in ("start", "now"):
        return Beginning(now=start == "now")
    try:
        lsn, time = parse_until(start)
    except UsageError as error:
        raise UsageError(
            f"--from is none of start, now, an LSN, a time: {start!r}", code="from-invalid", hint=error.hint
        ) from error
    return Beginning(lsn=lsn or ZERO, time=time or 0)


def _line(event: dict[str, Any]) -> str:
    name = f"{event['schema']}.{event['name']}" if event["name"] else ""
    shown = [event["commit_time"], event["commit_lsn"], f"{event['op']:<8}", name]
    shown += _pairs(event["key"] or {})
    if event["after"] is not None:
        known = (event["before"] or {}) | (event["key"] or {})
        shown += _pairs({k: v for k, v in event["after"].items() if k not in known or known[k] != v})
    return printable("  ".join(part for part in shown if part))


def _pairs(values: dict[str, Any]) -> list[str]:
    """Quoted, so that no value can break the line."""
    return [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
