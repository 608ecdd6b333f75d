"""`keepstream apply REPLICA`: one stage, log to replica."""

from __future__ import annotations

import logging
import re
from datetime import datetime
from typing import Annotated

import typer

from pipeline.cli.invocation import invocation
from pipeline.signals import INTERRUPTED
from schemas.errors import UsageError
from schemas.lsn import Lsn, parse_lsn

logger = logging.getLogger("keepstream.apply")

app = typer.Typer()

_LSN = re.compile(r"[0-9A-Fa-f]+/[0-9A-Fa-f]+")


@app.command()
def apply(
    context: typer.Context,
    replica: Annotated[str, typer.Argument(metavar="REPLICA", help="Its name in the configuration.")],
    *,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="LSN|TIME",
            help="Stop there and hold the replica: before the first transaction that commits at or past the "
            "LSN, or that was committed past the time (RFC 3339, with its zone).",
        ),
    ] = None,
    skip_transaction: Annotated[
        str | None,
        typer.Option(metavar="LSN", help="Leave out the next transaction, which must be this one, and end."),
    ] = None,
    reason: Annotated[
        str | None, typer.Option(help="Why it is left out; kept in keepstream.audit of the replica.")
    ] = None,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="End another living applier of the replica at once.")
    ] = False,
) -> None:
    """Run one apply alone: log to REPLICA, after a first copy if it needs one.

    Ends with SIGTERM, at --until, or when an operator is needed; with exit code 130 if it is told to stop
    before the end that --until or --skip-transaction name.
    """
    from pipeline.signals import end_on_sigterm, stop_on_signals

    end_on_sigterm(INTERRUPTED if until or skip_transaction else 0)

    from pipeline.app import apply_options, first_copy_options, open_log
    from pipeline.apply.options import Skip
    from pipeline.apply.stage import run_apply
    from pipeline.board import Board
    from pipeline.copy.stage import FirstCopyStage
    from pipeline.memory import tune_memory

    _check_skip(skip_transaction, reason, until)
    until_lsn, until_time = parse_until(until)
    called = invocation(context)
    called.set_up_logs()
    log = open_log(called.config)
    try:
        options = apply_options(
            called.config,
            log,
            replica,
            until_lsn=until_lsn,
            until_time=until_time,
            skip=Skip(parse_lsn(skip_transaction), reason) if skip_transaction and reason else None,
            take_over=take_over,
        )
        stop, publish = stop_on_signals(), Board(log).publish
        tune_memory()
        first_copy = FirstCopyStage(first_copy_options(called.config, log, replica), stop, publish)
        reached = first_copy.run() and run_apply(options, stop, publish)
    finally:
        log.close()
    if not reached and (until or skip_transaction):
        logger.warning("apply stopped before the end that was asked for", extra={"replica": replica})
        raise typer.Exit(INTERRUPTED)


def _check_skip(skip_transaction: str | None, reason: str | None, until: str | None) -> None:
    if (skip_transaction is None) != (not (reason or "").strip()):
        raise UsageError(
            "--skip-transaction and --reason belong together",
            code="skip-without-reason",
            hint='Say which transaction and why: --skip-transaction 0/16B3748 --reason "…".',
        )
    if skip_transaction is not None and until is not None:
        raise UsageError(
            "--skip-transaction and --until exclude each other",
            code="options-exclusive",
            hint="Skip the transaction first, then apply until the LSN or time.",
        )


def parse_until(text: str | None) -> tuple[Lsn | None, int | None]:
    """(LSN, None) or (None, µs since 1970 UTC). Raises UsageError (`lsn-invalid`, `time-invalid`)."""
    if text is None:
        return None, None
    if _LSN.fullmatch(text):
        return parse_lsn(text), None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise UsageError(
            f"neither an LSN nor a time with its zone: {text!r}",
            code="time-invalid",
            hint="Write an LSN like 16/B374D848, or a time like 2026-03-01T12:00:00Z.",
        )
    return None, _microseconds(time)


def _microseconds(time: datetime) -> int:
    whole = int(time.replace(microsecond=0).timestamp())
    return whole * 1_000_000 + time.microsecond
