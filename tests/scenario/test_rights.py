"""Owners and privileges end to end: a replica that follows them has those of the source at the end, whenever
they were changed."""

from __future__ import annotations

from tests.fix_ddl import dump
from tests.fix_pipeline import Pipeline
from tests.fix_postgres import Database, Server
from tests.fix_roles import Roles
from tests.tracked import install_triggers

BEFORE = """
    grant create on schema public to <app>;
    set role <app>;
    create table customer (id serial primary key, name text, note text);
    insert into customer (name) select 'c' || i from generate_series(1, 50) i;
    grant select (id, name) on customer to <reader>;
    create view names as select name from customer;
    grant select on names to public
"""
RUNNING = """
    set role <app>;
    create table deal (id int primary key, at date);
    grant insert, select on deal to <chief> with grant option;
    alter default privileges grant select on tables to <reader>;
    create table note (id int primary key);
    revoke select (name) on customer from <reader>
"""
DOWN = """
    alter table deal owner to <boss>;
    alter table customer add seen date;
    grant update (seen) on customer to <reader>;
    set role <chief>;
    grant select on deal to <reader>;
    reset role;
    create function f() returns int language sql as 'select 1';
    alter function f owner to <boss>;
    revoke all on function f from public;
    insert into customer (name, seen) values ('late', now())
"""


def test_owners_and_privileges_agree_whenever_they_were_changed(
    roles: Roles, source_server: Server, directory_pipeline: Pipeline
) -> None:
    pipeline = directory_pipeline
    source = pipeline.source
    roles.lend(source_server)  # to publish their tables
    pipeline.settings["schema"] = {"policies": {"owner": "apply", "grants": "apply"}}
    pipeline.write_config()
    source.execute_as_admin(roles.fill(BEFORE))
    install_triggers(source)
    running = pipeline.start("run")
    pipeline.wait()
    source.execute_as_admin(roles.fill(RUNNING))
    pipeline.wait()
    running.kill()
    source.execute_as_admin(roles.fill(DOWN))
    pipeline.start("run")
    pipeline.wait()
    assert rights(pipeline.replica) == rights(source)


def rights(database: Database) -> list[str]:
    ours = ("EVENT TRIGGER", "Owner: keepstream")
    return [each for each in dump(database, rights=True).split("\n\n") if not any(o in each for o in ours)]
