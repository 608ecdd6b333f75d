"""All kinds of DDL under traffic, end to end: at the end rows and schema of source and replica agree."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from schemas.ddl.kinds import NEVER_APPLIED, Kind
from tests.fix_ddl import dumped_lines
from tests.fix_pipeline import Pipeline
from tests.fix_postgres import Database
from tests.tracked import install_triggers

JOIN_S = 60.0
BEFORE = """
    create table customer (id int primary key, name text, credit int default 5);
    create table orders (id int primary key, customer int references customer, total numeric(8, 2));
    create table event (id int primary key, at int, v text);
    create table part (id int, day int, v text, primary key (id, day)) partition by range (day);
    create table part1 partition of part for values from (0) to (10);
    create type mood as enum ('good', 'bad');
    create domain short as varchar(9);
    insert into customer select i, 'c' || i, i from generate_series(1, 50) i;
    insert into part values (1, 1, 'a')
"""
# Each is one transaction; traffic goes on between them.
STEPS = (
    "alter table customer add phone text default 'none', add seen timestamptz default now()",
    "alter table customer rename credit to points; update customer set points = points + 1 where id < 9",
    "update customer set name = 'x' where id = 3; alter table customer drop phone, add phone int;"
    " update customer set phone = id where id < 20",
    "alter table customer alter points type bigint using points * 10",
    "alter table customer add mood mood; update customer set mood = 'good' where id < 5",
    "alter type mood rename value 'good' to 'fine';"
    " insert into customer (id, name, mood) values (101, 'y', 'fine')",
    "alter table customer add nick short default 'nick', alter name set not null",
    "create table note (id int primary key, customer int references customer, body text);"
    " create index on note (body); insert into note values (1, 1, 'first')",
    "alter table note add extra int default 7; insert into note values (2, 2, 'second', 2)",
    "create table part2 partition of part for values from (10) to (20); insert into part values (2, 11, 'b')",
    "alter table event rename to event_old; create table event (id int primary key, w int);"
    " insert into event_old values (-1, 1, 'old')",
    "create table swap_a (id int primary key, a text); create table swap_b (id int primary key, b int)",
    "alter table part rename v to value; insert into part values (3, 3, 'c')",
    "alter table part detach partition part1; insert into part1 values (4, 4, 'd')",
    "alter table part attach partition part1 for values from (0) to (10)",
    "create schema sales; alter table customer set schema sales; update sales.customer set phone = 0",
    "alter schema sales rename to crm; update crm.customer set phone = 1 where id = 1",
    # The traffic locks orders before customer, too.
    "lock table orders;"
    " alter table crm.customer drop constraint customer_pkey cascade, add primary key (id, name);"
    " delete from crm.customer where id = 50",
    "create view crm.names as select id, name from crm.customer; create sequence crm.numbers",
    "alter table orders add check (total > 0), alter total type numeric(12, 4)",
    "drop table event_old",
    "create unique index on orders (id, customer); comment on table orders is 'of customers'",
    "alter table crm.customer set schema public; drop schema crm cascade",
    "create table bill (id int primary key, orders int references orders); insert into bill values (1, 1)",
    "alter table bill add paid int; create index on bill (paid); insert into bill values (2, 2, 3)",
)


@contextmanager
def traffic(source: Database) -> Iterator[None]:
    """Inserts and updates of a table that nobody drops, each in a transaction of its own."""
    stop = threading.Event()

    def write() -> None:
        with source.connect() as session:
            number = 1
            while not stop.is_set():
                session.execute("insert into orders values (%s, null, %s)", [number, number])
                session.execute("update orders set total = total + 1 where id = %s", [number // 2])
                number += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def joined(pipeline: Pipeline, table: str) -> bool:
    query = "select count(*) from pg_publication_tables where schemaname || '.' || tablename = %s"
    return bool(pipeline.source.execute(query, [table])[0][0])


def test_a_replica_follows_all_kinds_of_ddl_under_traffic(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    source, replica = pipeline.source, pipeline.replica
    policies = {kind.value: "apply" for kind in Kind if kind not in NEVER_APPLIED}
    pipeline.settings["schema"] = {"policies": {**policies, "owner": "ignore"}}
    pipeline.write_config()
    source.execute(BEFORE)
    install_triggers(source)
    running = pipeline.start("run")
    pipeline.wait()
    with traffic(source):
        for step in STEPS:
            source.execute(f"begin; {step}; commit")
            if "part2" in step or "swap_a" in step:
                pipeline.until(lambda: joined(pipeline, "public.part2"), "the joining", JOIN_S)
        running.kill()
        source.execute(
            "begin; alter table orders add late int; update orders set late = id where id < 9;"
            " alter table orders rename late to later; commit"
        )
        pipeline.start("run")
    for table in ("note", "event", "swap_a", "swap_b", "bill"):
        pipeline.until(lambda name=table: joined(pipeline, f"public.{name}"), table, JOIN_S)  # type: ignore[misc]
    source.execute(
        "begin; alter table swap_a rename to swap; alter table swap_b rename to swap_a;"
        " alter table swap rename to swap_b; insert into swap_a values (1, 1);"
        " insert into swap_b values (1, 'a'); commit"
    )
    pipeline.wait()
    pipeline.verify()
    assert dumped_lines(replica) == dumped_lines(source)


def test_a_replica_waits_for_approval_and_everybody_is_told(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    source, replica = pipeline.source, pipeline.replica
    source.execute("create table customer (id int primary key, name text)")
    install_triggers(source)
    running = pipeline.start("run")
    pipeline.wait()
    source.execute(
        "begin; insert into customer values (1, 'a'); alter table customer drop column name;"
        " insert into customer values (2); commit"
    )

    def waits() -> bool:
        seen = pipeline.run("status", "--json").json
        found = [finding["hint"] for finding in seen["findings"] if finding["code"] == "schema-waits"]
        is_told = any("keepstream schema approve standby" in hint for hint in found)
        return is_told and seen["replicas"]["standby"]["state"] == "waiting_for_approval"

    pipeline.until(waits, "the wait for approval")
    running.kill()
    pipeline.start("run")
    pipeline.until(waits, "the wait for approval, again")
    assert replica.execute("select * from customer") == []
    done = pipeline.run("wait", "standby", "--timeout", "2")
    assert "in time: it waits for approval of the schema changes at " in done.stderr
    assert 'drop column if exists "name"' in pipeline.run("schema", "show", "standby").stdout
    assert pipeline.run("schema", "approve", "standby", "--all").code == 0
    pipeline.wait()
    pipeline.verify()
    assert replica.execute("select * from customer order by id") == [(1,), (2,)]
