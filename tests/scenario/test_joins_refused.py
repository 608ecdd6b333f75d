"""Tables that a replica cannot take in as they are: each is left out and says why, and joins once it can."""

from __future__ import annotations

import re

import pytest

from pipeline.dev.process import wait_until
from tests.fix_pipeline import Pipeline, Running

JOIN_S = 60.0

pytestmark = pytest.mark.usefixtures("looking_often")

REFUSED = {
    "versioned": (
        "create unlogged table versioned (id int primary key, amount numeric(8,2))",
        "alter table versioned alter amount type numeric(12,4); alter table versioned set logged",
        "its column amount is numeric(8,2) instead of numeric(12,4)",
        "drop table versioned",
    ),
    "of_another_domain": (
        "create domain cents as numeric(8,2);"
        " create unlogged table of_another_domain (id int primary key, amount cents)",
        "alter table of_another_domain alter amount type numeric(12,4); drop domain cents;"
        " create domain cents as numeric(12,4);"
        " alter table of_another_domain alter amount type cents, set logged",
        "its column amount is public.cents with numeric(8,2) instead of numeric(12,4)",
        "drop table of_another_domain; drop domain cents; create domain cents as numeric(12,4)",
    ),
    "of_more_labels": (
        "create type mood as enum ('good');"
        " create unlogged table of_more_labels (id int primary key, mood mood)",
        "alter type mood add value 'bad'; alter table of_more_labels set logged",
        """its column mood has enum "public"."mood", which lacks 'bad' of the source's""",
        "alter type mood add value 'bad'",
    ),
    "unfilled": (
        "create unlogged table unfilled (id int primary key, ours int not null)",
        "alter table unfilled drop ours; alter table unfilled set logged",
        "its own column ours is NOT NULL and has no default",
        "alter table unfilled alter ours drop not null",
    ),
    "keyed_later": (
        "create unlogged table keyed_later (name text)",
        "alter table keyed_later add column id serial primary key; alter table keyed_later set logged",
        "it lacks column id (integer)",
        "drop table keyed_later",
    ),
    "computed_there": (
        "create unlogged table computed_there"
        " (id int primary key, total int generated always as (id * 2) stored)",
        "alter table computed_there alter total drop expression; alter table computed_there set logged",
        "it computes column total itself",
        "drop table computed_there",
    ),
    "computed_here": (
        "create unlogged table computed_here (id int primary key, total int)",
        "alter table computed_here drop total, add total int generated always as (id * 2) stored;"
        " alter table computed_here set logged",
        "it does not compute column total, as the source does",
        "drop table computed_here",
    ),
    "of_other_bounds": (
        "create table bound (id int primary key) partition by range (id);"
        " create table within_bounds partition of bound for values from (0) to (100)",
        "alter table bound detach partition within_bounds;"
        " create table of_other_bounds partition of bound for values from (50) to (100)",
        'partition "of_other_bounds" would overlap partition "within_bounds"',
        "alter table bound detach partition within_bounds",
    ),
    "of_more_columns": (
        "create table whole (id int primary key) partition by range (id)",
        "alter table whole add column note text;"
        " create table of_more_columns partition of whole for values from (0) to (100)",
        'contains column "note" not found in parent "whole"',
        "alter table whole add column note text",
    ),
    "with_an_index": (
        "create table other (id int primary key); create index moved on other (id)",
        "drop index moved; create table with_an_index (id int primary key);"
        " create index moved on with_an_index (id)",
        'relation "moved" already exists',
        "drop index moved",
    ),
}
"""By table: what is there at the first copy, what the source makes of it, why the replica cannot take it in
then, and what mends that there."""


def refused(pipeline: Pipeline) -> dict[str, str]:
    """The reasons that name the replica, of tables of schema public."""
    return {
        each["table"].removeprefix("public."): each["reason"]
        for each in pipeline.run("status", "--json").json["not_replicated"]
        if "replica standby cannot" in each["reason"]
    }


def told(running: Running, what: str) -> set[str]:
    """Of which tables of schema public."""
    return set(re.findall(rf"{what} table=public\.(\w+)", running.output))


@pytest.mark.long(20)
def test_tables_that_a_replica_cannot_take_in_as_they_are_join_once_it_can(
    directory_pipeline: Pipeline,
) -> None:
    """The first copy made what the replica has of them."""
    pipeline = directory_pipeline
    pipeline.source.execute("create table work (id int primary key)")
    for before, *_ in REFUSED.values():
        pipeline.source.execute(before)
    running = pipeline.start("run")
    pipeline.wait()
    for _, change, *_ in REFUSED.values():
        pipeline.source.execute(change)
    wait_until(lambda: told(running, "table left out") >= REFUSED.keys(), JOIN_S)  # costs less than to ask
    wait_until(lambda: len(refused(pipeline)) >= len(REFUSED), JOIN_S / 4)
    reasons = refused(pipeline)
    assert reasons.keys() == REFUSED.keys(), pipeline.outputs()
    assert [table for table, (_, _, seen, _) in REFUSED.items() if seen not in reasons[table]] == [], reasons
    pipeline.source.execute("insert into work values (1)")
    pipeline.wait()
    assert told(running, "table joined") == set()
    for *_, mend in REFUSED.values():
        pipeline.replica.execute_as_admin(mend)
    wait_until(lambda: told(running, "table joined") >= REFUSED.keys(), JOIN_S)
    assert told(running, "table joined") == REFUSED.keys(), pipeline.outputs()
    pipeline.wait()
    assert {f"public.{table}" for table in REFUSED} <= {each["table"] for each in pipeline.verify()["tables"]}
