"""Owners and privileges on a replica that is told to follow them: pg_dump writes the same of both."""

from __future__ import annotations

import re

from connectors.postgres.catalog.tables import list_tables
from connectors.postgres.session import connect
from pipeline.capture.joins import definitions
from pipeline.capture.joins.replicas import Replicas
from pipeline.config.limits import TableLimit
from pipeline.config.model import Tables
from pipeline.config.values import TablePattern
from schemas.change import Change, Message, Operation
from schemas.ddl.kinds import Policy
from schemas.join import JOIN_PREFIX, JOIN_ROWS_PREFIX
from tests.capturing import capture_options
from tests.fix_ddl import Changing, dump
from tests.fix_postgres import PRODUCT, Database
from tests.fix_roles import Roles
from tests.integration.test_ddl_policies import policies
from tests.postgres_releases import release

FOLLOWED = policies(owner=Policy.APPLY, grants=Policy.APPLY, drop_schema=Policy.APPLY)

# Each is run by a superuser in a schema of its own, and may change roles. What DROP OWNED takes comes first.
CASES = {
    "nothing is left": "grant select on <s>.t to <reader>; grant update (a) on <s>.t to <reader>;"
    " grant usage on schema <s> to <reader>; grant usage on <s>.s to <chief>; drop owned by <reader>",
    "owner": "alter table <s>.t owner to <boss>; alter table <s>.t add c int; insert into <s>.t values (5)",
    "new table": "set role <boss>; create table <s>.n (id serial primary key,"
    " i int generated always as identity); grant select on <s>.n to <reader>",
    "option": "grant select, update on <s>.t to <chief> with grant option; set role <chief>;"
    " grant select on <s>.t to <reader>; grant update on <s>.t to public",
    "option taken": "grant select, update on <s>.t to <chief> with grant option; set role <chief>;"
    " grant select, update on <s>.t to <reader>; set role <app>;"
    " revoke grant option for select on <s>.t from <chief> cascade;"
    " revoke update on <s>.t from <chief> cascade",
    "owner with grants": "grant select on <s>.t to <chief> with grant option; set role <chief>;"
    " grant select on <s>.t to <boss>, <reader>; reset role; alter table <s>.t owner to <chief>",
    "own rights": "revoke insert, truncate on <s>.t from <app>; grant insert on <s>.t to <app>",
    "columns": "grant select (id), update (a, note) on <s>.t to <reader>;"
    " alter table <s>.t rename a to b; revoke update (b) on <s>.t from <reader>",
    "columns and table": "grant select (id), select on <s>.t to <reader>;"
    " grant insert (id) on <s>.t to public; revoke select on <s>.t from <reader>",
    "all tables": "grant all on all tables in schema <s> to <reader>;"
    " grant usage on all sequences in schema <s> to <reader>",
    "sequence": "alter sequence <s>.s owner to <boss>; grant all on <s>.s to <reader>;"
    " revoke update on <s>.s from <reader>",
    "identity": "alter table <s>.t add i int generated always as identity;"
    " grant usage on sequence <s>.t_i_seq to <reader>; revoke all on sequence <s>.t_i_seq from <app>",
    "view": "create view <s>.v as select id, a from <s>.t; alter view <s>.v owner to <app>;"
    " grant select (a) on <s>.v to <reader>; create materialized view <s>.m as select id from <s>.t;"
    " alter materialized view <s>.m owner to <boss>; grant select on <s>.m to public",
    "function": "create function <s>.f(int, out text) language sql as 'select null::text';"
    " revoke all on function <s>.f from public; grant execute on function <s>.f to <reader>;"
    " alter function <s>.f owner to <app>; create procedure <s>.p() language sql as 'select 1';"
    " alter procedure <s>.p owner to <boss>; revoke all on procedure <s>.p from public",
    "types": "create type <s>.e as enum ('a'); alter type <s>.e owner to <boss>;"
    " revoke usage on type <s>.e from public; create domain <s>.d as int; alter domain <s>.d owner to <app>;"
    " create type <s>.c as (a int); grant usage on type <s>.c to <reader> with grant option",
    "schema": "create schema <s>_own authorization <boss>; grant usage on schema <s>_own to public;"
    " alter schema <s> owner to <boss>; grant usage on schema <s> to <reader>; drop schema <s>_own",
    "defaults": "alter default privileges for role <app> grant select on tables to <reader>;"
    " alter default privileges for role <app> in schema <s> grant execute on functions to <reader>"
    " with grant option; alter default privileges for role <boss> revoke execute on functions from public;"
    " set role <boss>; create table <s>.d (id int primary key)",
    "no defaults": "alter default privileges for role <app> grant select on tables to <reader>;"
    " alter default privileges for role <app> revoke select on tables from <reader>;"
    " alter default privileges for role <app> in schema <s> grant usage on types to <chief>;"
    " alter default privileges for role <app> in schema <s> revoke usage on types from <chief>",
}


