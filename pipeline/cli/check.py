"""`keepstream check`: the preflight, as a list, as JSON, or as the SQL that mends what it found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from textwrap import indent
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.invocation import invocation
from pipeline.cli.output import console, print_json, print_sql, styled
from pipeline.quantities import counted
from schemas.finding import Finding, Severity

if TYPE_CHECKING:
    from pipeline.config import Config

app = typer.Typer()

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
) -> None:
    """Look at source, log and replicas, and say what must be mended. Writes nothing.

    Ends with 0, or with the exit code of the first error: 3 configuration, 4 precondition,
    5 unreachable.
    """
    from pipeline.check import exit_code, preflight

    config = invocation(context).config
    findings = preflight(config)
    if fix_sql:
        for line in fix_lines(findings):
            print_sql(line)
    elif as_json:
        print_json({"ok": exit_code(findings) == 0, "findings": [_as_json(finding) for finding in findings]})
    else:
        _print(findings, config)
    raise typer.Exit(exit_code(findings))


def fix_lines(findings: Iterable[Finding]) -> Iterator[str]:
    """SQL with comments that say where to run it and why."""
    from pipeline.check.findings import comment

    for finding in findings:
        if finding.fix_is_sql and finding.severity is not Severity.OK:
            yield comment(f"{finding.where}: {finding.subject}: {finding.message}")
            yield finding.fix
            yield ""


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
        return f"{told}; `keepstream check --fix-sql` prints the SQL."
    return f"ready to run, with {counted(warnings, 'warning')}." if warnings else "ready to run."
