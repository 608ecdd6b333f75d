"""What the event triggers say of each kind of schema change: which object, and its state before and after."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.fix_postgres import Server
from tests.postgres_releases import needs_release
from tests.schema_messages import Tracked, changed, named

TABLE = "create table t (id int primary key, v text, n int)"
TREE = (
    "create table p (id int, v int) partition by range (id);"
    "create table p1 partition of p for values from (0) to (10)"
)
FUNCTION = "create function f() returns trigger language plpgsql as 'begin return new; end'"
FUNCTION_2 = FUNCTION.replace("return new", "return null").replace("create", "create or replace")


@dataclass(frozen=True)
class Case:
    """`expected`: by class and name (before, else after), the keys that changed."""

    setup: str
    ddl: str
    expected: dict[tuple[str, str], set[str]]


def table(*keys: str, name: str = "t") -> dict[tuple[str, str], set[str]]:
    return {("table", name): set(keys)}


COLUMNS = ("columns", "shape")

CASES = {
    "create table": Case("", TABLE, table("created")),
    "create table as": Case(TABLE, "create table u as select id from t", table("created", name="u")),
    "select into": Case(TABLE, "select id into u from t", table("created", name="u")),
    "create table like": Case(TABLE, "create table u (like t including all)", table("created", name="u")),
    "serial": Case(
        "", "create table t (id serial)", {**table("created"), ("sequence", "t_id_seq"): {"created"}}
    ),
    "drop table": Case(TABLE, "drop table t", table("dropped")),
    "rename table": Case(TABLE, "alter table t rename to u", table("name", "indexes")),
    "add column": Case(TABLE, "alter table t add c int default 5", table(*COLUMNS)),
    "add generated column": Case(
        TABLE, "alter table t add c int generated always as (id * 2) stored", table(*COLUMNS)
    ),
    "drop column": Case(TABLE, "alter table t drop v", table(*COLUMNS)),
    "rename column": Case(TABLE, "alter table t rename v to w", table(*COLUMNS)),
    "alter type": Case(TABLE, "alter table t alter v type varchar(10)", table(*COLUMNS)),
    "set default": Case(TABLE, "alter table t alter v set default 'x'", table(*COLUMNS)),
    "set storage": Case(TABLE, "alter table t alter v set storage external", table(*COLUMNS)),
    "set statistics": Case(TABLE, "alter table t alter v set statistics 7", table(*COLUMNS)),
    "add identity": Case(
        TABLE, "alter table t alter id add generated always as identity", table(*COLUMNS)
    ),
    "alter identity": Case(
        "create table t (id int generated always as identity)",
        "alter table t alter id set increment 5",
        table("columns"),
    ),
    "add key": Case("create table t (id int not null)", "alter table t add primary key (id)",
        table("constraints", "indexes")),
    "drop key": Case(TABLE, "alter table t drop constraint t_pkey", table("constraints", "indexes")),
    "add unique": Case(TABLE, "alter table t add unique (n)", table("constraints", "indexes")),
    "add check": Case(TABLE, "alter table t add check (n > 0) not valid", table("constraints")),
    "validate": Case(
        f"{TABLE}; alter table t add constraint c check (n > 0) not valid",
        "alter table t validate constraint c",
        table("constraints"),
    ),
    "rename constraint": Case(
        f"{TABLE}; alter table t add constraint c check (n > 0)",
        "alter table t rename constraint c to d",
        table("constraints"),
    ),
    "foreign key": Case(TABLE, "alter table t add foreign key (n) references t", table("constraints")),
    "exclusion": Case(
        "create table t (r int4range)",
        "alter table t add exclude using gist (r with &&)",
        table("constraints", "indexes"),
    ),
    "create index": Case(TABLE, "create unique index i on t (v) where n > 0", table("indexes")),
    "create index concurrently": Case(TABLE, "create index concurrently i on t (v)", table("indexes")),
    "rename index": Case(f"{TABLE}; create index i on t (v)", "alter index i rename to j", table("indexes")),
    "drop index": Case(f"{TABLE}; create index i on t (v)", "drop index i", table("indexes")),
    "drop index concurrently": Case(
        f"{TABLE}; create index i on t (v)", "drop index concurrently i", table("indexes")
    ),
    "create trigger": Case(
        f"{TABLE}; {FUNCTION}",
        "create trigger g before insert on t for each row execute function f()",
        table("triggers"),
    ),
    "disable trigger": Case(
        f"{TABLE}; {FUNCTION}; create trigger g before insert on t for each row execute function f()",
        "alter table t disable trigger g",
        table("triggers"),
    ),
    "drop trigger": Case(
        f"{TABLE}; {FUNCTION}; create trigger g before insert on t for each row execute function f()",
        "drop trigger g on t",
        table("triggers"),
    ),
    "create rule": Case(TABLE, "create rule r as on delete to t do instead nothing", table("rules")),
    "drop rule": Case(
        f"{TABLE}; create rule r as on delete to t do instead nothing", "drop rule r on t", table("rules")
    ),
    "create policy": Case(TABLE, "create policy y on t for update using (id > 0)", table("policies")),
    "drop policy": Case(f"{TABLE}; create policy y on t using (true)", "drop policy y on t",
        table("policies")),
    "row security": Case(TABLE, "alter table t enable row level security", table("row_security")),
    "replica identity": Case(TABLE, "alter table t replica identity full", table("replica_identity")),
    "replica identity index": Case(
        "create table t (id int not null unique)",
        "alter table t replica identity using index t_id_key",
        table("replica_identity", "indexes"),
    ),
    "options": Case(TABLE, "alter table t set (fillfactor = 70)", table("options")),
    "set unlogged": Case(TABLE, "alter table t set unlogged", table("persistence", "shape")),
    "comment on table": Case(TABLE, "comment on table t is 'x'", table("comment")),
    "comment on column": Case(TABLE, "comment on column t.v is 'x'", table("columns")),
    "comment on constraint": Case(TABLE, "comment on constraint t_pkey on t is 'x'", table("constraints")),
    "grant": Case(TABLE, "grant select on t to public", table("acl")),
    "grant on column": Case(TABLE, "grant select (v) on t to public", table("part_acl", "shape")),
    "grant on identity": Case(
        "create table t (id int generated always as identity)",
        "grant usage on sequence t_id_seq to public",
        table("part_acl"),
    ),
    "grant on all": Case(
        f"{TABLE}; create table u (x int)", "grant select on all tables in schema {s} to public",
        {**table("acl"), **table("acl", name="u")}),
    "attach": Case(
        "create table p (id int) partition by range (id); create table t (id int)",
        "alter table p attach partition t for values from (0) to (10)",
        {("table", "t"): {"columns", "partition_of", "partition_bound", "shape"}},
    ),
    "create partition": Case(
        TREE, "create table p2 partition of p for values from (10) to (20)", table("created", name="p2")
    ),
    "detach": Case(
        TREE,
        "alter table p detach partition p1",
        {("table", "p1"): {"columns", "partition_of", "partition_bound", "shape"}},
    ),
    "alter partitioned": Case(
        TREE,
        "alter table p add c int",
        {("table", "p"): {"columns", "shape"}, ("table", "p1"): {"columns", "shape"}},
    ),
    "index on partitioned": Case(
        TREE, "create index on p (v)", {("table", "p"): {"indexes"}, ("table", "p1"): {"indexes"}}
    ),
    "drop partitioned": Case(
        TREE, "drop table p", {("table", "p"): {"dropped"}, ("table", "p1"): {"dropped"}}
    ),
    "inherit": Case(
        "create table t (id int); create table u (id int)",
        "alter table u inherit t",
        table("columns", "inherits", "shape", name="u"),
    ),
    "no inherit": Case(
        "create table t (id int); create table u () inherits (t)",
        "alter table u no inherit t",
        table("columns", "inherits", "shape", name="u"),
    ),
    "alter parent": Case(
        "create table t (id int); create table u () inherits (t)",
        "alter table t add c int",
        {**table(*COLUMNS), **table(*COLUMNS, name="u")},
    ),
    "create enum": Case("", "create type e as enum ('a', 'b')", {("enum", "e"): {"created"}}),
    "add label": Case(
        "create type e as enum ('a')", "alter type e add value 'b' before 'a'", {("enum", "e"): {"labels"}}
    ),
    "rename label": Case(
        "create type e as enum ('a')", "alter type e rename value 'a' to 'b'", {("enum", "e"): {"labels"}}
    ),
    "rename enum": Case("create type e as enum ('a')", "alter type e rename to g", {("enum", "e"): {"name"}}),
    "drop enum": Case("create type e as enum ('a')", "drop type e", {("enum", "e"): {"dropped"}}),
    "create domain": Case("", "create domain d as int not null", {("domain", "d"): {"created"}}),
    "domain constraint": Case(
        "create domain d as int",
        "alter domain d add check (value > 0)",
        {("domain", "d"): {"constraints"}},
    ),
    "domain default": Case(
        "create domain d as int", "alter domain d set default 3", {("domain", "d"): {"default"}}
    ),
    "create composite": Case("", "create type c as (a int)", {("composite", "c"): {"created"}}),
    "add attribute": Case(
        "create type c as (a int)",
        "alter type c add attribute b text",
        {("composite", "c"): {"attributes", "natts"}},
    ),
    "drop attribute": Case(
        "create type c as (a int, b int)",
        "alter type c drop attribute a",
        {("composite", "c"): {"attributes"}},
    ),
    "drop composite": Case("create type c as (a int)", "drop type c", {("composite", "c"): {"dropped"}}),
    "create range": Case("", "create type r as range (subtype = int4)", {("range", "r"): {"created"}}),
    "create sequence": Case("", "create sequence q cycle maxvalue 5", {("sequence", "q"): {"created"}}),
    "alter sequence": Case(
        "create sequence q", "alter sequence q increment 3", {("sequence", "q"): {"increment"}}
    ),
    "drop sequence": Case("create sequence q", "drop sequence q", {("sequence", "q"): {"dropped"}}),
    "create view": Case(TABLE, "create view w as select id from t", {("view", "w"): {"created"}}),
    "replace view": Case(
        f"{TABLE}; create view w as select id from t",
        "create or replace view w as select id, v from t",
        {("view", "w"): {"def", "columns", "column_details"}},
    ),
    "drop view": Case(f"{TABLE}; create view w as select id from t", "drop view w",
        {("view", "w"): {"dropped"}}),
    "create matview": Case(TABLE, "create materialized view m as select id from t",
        {("matview", "m"): {"created"}}),
    "index on matview": Case(
        f"{TABLE}; create materialized view m as select id from t",
        "create index on m (id)",
        {("matview", "m"): {"indexes"}},
    ),
    "drop matview": Case(
        f"{TABLE}; create materialized view m as select id from t",
        "drop materialized view m",
        {("matview", "m"): {"dropped"}},
    ),
    "create function": Case("", FUNCTION, {("function", "f"): {"created"}}),
    "replace function": Case(FUNCTION, FUNCTION_2, {("function", "f"): {"def"}}),
    "grant on function": Case(FUNCTION, "revoke all on function f() from public",
        {("function", "f"): {"acl"}}),
    "drop function cascade": Case(
        f"{TABLE}; {FUNCTION}; create trigger g before insert on t for each row execute function f()",
        "drop function f cascade",
        {("function", "f"): {"dropped"}, **table("triggers")},
    ),
    "drop type cascade": Case(
        "create type e as enum ('a'); create table t (id int, e e)",
        "drop type e cascade",
        {("enum", "e"): {"dropped"}, **table(*COLUMNS)},
    ),
    "rename schema": Case(
        "create schema {s}_a; create table {s}_a.t (id int); create type {s}_a.e as enum ('a')",
        "alter schema {s}_a rename to {s}_b",
        {("schema", "{s}_a"): {"name"}},
    ),
    "drop schema": Case(
        "create schema {s}_a; create table {s}_a.t (id int)",
        "drop schema {s}_a cascade",
        {("schema", "{s}_a"): {"dropped"}, **table("dropped")},
    ),
    "set schema": Case(
        "create table t (id serial); create schema {s}_a",
        "alter table t set schema {s}_a",
        {
            **table("schema", "schema_oid", "columns"),
            ("sequence", "t_id_seq"): {"schema", "schema_oid"},
        },
    ),
    "other": Case(TABLE, "create statistics {s}.x on v, n from t", {("other", "None"): {"created"}}),
    "other dropped": Case(
        f"{TABLE}; create statistics x on v, n from t", "drop statistics x", {("other", "None"): {"dropped"}}
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def shared(source_server: Server) -> Iterator[Tracked]:
    """One source for all cases, each of which has a schema of its own."""
    database = source_server.new_database()
    yield Tracked(database)
    database.drop()


@pytest.fixture
def schema(shared: Tracked, request: pytest.FixtureRequest) -> str:
    name = f"case_{len(shared.database.execute_as_admin('select 1 from pg_namespace'))}"
    shared.database.execute(f"create schema {name}")
    shared.database.execute(f"set search_path = {name}")
    shared.messages()
    return name


@pytest.mark.parametrize("name", CASES)
def test_a_change_is_told_with_the_state_before_and_after(shared: Tracked, schema: str, name: str) -> None:
    case = CASES[name]
    if case.setup:
        shared.database.execute(case.setup.format(s=schema))
    shared.messages()
    found = shared.changes(case.ddl.format(s=schema))
    expected = {(kind, each.format(s=schema)): keys for (kind, each), keys in case.expected.items()}
    assert {(c["class"], str((c["before"] or c["after"])["name"])): changed(c) for c in found} == expected


def test_the_next_state_before_is_the_last_state_after(shared: Tracked, schema: str) -> None:
    steps = (
        "create index i on t (v)",
        "alter table t add c int",
        "alter table t rename to u",
        "drop table u",
    )
    first, *others = shared.changes(f"set search_path = {schema}; {TABLE}", *steps)
    assert first["before"] is None
    states = [first["after"]]
    for change in others:
        assert change["before"] == states[-1]
        states.append(change["after"])
    assert len(states) == 5
    assert states[-1] is None


def test_nothing_is_told_of_what_changes_nothing(shared: Tracked, schema: str) -> None:
    shared.database.execute(f"{TABLE}; create sequence q")
    shared.messages()
    assert shared.changes(
        "create table if not exists t (id int)",
        "alter sequence q restart 5",
        "create temp table x (id serial primary key, v text)",
        "alter table x add c int; create index on x (c); drop table x",
        "create temp view w as select 1; drop view w",
        "drop table if exists nowhere",
    ) == []  # fmt: skip


def test_a_state_has_every_key(shared: Tracked, schema: str) -> None:
    shared.database.execute("create table other (id int primary key)")
    shared.messages()
    state = shared.change(
        "create table t (id bigint generated always as identity (increment 2) primary key,"
        " v varchar(5) collate \"C\" default 'x', n numeric(5, 2) check (n > 0), o int references other,"
        " g int generated always as (o * 2) stored)"
    )["after"]
    assert sorted(state) == [
        "access_method", "acl", "columns", "comment", "constraints", "force_row_security", "indexes",
        "inherits", "kind", "name", "of_type", "options", "owner", "part_acl", "partition_bound",
        "partition_key", "partition_of", "persistence", "policies", "published", "replica_identity",
        "row_security", "rules", "schema", "schema_oid", "shape", "triggers",
    ]  # fmt: skip
    key = named(state, "columns", "id")
    assert key["identity"] == "a"
    assert key["identity_options"] == {
        "start": 1, "increment": 2, "min": 1, "max": 2**63 - 1, "cache": 1, "cycle": False,
        "sequence": [schema, "t_id_seq"],
    }  # fmt: skip
    text = named(state, "columns", "v")
    assert (text["type"], text["typmod"], text["default"]) == ("character varying(5)", 9,
        "'x'::character varying")  # fmt: skip
    assert text["collation"] == 'pg_catalog."C"'
    assert named(state, "columns", "g")["generated"] == "s"
    assert named(state, "columns", "g")["default"] == "(o * 2)"
    foreign = named(state, "constraints", "t_o_fkey")
    assert foreign["references"] == [schema, "other"]
    assert foreign["def"] == f"FOREIGN KEY (o) REFERENCES {schema}.other(id)"
    assert named(state, "indexes", "t_pkey")["constraint"] is True
    assert state["owner"] == "crm"


def test_a_missing_value_is_told_as_text(shared: Tracked, schema: str) -> None:
    shared.database.execute("create table t (id int); insert into t values (1)")
    shared.messages()
    change = shared.change("alter table t add a text[] default '{\"a b\",c}', add b text default 'q\"\\'")
    missing = {column["name"]: column["missing"] for column in change["after"]["columns"]}
    assert missing == {"id": None, "a": '{"a b",c}', "b": 'q"\\'}


def test_two_tables_that_swap_names_are_told_by_their_oids(shared: Tracked, schema: str) -> None:
    one, two = shared.changes("create table a (x int)", "create table b (x int)")
    swap = "begin; alter table a rename to c; alter table b rename to a; alter table c rename to b; commit"
    seen = [(c["oid"], c["before"]["name"], c["after"]["name"]) for c in shared.changes(swap)]
    assert seen == [(one["oid"], "a", "c"), (two["oid"], "b", "a"), (one["oid"], "c", "b")]


def test_names_arrive_raw_whatever_is_in_them(shared: Tracked, schema: str) -> None:
    name = "a.b\"c'd\\e$$ é\n日本"
    quoted = '"' + name.replace('"', '""') + '"'
    change = shared.change(f"create table {quoted} ({quoted} int primary key)")
    assert change["after"]["name"] == name
    assert change["after"]["columns"][0]["name"] == name


def test_settings_of_the_session_do_not_change_what_is_told(shared: Tracked, schema: str) -> None:
    ddl = (
        "create table t (d date default '2020-02-01', i interval default '1 day 2 hours',"
        " f float8 default 0.1, b bytea default '\\x00', w text default lower('x'))"
    )
    plain = shared.change(ddl)["after"]
    shared.database.execute(
        f"drop table t; create schema {schema}_x;"
        f" create function {schema}_x.lower(text) returns text language sql as 'select $1';"
        " set datestyle = 'German'; set intervalstyle = 'iso_8601'; set extra_float_digits = -10;"
        f" set bytea_output = 'escape'; set quote_all_identifiers = on; set search_path = {schema}"
    )
    shared.messages()
    other = shared.change(ddl)["after"]
    defaults: list[list[Any]] = [[c["default"] for c in state["columns"]] for state in (plain, other)]
    assert defaults[0] == defaults[1]
    shared.database.disconnect()


def test_the_role_that_gave_the_command_is_told(shared: Tracked, schema: str) -> None:
    shared.database.execute(TABLE)
    shared.database.execute_as_admin(f"set role crm; alter table {schema}.t add c int")
    assert [m["role"] for m in shared.messages()] == ["crm", "crm"]


@needs_release("source", 18)
def test_not_null_and_not_enforced_constraints_of_18_are_told(shared: Tracked, schema: str) -> None:
    state = shared.change("create table t (id int not null, n int check (n > 0) not enforced)")["after"]
    assert named(state, "constraints", "t_id_not_null")["type"] == "n"
    assert named(state, "constraints", "t_n_check")["enforced"] is False


def test_an_extension_is_told_without_its_members(shared: Tracked) -> None:
    shared.messages()
    shared.database.execute_as_admin("create extension hstore schema public")
    made = [c for m in shared.messages() for c in m["changes"]]
    assert [(c["class"], c["after"]["name"]) for c in made] == [("extension", "hstore")]
    shared.database.execute_as_admin("drop extension hstore")
    gone = [c for m in shared.messages() for c in m["changes"]]
    assert [(c["class"], changed(c)) for c in gone] == [("extension", {"dropped"})]


def test_a_table_that_a_publication_lists_says_so(shared: Tracked, schema: str) -> None:
    shared.database.execute(TABLE)
    shared.messages()
    shared.database.execute_as_admin(f"create publication {schema} for table {schema}.t")
    (change,) = [c for m in shared.messages() for c in m["changes"]]
    assert change["after"]["published"] == [schema]
    shared.database.execute_as_admin(f"drop publication {schema}")
    (change,) = [c for m in shared.messages() for c in m["changes"]]
    assert change["after"]["published"] == []
