"""The source's tables: which can be replicated safely, and what the stream cannot carry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from psycopg import sql

from connectors.postgres.catalog.publication import Publication
from connectors.postgres.catalog.replica_identity import full_identity_of, index_identity_sql
from connectors.postgres.catalog.tables import (
    OWN_SCHEMA,
    Table,
    TableKind,
    count_large_objects,
)
from connectors.postgres.instance import read_oid_columns
from connectors.postgres.large_objects.reading import count_hidden
from connectors.postgres.server import Role
from connectors.postgres.session import Session
from pipeline.check.findings import SOURCE, comment, identifier, named
from pipeline.config import Keyless, TablePattern, Tables
from pipeline.config.values import in_yaml
from pipeline.quantities import human_bytes
from pipeline.selection import EXCLUDED, Selection
from schemas.finding import Finding


def check_tables(
    tables: Sequence[Table],
    selection: Selection,
    publication: Publication | None,
    role: Role,
    *,
    chosen: Tables,
    by_root: bool,
    established: bool,
) -> Iterator[Finding]:
    """Privileges, policies, and tables that no stream carries.

    `established`: the slot exists. Capture reads no rows: a table that cannot be read only does not join.
    """
    yield _count(selection, publication)
    yield from _unreadable(selection, role, established=established)
    yield from _row_security(selection, role, established=established)
    tops = {table.oid: table for table in tables} if by_root else {}
    for table in tables:
        reason, whole = table.uncarried_reason, tops.get(table.root)
        at = whole if whole is not None else table
        if reason is not None and chosen.selects(at.schema, at.name):
            yield _uncarried(table, reason, whole)


def check_identities(
    selection: Selection, keyless: Keyless, publication: Publication | None, *, established: bool
) -> Iterator[Finding]:
    """Tables whose rows have no key in the stream; those that are published are `check_endangered`'s.

    `established`: the slot exists, so that a table which is not published has come later.
    """
    published = {table.qualified_name for table in publication.tables} if publication else set()
    for table in selection.undecided:
        if table.qualified_name not in published:
            yield _undecided(table, later=established)
    for table in selection.make_full:
        if table.owned or table.qualified_name not in published:
            yield _make_full(table, later=established)
    if keyless is not Keyless.REFUSE:
        for left_out in selection.not_replicated:
            is_told = left_out.reason == EXCLUDED or left_out.table in published
            if not is_told:
                yield SOURCE.warning(
                    "table-left-out", left_out.table, f"is not replicated: {left_out.reason}"
                )


def check_uncarried_objects(session: Session, role: Role) -> Iterator[Finding]:
    """Large objects, which are not in the stream at all."""
    count = count_large_objects(session)
    if not count:
        return
    columns = read_oid_columns(session)
    pointing = f"; columns that may point to them: {named(columns)}" if columns else ""
    yield SOURCE.warning(
        "large-objects",
        "large objects",
        f"{count} large objects are not in the stream: the first copy brings them, and nothing that happens"
        f" to them later reaches a replica{pointing}",
        fix="Store such data in bytea columns. Until then `keepstream verify --large-objects` tells what"
        " differs.",
    )
    hidden = count_hidden(session)
    if hidden:
        yield SOURCE.warning(
            "large-objects-hidden",
            "large objects",
            f"{role.name} may not read {hidden} of them: the first copy leaves these out",
            sql=f"grant pg_read_all_data to {identifier(role.name)};",
        )


def _count(selection: Selection, publication: Publication | None) -> Finding:
    unfit = [each for each in selection.not_replicated if each.reason != EXCLUDED]
    if unfit and not selection.wanted:
        return SOURCE.warning(
            "no-tables",
            "tables",
            f"none of {len(unfit)} tables can be replicated as it is, such as {unfit[0].table}:"
            f" {unfit[0].reason}",
            fix="Mend what is said of them here; a table that can be replicated joins by itself.",
        )
    if not selection.wanted:
        return SOURCE.warning(
            "no-tables",
            "tables",
            "there is no table to replicate yet; one that is created later joins by itself",
            fix="Look at source.tables and at the database that source.url names.",
        )
    wanted, size = len(selection.wanted), _size(selection.wanted)
    missing = publication.lacks(selection.wanted) if publication is not None else ()
    if missing:
        seen = f"{wanted} are to be replicated, {size}; {wanted - len(missing)} of them are published"
        return SOURCE.ok("tables", "tables", seen)
    return SOURCE.ok("tables", "tables", f"{wanted} are replicated, {size}")


def _size(tables: Sequence[Table]) -> str:
    """As ANALYZE last saw them."""
    unknown = sum(table.estimated_rows is None for table in tables)
    if unknown and unknown == len(tables):
        return "of unknown size: never analysed"
    known = f"about {human_bytes(sum(table.estimated_bytes for table in tables))}"
    return f"{known}, and {unknown} of unknown size: never analysed" if unknown else known


def _unreadable(selection: Selection, role: Role, *, established: bool) -> Iterator[Finding]:
    hidden = [table.qualified_name for table in selection.wanted if not table.readable]
    if hidden:
        yield SOURCE.error(
            "privilege-select",
            "role",
            f"{role.name} may not read {len(hidden)} tables: {named(hidden)}",
            sql=f"grant pg_read_all_data to {identifier(role.name)};",
            blocks=not established,
        )


def _row_security(selection: Selection, role: Role, *, established: bool) -> Iterator[Finding]:
    tables = [table for table in selection.wanted if table.row_security]
    hidden = [table.qualified_name for table in tables]
    forced = [
        f"alter table only {_table(table)} no force row level security;" for table in tables if table.owned
    ]
    others = (
        ["-- or, where FORCE binds the owner, whose rights it has:", *map(comment, forced)] if forced else []
    )
    if hidden:
        yield SOURCE.error(
            "row-security",
            "role",
            f"policies would hide rows of {len(hidden)} tables from {role.name}: {named(hidden)}",
            sql="\n".join([f"alter role {identifier(role.name)} bypassrls;", *others]),
            blocks=not established,
        )


def _uncarried(table: Table, reason: str, whole: Table | None) -> Finding:
    """`whole`: under whose name its rows would come."""
    name = table.qualified_name
    if table.schema == OWN_SCHEMA:
        return SOURCE.warning(
            "schema-reserved",
            name,
            f"is not replicated: it is {reason}",
            sql=comment(f"breaks what names it there: alter table {_table(table)} set schema public;")
            + f"\n{_leaving_out(table)}",
        )
    if table.unlogged:
        return SOURCE.warning(
            "table-unlogged",
            name,
            "is unlogged: its rows are not in the stream",
            sql=comment(
                "keeps everybody from it while all its rows are written anew:"
                f" alter table only {_table(table)} set logged;"
            )
            + f"\n{_leaving_out(whole or table)}",
        )
    if table.kind is TableKind.FOREIGN:
        return SOURCE.warning("table-foreign", name, "is a foreign table: its rows are not in the stream")
    return SOURCE.note(
        "materialized-view",
        name,
        f"is a {reason}: not in the stream, refresh it on the replica when it is used",
    )


def _undecided(table: Table, *, later: bool) -> Finding:
    message = f"{table.identity_problem}: published, its UPDATE and DELETE would fail in the application"
    if later:
        return SOURCE.warning(
            "replica-identity",
            table.qualified_name,
            f"{table.identity_problem}: left out until it is decided",
            sql=_identity_choices(table),
        )
    return SOURCE.error("replica-identity", table.qualified_name, message, sql=_identity_choices(table))


def _identity_choices(table: Table) -> str:
    """SQL of the best way, the others as comments: USING INDEX, FULL, and leaving it out."""
    name = (table.schema, table.name)
    ways = [index_identity_sql(name, identifier(index.name)) for index in table.usable_indexes]
    if table.full_problem is None:
        ways.append(full_identity_of(table) + "  -- every column is the key")
    if not table.usable_indexes:
        ways.append(f"{index_identity_sql(name, 'INDEX_NAME')}  -- with a unique index on NOT NULL columns")
        ways.sort(key=lambda way: "INDEX_NAME" in way)
    first, *others = ways
    if "INDEX_NAME" in first:
        first = comment(first)
    choices = [first, *(comment(f"or: {way}") for way in others)]
    for_all = "exclude" if table.full_problem else "full, or exclude"
    choices += [
        _leaving_out(table),
        f"-- or decide for all such tables: source.keyless: {for_all}",
    ]
    return "\n".join(choices)


def _leaving_out(table: Table) -> str:
    pattern = TablePattern.naming(table.schema, table.name)
    return f"-- or leave it out in keepstream.yaml: source.tables.exclude: [{in_yaml(pattern.text)}]"


def _make_full(table: Table, *, later: bool) -> Finding:
    statement = full_identity_of(table)
    problem = f"{table.identity_problem}: gets replica identity full (source.keyless)"
    if table.owned:
        return SOURCE.note("replica-identity-full", table.qualified_name, problem)
    return SOURCE.error(
        "replica-identity-privilege",
        table.qualified_name,
        f"{problem}, which only its owner {table.owner} may set",
        sql=statement,
        blocks=not later,
    )


def _table(table: Table) -> str:
    return sql.Identifier(table.schema, table.name).as_string()
