"""`keepstream schema show REPLICA` and `keepstream schema approve REPLICA`: schema changes that wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.invocation import invocation
from schemas.errors import OperatorNeeded, UsageError

if TYPE_CHECKING:
    from connectors.postgres.ddl.approvals import Waiting
    from connectors.postgres.session import Session

app = typer.Typer()

_REPLICA = typer.Argument(metavar="REPLICA", help="Its name in the configuration.")


@app.command()
def show(
    context: typer.Context,
    replica: Annotated[str, _REPLICA],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Show what schema changes REPLICA waits for approval of, with their SQL."""
    from pipeline.cli.output import print_json, print_text
    from schemas.lsn import format_lsn

    with _session(context, replica) as session:
        waiting = _waiting(context, session)
    if as_json:
        print_json({"waiting": None if waiting is None else _shown(waiting)})
        return
    if waiting is None:
        print_text(f"{replica} waits for no approval")
        return
    print_text(f"{replica} waits before transaction {format_lsn(waiting.lsn)} (xid {waiting.xid}):")
    for step in waiting.steps:
        print_text(f"{'waits' if step.pauses else 'along':5}  {step.kind:16}  {step.sql}")
    print_text(f"Let it go on with `keepstream schema approve {replica} {format_lsn(waiting.lsn)}`.")


@app.command()
def approve(
    context: typer.Context,
    replica: Annotated[str, _REPLICA],
    lsn: Annotated[
        str | None,
        typer.Argument(metavar="[LSN]", help="Of the transaction, as `show` names it: only that one."),
    ] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Whatever waits now.")] = False,
    ignored: Annotated[
        bool, typer.Option("--ignore", help="Go on without the changes that wait, instead of following them.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why; kept in keepstream.audit of the replica.")] = "",
) -> None:
    """Let REPLICA go on past the schema changes that it waits at; without LSN or --all if just one waits."""
    from connectors.postgres.ddl import approvals
    from connectors.postgres.ddl.approvals import Decision
    from pipeline.cli.output import print_text
    from schemas.lsn import format_lsn

    if everything and lsn is not None:
        raise UsageError(
            "both an LSN and --all are given", code="usage", hint="Name the transaction, or give --all."
        )
    decision = Decision.IGNORE if ignored else Decision.APPLY
    with _session(context, replica) as session:
        waiting = _required(_waiting(context, session), replica, lsn)
        name = invocation(context).config.name
        if not approvals.decide(session, name, waiting, decision, reason=reason):
            raise _not_waiting(replica, "something else waits by now")
    done = "goes on without" if ignored else "follows"
    print_text(f"{replica} {done} the schema changes at {format_lsn(waiting.lsn)}")


def _session(context: typer.Context, replica: str) -> Session:
    from connectors.postgres.session import connect, limit_waits
    from pipeline.app import replica_conninfo

    config = invocation(context).config
    session = connect(replica_conninfo(config, replica), purpose=f"schema:{config.name}:{replica}")
    limit_waits(session)
    return session


def _waiting(context: typer.Context, session: Session) -> Waiting | None:
    """What nobody has decided yet."""
    from connectors.postgres.ddl import approvals

    waiting = approvals.read(session, invocation(context).config.name)
    return None if waiting is None or waiting.decision is not None else waiting


def _required(waiting: Waiting | None, replica: str, lsn: str | None) -> Waiting:
    from schemas.lsn import format_lsn, parse_lsn

    if waiting is None:
        raise _not_waiting(replica, "nothing waits for approval")
    if lsn is not None and parse_lsn(lsn) != waiting.lsn:
        raise _not_waiting(replica, f"what waits is the transaction at {format_lsn(waiting.lsn)}")
    return waiting


def _not_waiting(replica: str, seen: str) -> OperatorNeeded:
    return OperatorNeeded(
        f"nothing to approve on {replica}: {seen}",
        code="not-waiting",
        hint=f"Look at what waits with `keepstream schema show {replica}`.",
    )


def _shown(waiting: Waiting) -> dict[str, object]:
    from dataclasses import asdict

    from schemas.lsn import format_lsn

    steps = [asdict(step) for step in waiting.steps]
    return {"lsn": format_lsn(waiting.lsn), "xid": waiting.xid, "steps": steps}
