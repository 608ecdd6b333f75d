"""First copies in tests: making a source worth copying, copying it, and comparing what came of it."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

import pipeline.copy.replica
from connectors.postgres.copy import snapshot, visibility
from connectors.postgres.copy.run import begin_run, complete_run
from connectors.postgres.session import connect
from pipeline.copy import CopyOptions, CopyProgress, copy_replica
from schemas.lsn import Lsn, Position
from tests.fix_postgres import Database

STREAM = uuid.UUID(int=7).bytes
Contents = dict[tuple[str, str], list[str]]

# The cases that a table can be: no rows, one row, no key, generated and identity columns, names that
# need quotes, partitions, inheritance, keys between tables, TOAST, many columns.
ZOO = """
    create type mood as enum ('so-so', 'it''s "fine"');
    create domain percent as int check (value between 0 and 100);
    create schema "Sales & Söhne";
    create sequence counter increment by -5 maxvalue 100;
    create table empty (id int primary key, note text);
    create table single (id int generated always as identity primary key, done percent default 7);
    create table keyless (a int, b text);
    create table nothing ();
    create table computed (net numeric(12,2), gross numeric(12,2) generated always as (net * 1.19) stored);
    create table only_computed (c int generated always as (1) stored);
    create table "Sales & Söhne"."We ird ""Näme"".x" (
        "id" bigserial primary key, "a b" mood, "select" text[], "ü.ö" bytea, n numeric, j jsonb, f float8,
        t timestamptz
    );
    create table customer (id serial primary key, name text not null unique, parent int references customer);
    create table deal (
        id int primary key, customer int not null references customer on delete cascade,
        stage mood, note text, changed int default 0
    );
    create index on deal (customer) where stage is not null;
    create table event (at date, id int, what text, primary key (at, id)) partition by range (at);
    create table event_2024 partition of event for values from ('2024-01-01') to ('2025-01-01');
    create table event_rest partition of event default;
    create table base (a int);
    create table derived (b int) inherits (base);
    create view deals_of as select c.name, count(*) from customer c join deal d on d.customer = c.id
        group by 1;
    create materialized view names as select name from customer;
    create function touch() returns trigger language plpgsql as
        'begin new.changed := coalesce(new.changed, 0) + 1; return new; end';
    create trigger touched before insert or update on deal for each row execute function touch();

    insert into single default values;
    insert into keyless values (1, 'x'), (1, 'x'), (null, null),
        (2, E'tab\\t newline\\n back\\\\slash \\\\N');
    insert into nothing default values; insert into nothing default values;
    insert into computed (net) values (1), (2.5), ('NaN'), (null);
    insert into only_computed default values; insert into only_computed default values;
    insert into "Sales & Söhne"."We ird ""Näme"".x" ("a b", "select", "ü.ö", n, j, f, t) values
        ('it''s "fine"', '{a,NULL,"b,c"}', '\\x00ff0a5c', 'Infinity', '{"a": null}', '-0', 'infinity'),
        (null, '[2:3]={x,y}', '', 1e-300, 'null', 'NaN', '0044-03-15 12:00:00.000001 BC'),
        ('so-so', '{}', null, -0.000, '[]', 5e-324, '2024-02-29 23:59:59.999999+14');
    insert into customer (name, parent) select 'customer ' || g, nullif(g / 10, 0)
        from generate_series(1, 300) g;
    insert into deal (id, customer, stage, note)
        select g, 1 + g % 300, 'so-so', repeat(md5(g::text), 20) from generate_series(1, 5000) g;
    insert into event select date '2023-12-01' + g, g, 'e' || g from generate_series(1, 600) g;
    insert into base values (1); insert into derived values (2, 3);
    select setval('counter', 85);
    refresh materialized view names;
"""


def every_table(database: Database) -> tuple[tuple[str, str], ...]:
    """All tables and partitioned tables that people made, as a list to replicate."""
    rows = database.execute_as_admin(
        """select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where c.relkind in ('r', 'p') and not c.relispartition
              and n.nspname not in ('pg_catalog', 'information_schema', 'keepstream') order by 1, 2"""
    )
    return tuple((schema, name) for schema, name in rows)


def copy_options(source: Database, replica: Database, **more: Any) -> CopyOptions:
    """Options for a copy of all tables, under the product's own roles."""
    given: dict[str, Any] = {
        "pipeline": "crm",
        "replica": "standby",
        "source_conninfo": source.dsn,
        "replica_conninfo": replica.dsn,
        "stream": STREAM,
        "place": "17",
        "workers": 2,
        "part_bytes": 256 * 1024,
    }
    if "publication" not in more:
        given["tables"] = every_table(source)
    return CopyOptions(**given | more)


def copy(source: Database, replica: Database, **more: Any) -> tuple[Position, list[CopyProgress]]:
    """Copy; returns the position, and what was told meanwhile."""
    told: list[CopyProgress] = []
    position = copy_replica(copy_options(source, replica, **more), told.append, threading.Event())
    return position, told


def contents(dsn: str, *, exported: str | None = None) -> Contents:
    """Every row of every table, as text, sorted; in an exported snapshot if one is given."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("set row_security = off; set timezone = utc; set extra_float_digits = 1")
        connection.execute("begin isolation level repeatable read read only")
        if exported is not None:
            connection.execute(f"set transaction snapshot '{exported}'".encode())
        tables = connection.execute(
            """select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
                where c.relkind = 'r' and n.nspname not in ('pg_catalog', 'information_schema', 'keepstream')
                order by 1, 2"""
        ).fetchall()
        found = {}
        for schema, name in tables:
            query = sql.SQL('select (x.*)::text from only {} x order by (x.*)::text collate "C"')
            rows = connection.execute(query.format(sql.Identifier(schema, name))).fetchall()
            found[schema, name] = [row for (row,) in rows]
    return found


KEEPERS = (
    "datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()"
    " and query like '%pg_export_snapshot()'"
)
"""Which sessions in pg_stat_activity hold a snapshot that others import."""


@contextlib.contextmanager
def source_as_of_snapshots(source: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Contents]]:
    """Read the whole source in each snapshot that a copy takes, at the moment when it takes it."""
    seen: list[Contents] = []
    real = snapshot.export_snapshot

    @contextlib.contextmanager
    def observed(conninfo: str, **more: Any) -> Iterator[snapshot.ExportedSnapshot]:
        with real(conninfo, **more) as exported:
            with connect(conninfo, purpose="test") as importer:
                snapshot.begin_in_snapshot(importer, exported)
                visibility.wait_until_visible(
                    importer, conninfo, purpose="test", limit_s=30, tick=lambda: None
                )
            seen.append(contents(source.admin_dsn, exported=exported.name))
            yield exported

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.copy.replica, "export_snapshot", observed)
        yield seen


def begin_following(replica: Database) -> None:
    """As after a first copy of pipeline `crm`, at LSN 1."""
    with connect(replica.dsn, purpose="test") as session:
        run = begin_run(
            session,
            "crm",
            stream=bytes(16),
            initial="copy",
            place="",
            application="none",
            require_empty=lambda: None,
        )
        complete_run(session, run, Position(Lsn(1)), place="")
