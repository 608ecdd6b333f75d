"""The SQL that makes one table, as pg_dump writes it: for a table that joins a running pipeline."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from connectors.postgres.limits.dumped import NOTHING, Untold
from connectors.postgres.pgtools import Finished, PgTools, open_login, run_tool
from connectors.postgres.session import Session, describe
from schemas.errors import KeepstreamError, OperatorNeeded, RetryLater
from schemas.identifiers import qualified

DUMP_LOCK_WAIT_MS: Final = 2000
"""So long pg_dump waits for whoever alters the table; meanwhile no other table is dumped."""

# The row versions of what pg_dump reads of the table itself; what it only names (types, functions, other
# tables) is not among them.
_VERSION: Final = """
    with indexes (oid) as (select indexrelid from pg_index where indrelid = %(table)s::oid),
    owned (oid) as (
        select objid from pg_depend
         where classid = 'pg_class'::regclass and refclassid = 'pg_class'::regclass
           and refobjid = %(table)s::oid and deptype in ('a', 'i')
    ),
    parts (catalog, oid, version) as (
        select 'pg_class'::regclass, oid, xmin from pg_class
         where oid = %(table)s::oid or oid in (table indexes) or oid in (table owned)
         union all select 'pg_attrdef'::regclass, oid, xmin from pg_attrdef where adrelid = %(table)s::oid
         union all select 'pg_constraint'::regclass, oid, xmin from pg_constraint
                where conrelid = %(table)s::oid
         union all select 'pg_trigger'::regclass, oid, xmin from pg_trigger where tgrelid = %(table)s::oid
         union all select 'pg_rewrite'::regclass, oid, xmin from pg_rewrite where ev_class = %(table)s::oid
         union all select 'pg_policy'::regclass, oid, xmin from pg_policy where polrelid = %(table)s::oid
         union all select 'pg_statistic_ext'::regclass, oid, xmin from pg_statistic_ext
                where stxrelid = %(table)s::oid
    ),
    read (catalog, oid, version) as (
        table parts
         union all select 'pg_attribute'::regclass, attrelid, xmin from pg_attribute
                where attrelid = %(table)s::oid or attrelid in (table indexes)
         union all select 'pg_index'::regclass, indexrelid, xmin from pg_index
                where indrelid = %(table)s::oid
         union all select 'pg_inherits'::regclass, inhparent, xmin from pg_inherits
                where inhrelid = %(table)s::oid
         union all select 'pg_namespace'::regclass, n.oid, n.xmin from pg_class c
                join pg_namespace n on n.oid = c.relnamespace where c.oid = %(table)s::oid
         union all select 'pg_sequence'::regclass, seqrelid, xmin from pg_sequence
                where seqrelid in (table owned)
         union all select 'pg_description'::regclass, d.objoid, d.xmin from pg_description d
                join parts p on p.catalog = d.classoid and p.oid = d.objoid
    )
    select pg_catalog.md5(string_agg(read::text, ',' order by catalog, oid, version::text)) from read
"""

# pg_dump writes `-- Name: x; Type: FK CONSTRAINT; Schema: s; Owner: -` before each entry.
_ENTRY: Final = re.compile(r"-- Name: .*; Type: (?P<type>[A-Z ]+); Schema: ")
_NOT_SQL: Final = ("--", "\\", "SET default_")
# Up to a line end outside of literals: E'' with backslashes, '' without, "", $tag$. A quote in a comment
# opens nothing.
_LINE: Final = re.compile(
    r"""
    (?: --[^\n]*
      | (?<![A-Za-z0-9_$]) [Ee] ' (?: [^'\\] | \\. | '' )* '
      | ' (?: [^'] | '' )* '
      | " (?: [^"] | "" )* "
      | \$ (?P<tag>\w*) \$ .*? \$ (?P=tag) \$
      | [^\n]
    )*""",
    re.DOTALL | re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class TableDdl:
    """`before`: the table itself, to be run before its rows; `after`: indexes, constraints, triggers, but
    no foreign keys (`foreignkeys`). `attach` makes a partition of it and takes its indexes for the parent's:
    it comes last, or not at all."""

    before: str
    after: str
    attach: str


def definition_version(session: Session, table: int) -> str:
    """Of the table with this OID. Equal in the snapshot of a dump and later, under a lock against DDL: the
    table is as it was dumped."""
    (version,) = session.execute(_VERSION, {"table": table}).fetchone() or ("",)
    return str(version)


def dump_table(
    tools: PgTools,
    conninfo: str,
    *,
    schema: str,
    table: str,
    snapshot: str,
    stop: threading.Event,
    untold: Untold = NOTHING,
) -> TableDdl:
    """Dump one table's definition, as an exported snapshot shows it, without what is `untold`. Raises
    OperatorNeeded (`pg-dump-failed`) and RetryLater (`connection-lost`, `lock-timeout`)."""

    def entries(section: str) -> list[tuple[str, str]]:
        found = _entries(_dump(tools, conninfo, schema, table, section, snapshot, stop))
        return [(kind, untold.without(kind, text)) for kind, text in found]

    before, after = entries("pre-data"), entries("post-data")
    return TableDdl(
        _joined(before, lambda kind: kind not in _APART),
        _joined(after, lambda kind: kind not in _APART),
        _joined(before + after, lambda kind: kind == "TABLE ATTACH"),
    )


def _dump(
    tools: PgTools,
    conninfo: str,
    schema: str,
    table: str,
    section: str,
    snapshot: str,
    stop: threading.Event,
) -> str:
    with open_login(conninfo, application_name="keepstream:join") as (login, environment):
        command = [
            tools.pg_dump,
            f"--dbname={login}",
            f"--table={_pattern(schema)}.{_pattern(table)}",
            f"--section={section}",
            f"--snapshot={snapshot}",
            "--schema-only",
            f"--lock-wait-timeout={DUMP_LOCK_WAIT_MS}",
            "--no-owner",
            "--no-privileges",
            "--no-publications",
            "--no-subscriptions",
            "--no-security-labels",
            "--no-tablespaces",
        ]
        finished = run_tool(command, environment, stop=stop)
    if finished.status:
        raise _dump_error(finished, f"pg_dump of table {qualified(schema, table)} on {describe(conninfo)}")
    return finished.output


def _dump_error(finished: Finished, doing: str) -> KeepstreamError:
    said = f"{doing} failed: {finished.last_words}"
    if finished.lost_its_server:
        return RetryLater(said, code="connection-lost")
    if "lock timeout" in said:
        return RetryLater(said, code="lock-timeout")
    return OperatorNeeded(
        said, code="pg-dump-failed", hint="Run the same pg_dump by hand under the source role to see why."
    )


def _pattern(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


# INDEX ATTACH says what TABLE ATTACH has done by itself.
_APART: Final = ("FK CONSTRAINT", "TABLE ATTACH", "INDEX ATTACH")


def _entries(script: str) -> list[tuple[str, str]]:
    """(type, SQL) of each entry, without psql's own commands and session settings.

    A literal belongs to the line on which it begins, line ends and all, so that what it holds means nothing.
    """
    entries: list[tuple[str, list[str]]] = []
    for match in _LINE.finditer(script):
        line = match[0]
        header = _ENTRY.match(line)
        if header is not None:
            entries.append((header["type"], []))
        elif entries and line and not line.startswith(_NOT_SQL):
            entries[-1][1].append(line)
    return [(kind, "\n".join(lines)) for kind, lines in entries]


def _joined(entries: list[tuple[str, str]], wanted: Callable[[str], bool]) -> str:
    return "\n".join(text for kind, text in entries if text and wanted(kind))
