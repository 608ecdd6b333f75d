"""A second opinion on "identical", in plain SQL and without Keepstream: the source must be quiet for it."""

from __future__ import annotations

import psycopg
from psycopg import sql

_TABLES = """
select format('%I.%I', n.nspname, c.relname), n.nspname, c.relname
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind = 'r' and c.relpersistence <> 't'
  and n.nspname not in ('pg_catalog', 'information_schema', 'keepstream')
order by 1
"""
_DIGEST = """
select count(*), md5(coalesce(string_agg(md5(t::text), '' order by md5(t::text)), '')) from {} as t
"""


def differing_tables(source: str, replica: str) -> list[str]:
    """Tables that are not in both databases with the same rows, as `schema.table`."""
    ours, theirs = _digests(source), _digests(replica)
    return sorted(table for table in ours.keys() | theirs.keys() if ours.get(table) != theirs.get(table))


def alter_one_value(replica: str) -> tuple[str, int]:
    """Change one customer's name as no application would: (table, id) of the row."""
    with psycopg.connect(replica) as connection:
        connection.execute("set session_replication_role = replica")
        row = connection.execute(
            "update public.party_party set name = coalesce(name, '') || '.'"
            " where id = (select min(id) from public.party_party) returning id"
        ).fetchone()
    assert row is not None
    return "public.party_party", int(row[0])


def _digests(dsn: str) -> dict[str, tuple[int, str]]:
    with psycopg.connect(dsn) as connection:
        tables = connection.execute(_TABLES).fetchall()
        return {name: _digest(connection, sql.Identifier(schema, table)) for name, schema, table in tables}


def _digest(connection: psycopg.Connection[tuple[object, ...]], table: sql.Identifier) -> tuple[int, str]:
    row = connection.execute(sql.SQL(_DIGEST).format(table)).fetchone()
    assert row is not None
    return int(str(row[0])), str(row[1])
