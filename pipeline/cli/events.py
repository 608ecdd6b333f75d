"""`keepstream events tail`: changes as JSON lines, or as text for people."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.invocation import invocation
from schemas.errors import UsageError

if TYPE_CHECKING:
    from connectors.interfaces import ChangeLog
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
) -> None:
    """Print every change of whole transactions, in commit order. Ends with SIGTERM or Ctrl-C."""
    from pipeline.app import open_log
    from pipeline.cli.output import print_json_line, print_text
    from pipeline.events.tail import EventTail
    from pipeline.signals import stop_on_signals

    log = open_log(invocation(context).config)
    try:
        patterns = [_pattern(text) for text in table or ()]
        reading = EventTail(log, _beginning(log, start))
        for event in reading.events(stop_on_signals(), follow=follow):
            named = (event["schema"], event["name"])
            if patterns and not (named[1] and any(p.matches(*named) for p in patterns)):
                continue
            if as_json:
                print_json_line(event)
            else:
                print_text(_line(event))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has seen enough
    finally:
        log.close()


def _pattern(text: str) -> TablePattern:
    from pipeline.config.values import TablePattern

    try:
        return TablePattern.parse(text)
    except ValueError as error:
        raise UsageError(
            f"--table {text!r} {error}", code="table-pattern-invalid", hint="For example --table 'public.*'."
        ) from error


def _beginning(log: ChangeLog, start: str) -> Beginning:
    from pipeline.cli.apply import parse_until
    from pipeline.events.tail import Beginning
    from pipeline.follow import find_tail

    if start == "start":
        return Beginning()
    if start == "now":
        tail_follower = find_tail(log)
        tail_follower.close()
        return Beginning(lsn=tail_follower.chain.tail.lsn)
    try:
        lsn, time = parse_until(start)
    except UsageError as error:
        raise UsageError(
            f"--from is none of start, now, an LSN, a time: {start!r}", code="from-invalid", hint=error.hint
        ) from error
    return Beginning(lsn=lsn or 0, time=time or 0)


def _line(event: dict[str, Any]) -> str:
    name = f"{event['schema']}.{event['name']}" if event["name"] else ""
    shown = [event["commit_time"], event["commit_lsn"], f"{event['op']:<8}", name]
    if event["key"]:
        shown.append(" ".join(f"{column}={value}" for column, value in event["key"].items()))
    if event["after"] is not None:
        before = event["before"] or {}
        changed = {k: v for k, v in event["after"].items() if k not in before or before[k] != v}
        shown.append(" ".join(f"{column}={value}" for column, value in changed.items()))
    return "  ".join(part for part in shown if part)
