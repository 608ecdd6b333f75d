"""`keepstream status`: where everything stands, once or again and again."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.invocation import invocation
from pipeline.logs import say

if TYPE_CHECKING:
    from pipeline.control.conditions import Condition
    from pipeline.control.observer import Observer

app = typer.Typer()

WATCH_EVERY_S = 1.0


@app.command()
def status(
    context: typer.Context,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Again every second, until Ctrl-C.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document; with --watch one object a line.")
    ] = False,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-if",
            metavar="CONDITION",
            help="End with 7 if it holds: a state, or FIGURE>LIMIT with lag_s, lag_bytes, retained_bytes,"
            " time_to_full_s, for example lag_s>60 or retained_bytes>10GB. Repeatable.",
        ),
    ] = None,
) -> None:
    """Lag, slot, rates and last error of every stage. Works from any host that reaches the servers."""
    from pipeline.control.conditions import parse_condition
    from pipeline.control.observer import Observer
    from pipeline.signals import stop_on_signals

    conditions = [parse_condition(text) for text in fail_if or ()]
    observer = Observer(invocation(context).config)
    try:
        if watch:
            _watch(observer, conditions, stop_on_signals(), as_json=as_json)
        else:
            _once(observer, conditions, as_json=as_json)
    finally:
        observer.close()


def _once(observer: Observer, conditions: list[Condition], *, as_json: bool) -> None:
    from pipeline.cli.output import console, print_json
    from pipeline.cli.statusview import render
    from pipeline.control.judgement import judge_status
    from pipeline.control.observer import first_look_s

    seen = judge_status(observer.look(first_look_s())).to_json()
    if as_json:
        print_json(seen)
    else:
        console().print(render(seen))
    if _say_what_holds(conditions, seen):
        raise typer.Exit(7)


def _watch(observer: Observer, conditions: list[Condition], stop: threading.Event, *, as_json: bool) -> None:
    """Ends with 7 as soon as a condition holds."""
    from pipeline.control.judgement import judge_status

    show = _shower(as_json=as_json)
    with show:
        while not stop.is_set():
            began = time.monotonic()
            seen = judge_status(observer.look()).to_json()
            show(seen)
            if _say_what_holds(conditions, seen):
                raise typer.Exit(7)
            stop.wait(max(0.0, WATCH_EVERY_S - (time.monotonic() - began)))


def _shower(*, as_json: bool) -> Any:
    from pipeline.cli.statusview import LiveView, PlainView

    return LiveView() if sys.stdout.isatty() and not as_json else PlainView(as_json=as_json)


def _say_what_holds(conditions: list[Condition], seen: dict[str, Any]) -> bool:
    holding = [said for condition in conditions for said in condition.holds(seen)]
    for said in holding:
        say(f"unhealthy: {said}")
    return bool(holding)
