"""`keepstream check`: the preflight, as a list, as JSON, or as the SQL that mends what it found."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from textwrap import indent
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.invocation import invocation
from pipeline.cli.output import console, print_json, print_sql, styled
from pipeline.cli.serversql import (
    SERVER_HELP,
    SERVER_METAVAR,
    ServerSql,
    choose,
    options,
    place_of,
    require_sql,
)
from pipeline.quantities import counted
from schemas.finding import Finding, Severity

if TYPE_CHECKING:
    from pipeline.config import Config

app = typer.Typer()

_FIX_SQL = "keepstream check --fix-sql"

_STYLES = {
    Severity.OK: "green",
    Severity.NOTE: "cyan",
    Severity.WARNING: "yellow",
    Severity.ERROR: "bold red",
}


@app.command()
def check(
    context: typer.Context,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="All findings as one JSON document.")] = False,
    fix_sql: Annotated[
        bool, typer.Option("--fix-sql", help="Only the SQL that mends what was found, with comments.")
    ] = False,
    server: Annotated[str | None, typer.Option("--for", metavar=SERVER_METAVAR, help=SERVER_HELP)] = None,
) -> None:
    """Look at source, log and replicas, and say what must be mended. Writes nothing.

    Ends with 0, or with the exit code of the first error: 3 configuration, 4 precondition,
    5 unreachable. With --fix-sql alone psql runs nothing if there are replicas; --for chooses a server.
    """
    from pipeline.check import exit_code, preflight

    require_sql(server, option="--fix-sql", given=fix_sql)
    config = invocation(context).config
    place = place_of(server, config)
    findings = preflight(config)
    if fix_sql:
        text = choose(fix_parts(findings, config), place, config, verb=_FIX_SQL)
        if text:
            print_sql(text)
    elif as_json:
        print_json({"ok": exit_code(findings) == 0, "findings": [_as_json(finding) for finding in findings]})
    else:
        _print(findings, config)
    raise typer.Exit(exit_code(findings))


def fix_parts(findings: Iterable[Finding], config: Config) -> list[ServerSql]:
    """For each server that has any: SQL with comments that say where to run it and why."""
    from pipeline.check.findings import comment

    parts = []
    for where, group in groupby(filter(_has_sql, findings), key=lambda finding: finding.where):
        lines = [comment(f"To be run on the {where}: {_address(where, config)}")]
        for finding in group:
            lines += ["", comment(f"{finding.subject}: {finding.message}"), finding.fix]
        parts.append(ServerSql(where, "\n".join(lines)))
    return parts


def _has_sql(finding: Finding) -> bool:
    return finding.fix_is_sql and finding.severity is not Severity.OK


def _is_runnable(finding: Finding) -> bool:
    """Whether any line of its SQL is more than a comment, which is for reading and stands in the list."""
    return _has_sql(finding) and not all(line.startswith("--") for line in finding.fix.splitlines())


def _as_json(finding: Finding) -> dict[str, object]:
    return {
        "severity": finding.severity.value,
        "code": finding.code,
        "where": finding.where,
        "subject": finding.subject,
        "message": finding.message,
        "fix": finding.fix,
        "fix_is_sql": finding.fix_is_sql,
    }


def _print(findings: list[Finding], config: Config) -> None:
    from rich.padding import Padding
    from rich.text import Text

    from pipeline.printable import printable_lines, printable_sql

    out = console()
    for where, group in groupby(findings, key=lambda finding: finding.where):
        out.print(Text.assemble(styled(where, "bold"), "  ", styled(_address(where, config), "dim")))
        for finding in group:
            head = Text.assemble((f"{finding.severity.value:8}", _STYLES[finding.severity]))
            line = head + styled(f"{finding.subject}: {finding.message}")
            out.print(Padding(line, (0, 0, 0, 2), expand=False))
            if finding.fix and finding.severity is not Severity.OK:
                # a fix is there to be copied: it is never wrapped, and never cut
                fix = printable_sql(finding.fix) if finding.fix_is_sql else printable_lines(finding.fix)
                out.print(Text(indent(fix, " " * 10), style="cyan"), soft_wrap=True)
    out.print(Text(_summary(findings)))


def _address(where: str, config: Config) -> str:
    """What the configuration says is there, without secrets."""
    from connectors.postgres.session import describe

    if where == "source":
        return describe(config.source.url.reveal())
    if where == "log":
        return config.log.url
    name = where.removeprefix("replica ")
    return describe(config.replicas[name].url.reveal()) if name in config.replicas else ""


def _summary(findings: list[Finding]) -> str:
    errors = sum(finding.severity is Severity.ERROR for finding in findings)
    warnings = sum(finding.severity is Severity.WARNING for finding in findings)
    if errors:
        told = f"{counted(errors, 'error')} and {counted(warnings, 'warning')}"
        servers = dict.fromkeys(finding.where for finding in findings if _is_runnable(finding))
        verbs = " or ".join(f"`{_FIX_SQL} {option}`" for option in options(list(servers)))
        return f"{told}; {verbs} prints the SQL." if verbs else f"{told}."
    return f"ready to run, with {counted(warnings, 'warning')}." if warnings else "ready to run."
