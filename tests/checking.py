"""What `check` finds of a pipeline, and that each remedy is SQL which its server can read."""

from __future__ import annotations

import re
from pathlib import Path

from psycopg import sql

from connectors.postgres.session import connect
from pipeline.check import preflight as looked_at
from pipeline.config import Config, parse_config
from schemas.finding import Finding, Severity
from tests.fix_postgres import Database

CUSTOMER = "create table customer (id int primary key, name text)"


def configure(
    source: str, log: Path, replica: str = "", *, more: str = "", initial: str = "copy", of_replica: str = ""
) -> Config:
    """`more`: keys of `source`; `of_replica`: of the replica."""
    text = f"name: crm\nsource:\n  url: {source}\n{more}log: file://{log}\n"
    if replica:
        text += f"replicas:\n  standby:\n    url: {replica}\n    initial: {initial}\n{of_replica}"
    return parse_config(text, name="keepstream.yaml", environment={})


def by_code(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.code: finding for finding in findings}


def errors(findings: list[Finding]) -> list[str]:
    return [finding.code for finding in findings if finding.severity is Severity.ERROR]


def uncommented(fix: str) -> str:
    """What destroys something is a comment, which somebody has read before it is run."""
    assert all(line.startswith("-- ") for line in fix.splitlines())
    return "\n".join(
        re.sub("^-- ((loses|breaks|keeps|lets|takes) [^:]*: |then: )?", "", line) for line in fix.splitlines()
    )


def preflight(config: Config) -> list[Finding]:
    """What `check` finds, each remedy of which its server must be able to read as SQL, or as comments."""
    findings = looked_at(config)
    for finding in findings:
        if finding.fix_is_sql:
            require_sql(finding, config)
    return findings


def require_sql(finding: Finding, config: Config) -> None:
    """PL/pgSQL reads all of a block before it runs it: nothing of the remedy is run."""
    place = finding.where.removeprefix("replica ")
    url = config.source.url if place == "source" else config.replicas[place].url
    quoted = sql.Literal(f"begin return; {finding.fix}\nend").as_string()
    with connect(url.reveal(), purpose="test") as session:
        session.execute(f"do {quoted}".encode())


def established(source: Database) -> None:
    """The pipeline's slot: from now on its publication is part of a history."""
    source.execute_as_admin("select pg_create_logical_replication_slot('keepstream_crm', 'pgoutput')")
    source.execute("create table more (id int primary key)")