TABLES = """
    create schema <s> authorization <owner>;
    grant usage on schema <s> to <app>, <chief>;
    grant usage, create on schema <s> to <boss>;
    create table <s>.t (id int primary key, a int, note text);
    create sequence <s>.s;
    alter table <s>.t owner to <app>;
    alter sequence <s>.s owner to <app>;
"""


def begin(changing: Changing, roles: Roles, *schemas: str) -> None:
    """Both sides begin with tables of `app`, in schemas in which it may not create."""
    for database, owner in ((changing.source, "postgres"), (changing.replica, PRODUCT)):
        for schema in schemas:
            script = TABLES.replace("<s>", schema).replace("<owner>", owner)
            database.execute_as_admin(roles.fill(script))
    changing.begin()


def follow(changing: Changing, roles: Roles, *scripts: str) -> None:
    for script in scripts:
        changing.source.execute_as_admin(roles.fill(script))
    changing.log()
    with changing.replicating.running(policies=FOLLOWED):
        changing.replicating.wait_for(changing.made_log.lsn)


def written(database: Database) -> str:
    """By pg_dump. What belongs to a superuser, or to whom both sides' schemas do, is the replica's own."""
    return re.sub(rf"(?<=TO )(postgres|crm|{PRODUCT})\b", "us", dump(database, rights=True))


def test_owners_and_privileges_are_those_of_the_source(roles: Roles, changing: Changing) -> None:
    schemas = {f"s{place}": script for place, script in enumerate(CASES.values())}
    begin(changing, roles, *schemas)
    scripts = (script.replace("<s>", schema) for schema, script in schemas.items())
    follow(changing, roles, *scripts)
    if release("source") == release("replica"):
        assert written(changing.replica) == written(changing.source)


def owners(database: Database) -> list[str]:
    query = "select pg_get_userbyid(relowner) from pg_class where relkind = 'r' and relname in ('t', 'n')"
    return [name for (name,) in database.execute_as_admin(f"{query} order by relname")]


def test_apply_waits_for_a_role_and_for_its_membership_and_goes_on_by_itself(
    roles: Roles, changing: Changing
) -> None:
    begin(changing, roles, "s")
    late = f"late_{roles.app}"
    changing.source.execute_as_admin(f"create role {late}; alter table s.t owner to {late}")
    changing.log()
    try:
        with changing.replicating.running(policies=FOLLOWED) as applying:

            def refused() -> tuple[str, str]:
                said = applying.stage.snapshot().last_error
                return (said.code, said.hint) if said else ("", "")

            changing.replicating.wait(lambda: refused()[0] == "role-missing", "the missing role")
            assert f'create role "{late}";' in refused()[1]
            changing.replica.execute_as_admin(f"create role {late}")
            changing.replicating.wait(lambda: refused()[0] == "role-not-granted", "the membership")
            assert f'grant "{late}" to "{PRODUCT}";' in refused()[1]
            changing.replica.execute_as_admin(f"grant {late} to {PRODUCT}")
            changing.replicating.wait_for(changing.made_log.lsn)
        assert owners(changing.replica) == [late]
    finally:
        for database in (changing.source, changing.replica):
            database.execute_as_admin(f"drop table s.t; drop role {late}")


