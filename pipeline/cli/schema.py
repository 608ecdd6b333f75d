"""`keepstream schema`: the event triggers on the source by which schema changes are followed."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli import schemaapproval
from pipeline.cli.invocation import invocation

if TYPE_CHECKING:
    from connectors.postgres.session import Session
    from pipeline.config import Config

app = typer.Typer(no_args_is_help=True)
app.registered_commands += schemaapproval.app.registered_commands

_PRINT = typer.Option(
    "--print", help="Print the SQL instead, for a superuser to run in psql. No secret is in it."
)


@app.callback()
def schema() -> None:
    """Follow schema changes of the source: its event triggers, which you may install or not."""


@app.command()
def install(context: typer.Context, *, printed: Annotated[bool, _PRINT] = False) -> None:
    """Install the event triggers on the source, or bring them up to date. Can be called again.

    Needs a role that may create event triggers. Without them only ADD COLUMN is followed.
    """
    from connectors.postgres.catalog.grants import login_of
    from connectors.postgres.ddl.install import install as install_triggers
    from connectors.postgres.ddl.install import install_sql
    from pipeline.app import source_conninfo
    from pipeline.cli.output import print_sql, print_text

    config = invocation(context).config
    role = login_of(source_conninfo(config)).role
    if printed:
        print_sql(install_sql(role))
        return
    with closing(_source(config)) as session:
        install_triggers(session, capture_role=role)
    print_text(f"installed on the source; {role} may read the key")


@app.command()
def uninstall(context: typer.Context, *, printed: Annotated[bool, _PRINT] = False) -> None:
    """Remove the event triggers, and all that `install` made, from the source. Can be called again."""
    from connectors.postgres.ddl.install import uninstall as uninstall_triggers
    from connectors.postgres.ddl.install import uninstall_sql
    from pipeline.cli.output import print_sql, print_text

    if printed:
        print_sql(uninstall_sql())
        return
    with closing(_source(invocation(context).config)) as session:
        uninstall_triggers(session)
    print_text("the source has no event triggers of Keepstream")


@app.command()
def status(
    context: typer.Context,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Say whether the event triggers are installed, whether they work, and how much they follow."""
    from connectors.postgres.ddl.installed import count_followed, read_installed
    from pipeline.check.schema_trigger import check_schema_trigger
    from pipeline.cli.output import print_json, print_text

    with closing(_source(invocation(context).config)) as session:
        found = read_installed(session)
        finding = check_schema_trigger(session)
        followed = count_followed(session) if found and found.readable else {}
    if as_json:
        print_json(
            {
                "installed": found is not None,
                "works": found is not None and found.works,
                "version": found.version if found else None,
                "missing": list(found.missing) if found else [],
                "disabled": list(found.disabled) if found else [],
                "followed": followed,
                "message": finding.message,
                "fix": finding.fix,
            }
        )
        return
    print_text(finding.message)
    for line in _lines(finding.fix, followed):
        print_text(line)


def _lines(fix: str, followed: dict[str, Any]) -> list[str]:
    counts = ", ".join(f"{count} of class {name}" for name, count in followed.items())
    return [*([f"followed: {counts}"] if counts else []), *fix.splitlines()]


def _source(config: Config) -> Session:
    from connectors.postgres.session import connect
    from pipeline.app import source_conninfo

    return connect(source_conninfo(config), purpose=f"schema:{config.name}")
