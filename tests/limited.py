"""Tables of which a publication sends some columns or rows."""

from __future__ import annotations

from typing import Any

from connectors.interfaces import ChangeLog
from pipeline.capture.options import CaptureOptions
from pipeline.config.limits import TableLimit
from pipeline.config.model import Keyless, Tables
from pipeline.config.values import TablePattern
from tests.capturing import capture_options
from tests.fix_pipeline import Pipeline
from tests.fix_postgres import Database

PEOPLE = """
    create table person (
        id int generated always as identity primary key, name text, secret text not null default 'made up'
            check (secret <> ''), doc text not null, age int generated always as (length(secret)) stored
    );
    create unique index on person (secret) nulls not distinct;
    create table plain (id int primary key, secret text not null default 'kept');
    insert into person (name, secret, doc)
        select 'name ' || i, 'secret ' || i, repeat(sha256(i::text::bytea)::text, 200)
          from generate_series(1, 500) i;
    insert into plain values (1)
"""
LISTED = "person (doc, name, id)"
ORDERS = """
    create table orders (id int, region text, note text, photo bytea, primary key (id, region));
    create table ticket (id int primary key, status text, body text);
    alter table ticket replica identity full, alter body set storage external;
    create table line (id int primary key, order_id int, region text,
                       foreign key (order_id, region) references orders);
    create table log (id int, kind text, primary key (id, kind)) partition by list (kind);
    create table log_a partition of log for values in ('a');
    create table log_b partition of log for values in ('b');
    insert into orders select i, case i % 3 when 0 then 'eu' else 'us' end, 'n' || i, sha256(i::text::bytea)
      from generate_series(1, 300) i;
    insert into ticket select i, case i % 2 when 0 then 'open' else 'closed' end, repeat('body ' || i, 900)
      from generate_series(1, 100) i;
    insert into line select i, i, case i % 3 when 0 then 'eu' else 'us' end from generate_series(1, 300) i;
    insert into log select i, case i % 2 when 0 then 'a' else 'b' end from generate_series(1, 100) i
"""


def publish(pipeline: Pipeline, *tables: str) -> None:
    pipeline.source.execute(
        f"create publication {pipeline.slot} for table {', table '.join(tables)}"
        " with (publish_via_partition_root = false)"
    )


def rows(pipeline: Pipeline, query: str) -> list[Any]:
    return pipeline.replica.execute(query)


def limiting(source: Database, log: ChangeLog, **limits: TableLimit) -> CaptureOptions:
    """A capture that makes a publication of tables of `public`."""
    patterns = {TablePattern.parse(f"public.{table}"): limit for table, limit in limits.items()}
    return capture_options(source, log, keyless=Keyless.FULL, tables=Tables(limits=patterns))


def told(pipeline: Pipeline) -> str:
    """All events of the log, a JSON text a line."""
    return pipeline.run("events", "tail", "--json", "--no-follow", "--from", "start").stdout