def test_privileges_without_owners_are_given_by_our_role(roles: Roles, changing: Changing) -> None:
    begin(changing, roles, "s")
    changing.replica.execute_as_admin(f"alter table s.t owner to {PRODUCT}")
    changing.source.execute_as_admin(
        roles.fill(
            "grant select on s.t to <reader>; revoke delete on s.t from <app>;"
            " alter table s.t owner to <boss>; create table s.n (id int primary key);"
            " grant insert on s.n to <chief>"
        )
    )
    changing.log()
    with changing.replicating.running(policies=policies(grants=Policy.APPLY)):
        changing.replicating.wait_for(changing.made_log.lsn)
    assert owners(changing.replica) == [PRODUCT, PRODUCT]
    granted = (
        "select relname, pg_get_userbyid(a.grantee), a.privilege_type from pg_class, aclexplode(relacl) a"
        " where a.grantee <> relowner and relname in ('t', 'n') order by 1"
    )
    assert changing.replica.execute(granted) == [
        ("n", roles.chief, "INSERT"),
        ("t", roles.reader, "SELECT"),
    ]


def test_a_replica_that_pauses_at_owners_makes_new_objects_with_theirs(
    roles: Roles, changing: Changing
) -> None:
    begin(changing, roles, "s")
    changing.source.execute_as_admin(roles.fill("set role <boss>; create table s.n (id int primary key)"))
    changing.log()
    with changing.replicating.running(policies=policies(owner=Policy.PAUSE)):
        changing.replicating.wait_for(changing.made_log.lsn)
    assert owners(changing.replica) == [roles.boss, roles.app]


JOINING = """
    set role <boss>;
    create table s.n (id serial primary key, i int generated always as identity, note text);
    grant select (note) on s.n to <reader>;
    grant insert on s.n to <chief> with grant option;
    grant usage on sequence s.n_id_seq, s.n_i_seq to <reader>;
    insert into s.n (note) values ('here');
    set role <chief>;
    grant insert on s.n to <app>
"""


def join(changing: Changing, roles: Roles, tables: Tables, rows: bytes) -> None:
    """Of a table of which no message told."""
    begin(changing, roles, "s")
    changing.source.execute_as_admin(roles.fill(JOINING))
    options = capture_options(changing.source, changing.made_log.log, tables=tables)
    with connect(changing.source.dsn, purpose="test") as session:
        (table,) = (each for each in list_tables(session, publication="changing") if each.name == "n")
    told = definitions._read(options, table, Replicas(options)).join
    changing.made_log.commit(
        *(
            Change(Operation.MESSAGE, bytes(8), payload=Message(True, prefix, content))
            for prefix, content in {JOIN_PREFIX: told.to_json(), JOIN_ROWS_PREFIX: rows}.items()
        )
    )
    with changing.replicating.running(policies=FOLLOWED):
        changing.replicating.wait_for(changing.made_log.lsn)


def test_a_table_of_which_no_message_told_joins_with_its_owner_and_privileges(
    roles: Roles, changing: Changing
) -> None:
    join(changing, roles, Tables(), b"1\t1\there\n")
    assert changing.replica.execute_as_admin("select * from s.n") == [(1, 1, "here")]
    if release("source") == release("replica"):
        assert written(changing.replica) == written(changing.source)


def test_privileges_on_the_sequence_of_a_column_that_is_not_listed_are_none_of_the_replicas(
    roles: Roles, changing: Changing
) -> None:
    limits = {TablePattern.parse("s.n"): TableLimit(columns=("id", "note"))}
    join(changing, roles, Tables(limits=limits), b"1\there\n")
    assert changing.replica.execute_as_admin("select * from s.n") == [(1, None, "here")]
