"""`keepstream verify REPLICA`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.invocation import LONGEST_S, invocation
from pipeline.signals import INTERRUPTED
from schemas.errors import UsageError

if TYPE_CHECKING:
    import threading

    from pipeline.cli.verifyscreen import VerifyScreen
    from pipeline.verify.meeting import VerifyOptions
    from pipeline.verify.repair import RepairOptions
    from pipeline.verify.result import (
        LargeObjectsResult,
        SequencesResult,
        TableResult,
        VerifyResult,
    )
    from pipeline.verify.scope import Scope

app = typer.Typer()

logger = logging.getLogger("keepstream.verify")

DIFFERENT = 6


@app.command()
def verify(
    context: typer.Context,
    replica: Annotated[str, typer.Argument(metavar="REPLICA", help="Its name in the configuration.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    workers: Annotated[
        int, typer.Option(min=1, max=32, help="Sessions that read, on each of the two servers.")
    ] = 2,
    large_objects: Annotated[
        bool, typer.Option("--large-objects", help="Compare them, too: they are copied, and not followed.")
    ] = False,
    timeout_s: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            min=1,
            max=LONGEST_S,
            help="Seconds until both sides must stand at one LSN; else 300 and the replica's delay.",
        ),
    ] = None,
    tables: Annotated[
        list[str] | None,
        typer.Option("--tables", metavar="TABLE", help="Only these: schema.table; * matches; repeatable."),
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what differs, and compare it again at the same LSN.")
    ] = False,
    repair_limit: Annotated[
        int,
        typer.Option("--repair-limit", min=0, help="With more differing rows a table is copied anew."),
    ] = 100_000,
    reason: Annotated[str, typer.Option(help="Why, for keepstream.audit on the replica.")] = "",
) -> None:
    """Compare a replica with the source at one LSN, every table. Exit code 6 if anything differs.

    The replica is held for a moment only, until both sides have a snapshot at that LSN; it follows the log
    while they are compared. Rows that are on their way are no differences.

    With --repair it is held once more while the tables that differ are mended, each in one transaction.
    """
    from pipeline.app import verify_options
    from pipeline.cli.output import print_json
    from pipeline.cli.verifyscreen import VerifyScreen
    from pipeline.selection import parse_tables
    from pipeline.signals import stop_on_signals
    from pipeline.verify.repair import RepairOptions
    from pipeline.verify.scope import Scope

    config = invocation(context).config
    options = verify_options(
        config, replica, workers=workers, timeout_s=timeout_s, large_objects=large_objects
    )
    if reason and not repair:
        raise _no_reason(replica)
    scope = Scope(config.source.tables, config.source.keyless, parse_tables(tables or ()))
    mending = RepairOptions(repair_limit, reason) if repair else None
    stop = stop_on_signals()
    with VerifyScreen() as screen:
        result = _run(options, scope, mending, stop, screen)
    if result is None:
        mended = "; what was mended stands in keepstream.audit" if repair else ""
        logger.warning(f"verify stopped before the end; nothing is known{mended}")
        raise typer.Exit(INTERRUPTED)
    if as_json:
        print_json(result.to_json())
    else:
        _print(result)
    if not result.identical:
        raise typer.Exit(DIFFERENT)


def _no_reason(replica: str) -> UsageError:
    return UsageError(
        "nothing is written without --repair, so there is nothing to give a --reason for",
        code="reason-without-repair",
        hint=f"Leave it out, or: keepstream verify {replica} --repair --reason …",
    )


def _run(
    options: VerifyOptions,
    scope: Scope,
    mending: RepairOptions | None,
    stop: threading.Event,
    screen: VerifyScreen,
) -> VerifyResult | None:
    """In a thread, so that a server that hangs cannot keep us from ending. None: stopped."""
    from pipeline.cli.stoppable import until_stopped
    from pipeline.verify.repair import verify_and_repair
    from pipeline.verify.run import verify

    def work() -> VerifyResult:
        if mending is None:
            return verify(options, scope, stop=stop, tell=screen.tell, on_progress=screen.show)
        return verify_and_repair(
            options,
            scope,
            mending,
            stop=stop,
            tell=screen.tell,
            on_progress=screen.show,
            on_copy_progress=screen.show_copy,
        )

    return until_stopped(work, name="verify", stop=stop)


def _print(result: VerifyResult) -> None:
    from pipeline.cli.output import human_seconds, print_table, print_text

    print_table(
        ("table", "rows", "result"),
        [(table.table, table.rows, _summary(table)) for table in result.tables],
    )
    for table in result.tables:
        for key in table.differing_keys:
            print_text(f"{table.table}: {key}")
        if table.differing > len(table.differing_keys):
            print_text(f"{table.table}: and {table.differing - len(table.differing_keys)} more")
    for repaired in result.repairs or ():
        print_text(f"{repaired.table}: {repaired}")
        if repaired.remedy:
            print_text(f"hint: {repaired.remedy}")
    for left_out in result.not_replicated:
        print_text(f"not compared: {left_out.table} ({left_out.reason})")
    for note in result.notes:
        print_text(f"note: {note}")
    for table in result.tables:
        if table.lsn != result.lsn:
            print_text(f"{table.table} was compared at LSN {table.lsn}")
    _print_sequences(result.sequences)
    if result.large_objects is not None:
        _print_large_objects(result.large_objects)
    differing = sum(not table.identical for table in result.tables)
    verdict = f"{differing} of {len(result.tables)} tables differ" if differing else "identical"
    print_text(
        f"{verdict} at LSN {result.lsn}: {len(result.tables)} tables, {result.rows} rows,"
        f" {human_seconds(result.took_s)}; the replica was held for {human_seconds(result.held_s)}"
    )


def _print_sequences(found: SequencesResult) -> None:
    from pipeline.cli.output import print_text

    for text in found.behind:
        print_text(f"sequence BEHIND: {text}")
    for name in found.missing:
        print_text(f"note: sequence {name} is not on the replica")
    for name in found.hidden:
        print_text(f"not compared: sequence {name} (the source role may not read it)")
    print_text(
        f"sequences: {found.compared - len(found.behind) - len(found.missing)} at or past the source's"
    )


def _print_large_objects(found: LargeObjectsResult) -> None:
    from pipeline.cli.output import print_text

    for oid, difference in found.differing_oids:
        print_text(f"large object {oid}: {difference.value}")
    if found.hidden:
        print_text(f"not compared: {found.hidden} large objects, which one of our roles may not read")
    print_text(
        f"large objects: {found.differing} of {found.compared} differ; they are not followed after the first"
        " copy"
    )


def _summary(table: TableResult) -> str:
    without = f", without {', '.join(table.left_out)}, which a policy leaves out" if table.left_out else ""
    if table.identical:
        return f"identical{without}"
    rows = f"{table.differing} rows differ ({table.replica_rows} on the replica)"
    if table.problem is None:
        return f"DIFFERS: {rows}{without}"
    return f"DIFFERS: {table.problem}" + (f"; {rows}" if table.differing else "") + without
