"""What policies do: a replica waits exactly before a change, goes without it, or stops where it cannot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from connectors.postgres.ddl import approvals
from connectors.postgres.ddl.approvals import Decision, Waiting
from connectors.postgres.replica import progress
from connectors.postgres.replica.hold import hold, release
from connectors.postgres.replica.progress import HoldKind
from connectors.postgres.session import connect
from pipeline.reports import StageState
from schemas.change import Change, Message, Operation
from schemas.ddl.kinds import DEFAULTS, Kind, Policy
from schemas.errors import OperatorNeeded
from schemas.join import JOIN_KEYS_PREFIX, JOIN_PREFIX, JOIN_ROWS_PREFIX, Join, JoinKeys
from schemas.lsn import format_lsn
from tests import postgres_releases
from tests.fix_apply import PIPELINE, Applying
from tests.fix_ddl import Changing
from tests.fix_postgres import Database

TABLE = """
    create table crm.t (id int primary key, a int, note text);
    insert into crm.t values (1, 1, 'one');
"""
DROP = "insert into crm.t values (2); alter table crm.t drop column note; insert into crm.t values (3)"


def policies(**given: Policy) -> Mapping[Kind, Policy]:
    return {**DEFAULTS, **{Kind(kind): policy for kind, policy in given.items()}}


def waiting(replica: Database) -> Waiting | None:
    with connect(replica.dsn, purpose="test") as session:
        return approvals.read(session, PIPELINE)


def decide(changing: Changing, decision: Decision) -> None:
    with connect(changing.replica.dsn, purpose="test") as session:
        found = approvals.read(session, PIPELINE)
        assert found is not None
        assert approvals.decide(session, PIPELINE, found, decision, reason="as agreed")


def await_state(changing: Changing, applying: Applying, state: StageState = StageState.WAITING) -> None:
    changing.replicating.wait(lambda: applying.stage.snapshot().state is state, state)


def ids(database: Database) -> list[int]:
    return [key for (key,) in database.execute("select id from crm.t order by 1")]


def deferred(database: Database) -> list[tuple[Any, ...]]:
    return database.execute("select kind, object, statement from keepstream.deferred_ddl order by id")


@pytest.mark.parametrize(
    ("part_bytes", "joined"),
    [(0, False), (1, False), (10_000, False), (10_000, True)],
    ids=["whole", "parts", "larger parts", "joined parts"],
)
def test_it_waits_exactly_before_the_transaction_until_it_is_approved(
    changing: Changing, monkeypatch: pytest.MonkeyPatch, part_bytes: int, *, joined: bool
) -> None:
    if not joined:
        monkeypatch.setattr("pipeline.apply.backlog.JOINED_BYTES", 0)
    changing.begin(TABLE)
    changing.follow("insert into crm.t values (10)")
    before = changing.replicating.row().position
    changing.run(f"{DROP}; alter table crm.t drop column a; create index on crm.t (id)")
    changing.log(part_bytes=part_bytes)
    changing.run("insert into crm.t values (11)")
    changing.log()
    for _ in range(2):  # a restart changes nothing
        with changing.replicating.running() as applying:
            await_state(changing, applying)
            assert ids(changing.replica) == [1, 10]
            row = changing.replicating.row()
            assert row.position == before
            waits = f"approval of the schema changes at {format_lsn(row.awaits or 0)}"
            assert applying.stage.snapshot().waiting_for == waits
    found = waiting(changing.replica)
    assert found is not None
    assert [(s.kind, s.pauses) for s in found.steps] == [
        ("drop_column", True),
        ("drop_column", True),
        ("index", False),
    ]
    assert found.steps[0].sql == 'alter table "crm"."t" drop column if exists "note";'
    with changing.replicating.running():
        decide(changing, Decision.APPLY)
        changing.replicating.wait_for(changing.made_log.lsn)
    changing.agree()
    assert waiting(changing.replica) is None
    audit = "select action, reason, position::text, details from keepstream.audit where action like 'schema%'"
    ((action, reason, position, details),) = changing.replica.execute(audit)
    assert (action, reason, position) == ("schema-apply", "as agreed", format_lsn(row.awaits or 0))
    assert [step["kind"] for step in details["steps"]] == ["drop_column", "drop_column", "index"]


def test_it_goes_on_without_a_change_that_is_ignored(changing: Changing) -> None:
    changing.begin(TABLE)
    changing.run(f"{DROP}; create index i on crm.t (a)")
    changing.log()
    with changing.replicating.running() as applying:
        await_state(changing, applying)
        decide(changing, Decision.IGNORE)
        changing.replicating.wait_for(changing.made_log.lsn)
    assert changing.replica.execute("select * from crm.t order by 1") == [
        (1, 1, "one"),
        (2, None, None),
        (3, None, None),
    ]
    assert changing.replica.execute("select to_regclass('crm.i') is not null") == [(True,)]
    ((kind, name, statement),) = deferred(changing.replica)
    assert (kind, name) == ("ignored", "crm.t.note")
    assert statement == 'alter table "crm"."t" drop column if exists "note";'
    changing.follow(
        "create index j on crm.t (a); comment on index crm.j is 'of a'; insert into crm.t values (4)",
        policies=policies(index=Policy.IGNORE),
    )
    assert changing.replica.execute("select count(*), to_regclass('crm.j') from crm.t") == [(4, None)]


def test_a_table_that_is_to_lose_its_rows_waits_for_an_operator_who_may_ignore_the_change_alone(
    changing: Changing,
) -> None:
    """ADD COLUMN pauses nobody, but what a volatile default takes from the replica does. The rows have other
    values on the source, whatever is decided."""
    changing.begin(TABLE)
    changing.source.execute_as_admin("update keepstream.schema_settings set max_rows_bytes = 0")
    changing.run("alter table crm.t add column at text default clock_timestamp(), alter a type bigint")
    changing.log()
    with changing.replicating.running() as applying:
        await_state(changing, applying)
        found = waiting(changing.replica)
        assert found is not None
        assert [(step.sql, step.pauses) for step in found.steps[:2]] == [
            ("-- empty, until it is copied anew: crm.t", True),
            ('alter table "crm"."t" alter column "a" type bigint using null::bigint;', True),
        ]
        assert ids(changing.replica) == [1]
        decide(changing, Decision.IGNORE)
        changing.replicating.wait_for(changing.made_log.lsn)
    assert changing.replica.execute("select a, at from crm.t") == []
    assert changing.replica.execute("select table_name, awaits_copy from keepstream.schema_left_out") == [
        ("t", True)
    ]


def test_a_hold_before_the_wait_is_kept_exactly(changing: Changing) -> None:
    changing.begin(TABLE)
    changing.run("insert into crm.t values (10)")
    changing.log()
    at = changing.made_log.lsn
    changing.run(DROP)
    changing.log()
    with connect(changing.replica.dsn, purpose="test") as session:
        hold(session, PIPELINE, HoldKind.PAUSE, at=at, replica="standby")
    everything = policies(drop_column=Policy.APPLY)
    with changing.replicating.running(policies=everything) as applying:
        await_state(changing, applying, StageState.PAUSED)
        assert changing.replicating.row().position.lsn == at
        assert ids(changing.replica) == [1, 10]
        with connect(changing.replica.dsn, purpose="test") as session:
            release(session, PIPELINE)
        changing.replicating.wait_for(changing.made_log.lsn)
    changing.agree()


def test_a_column_that_a_policy_ignores_is_left_out_of_every_row(changing: Changing) -> None:
    changing.begin(TABLE)
    leaving = policies(add_column=Policy.IGNORE, drop_column=Policy.APPLY)
    changing.follow(
        "alter table crm.t add column x int default 5; insert into crm.t values (2, 2, 'two', 6);"
        " update crm.t set x = 7 where id = 1; create index on crm.t (x);"
        " alter table crm.t add y float8 default random()",
        policies=leaving,
    )
    many = "insert into crm.t (id, x) select i, i from generate_series(1000, 1200) i"
    changing.follow(f"{many}; update crm.t set note = 'new', x = 9", policies=leaving)
    changing.follow("alter table crm.t rename x to z; update crm.t set z = 1, a = 8", policies=leaving)
    assert [(of, statement) for _, of, statement in deferred(changing.replica)] == [
        ("crm.t.z", """alter table "crm"."t" add column "x" integer default '5';"""),
        ("crm.t.z", 'alter table only "crm"."t" alter column "x" set default 5;'),
        ("crm.t.t_x_idx", "CREATE INDEX t_x_idx ON crm.t USING btree (x);"),
        ("crm.t.y", 'alter table "crm"."t" add column "y" double precision default random();'),
        ("crm.t.z", 'alter table "crm"."t" rename column "x" to "z";'),
    ]
    columns = "select id, a, note from crm.t order by 1"
    assert changing.replica.execute(columns) == changing.source.execute(columns)
    assert changing.replica.execute("select count(*) from pg_attribute where attname in ('x', 'z')") == [(0,)]
    changing.follow("alter table crm.t drop column z; alter table crm.t drop column y", policies=leaving)
    changing.follow("update crm.t set a = 9", policies=leaving)
    changing.agree()
    assert changing.replica.execute("select * from keepstream.schema_left_out") == []
    assert deferred(changing.replica) == []


def test_what_is_said_of_a_column_that_a_policy_ignores_stops_nothing(changing: Changing) -> None:
    changing.begin(TABLE)
    leaving = policies(add_column=Policy.IGNORE, create_table=Policy.IGNORE)
    changing.follow(
        "alter table crm.t add x int; create index i on crm.t (x); create table crm.u (id int)",
        policies=leaving,
    )
    changing.follow(
        "comment on column crm.t.x is 'x'; comment on index crm.i is 'i'; comment on table crm.u is 'u';"
        " comment on column crm.u.id is 'id'; alter index crm.i rename to j; alter table crm.t alter x set"
        " statistics 9; comment on column crm.t.a is 'a'; insert into crm.t values (2)",
        policies=leaving,
    )
    assert ids(changing.replica) == [1, 2]
    assert changing.replica.execute("select col_description('crm.t'::regclass, 2)") == [("a",)]
    kept = [(of, statement) for _, of, statement in deferred(changing.replica)]
    assert ("crm.t.x", 'comment on column "crm"."t"."x" is \'x\';') in kept


def test_a_view_of_a_column_that_a_policy_ignores_says_what_is_lacking(changing: Changing) -> None:
    changing.begin(TABLE)
    with pytest.raises(OperatorNeeded) as stopped:
        changing.follow(
            "alter table crm.t add x int; create view crm.v as select x from crm.t",
            policies=policies(add_column=Policy.IGNORE),
        )
    assert stopped.value.code == "schema-refused"
    old = postgres_releases.release("source") < 16
    named = "t.x" if old else '"x"'  # as the source writes the view's definition
    assert stopped.value.hint.startswith(
        f"The replica lacks a column that crm.v uses (column {named} does not exist): a policy left it out"
    )


def test_a_table_that_a_policy_ignores_gets_no_rows(changing: Changing) -> None:
    changing.begin(TABLE)
    leaving = policies(create_table=Policy.IGNORE)
    changing.follow("create table crm.u (id int primary key); insert into crm.u values (1)", policies=leaving)
    changing.follow(
        "alter table crm.u add x int; insert into crm.u values (2, 2); truncate crm.u;"
        " alter table crm.u rename to w; insert into crm.w values (3); insert into crm.t values (2)",
        policies=leaving,
    )
    assert changing.replica.execute("select to_regclass('crm.u'), to_regclass('crm.w')") == [(None, None)]
    assert ids(changing.replica) == [1, 2]
    changing.follow("drop table crm.w", policies=policies(drop_table=Policy.APPLY))
    changing.agree()


def test_what_a_policy_ignores_stays_away_when_its_schema_is_renamed(changing: Changing) -> None:
    changing.begin(TABLE)
    leaving = policies(create_table=Policy.IGNORE, add_column=Policy.IGNORE)
    changing.follow("create table crm.u (id int primary key); alter table crm.t add x int", policies=leaving)
    changing.follow(
        "alter schema crm rename to sales; insert into sales.u values (1); insert into sales.t values (2);"
        " create schema crm",
        policies=leaving,
    )
    assert changing.replica.execute("select id from sales.t order by 1") == [(1,), (2,)]
    changing.follow("create table crm.u (id int primary key); insert into crm.u values (3)")
    assert changing.replica.execute("select id, to_regclass('sales.u') from crm.u") == [(3, None)]


def test_what_is_kept_for_later_is_called_as_its_schema_and_table_are_now(changing: Changing) -> None:
    changing.begin(TABLE)
    ignoring = policies(index=Policy.IGNORE, check=Policy.IGNORE)
    changing.follow(
        "create index i on crm.t (a); alter table crm.t add constraint c check (note <> 'crm.t')",
        policies=ignoring,
    )
    changing.follow('alter schema crm rename to "Shop"', policies=ignoring)
    changing.follow('alter table "Shop".t rename to u', policies=ignoring)
    assert deferred(changing.replica) == [
        ("ignored", "Shop.u.i", 'CREATE INDEX i ON "Shop".u USING btree (a);'),
        (
            "ignored",
            "Shop.u.c",
            'alter table "Shop"."u" add constraint "c" CHECK ((note <> \'crm.t\'::text));',
        ),
    ]


def test_a_table_that_a_policy_ignores_does_not_join_either(changing: Changing) -> None:
    changing.begin(TABLE)
    changing.follow("create table crm.u (id int primary key)", policies=policies(create_table=Policy.IGNORE))
    join = Join("crm", "u", ("id",), ("create table crm.u (id int primary key);",)).to_json()
    contents = {JOIN_PREFIX: join, JOIN_ROWS_PREFIX: b"1\n", JOIN_KEYS_PREFIX: JoinKeys().to_json()}
    changing.made_log.commit(
        *(
            Change(Operation.MESSAGE, bytes(8), payload=Message(True, prefix, content))
            for prefix, content in contents.items()
        )
    )
    changing.replicating.catch_up()
    assert changing.replica.execute("select to_regclass('crm.u')") == [(None,)]


def test_a_refused_statement_stops_with_its_remedy_and_is_tried_again(changing: Changing) -> None:
    changing.begin(TABLE)
    changing.replica.execute("create table crm.other (id int)")
    changing.run("insert into crm.t values (2); create table crm.other (id int primary key)")
    changing.log()
    error = changing.replicating.start().ended_with()
    assert isinstance(error, OperatorNeeded)
    assert error.code == "schema-refused"
    assert "create_table of crm.other: standby refuses create table" in error.message
    assert error.message.endswith('relation "other" already exists (42P07)')
    assert "Mend on the replica what its message says and start again: it is tried anew." in error.hint
    assert ids(changing.replica) == [1]
    changing.replica.execute("drop table crm.other")
    changing.follow("insert into crm.t values (3)")
    changing.agree()


def test_a_view_of_something_that_is_not_followed_says_what_is_lacking(changing: Changing) -> None:
    changing.begin(TABLE)
    aggregate = "create aggregate crm.total (int) (sfunc = int4pl, stype = int, initcond = '0')"
    changing.run(f"{aggregate}; create view crm.w as select crm.total(a) from crm.t")
    changing.log()
    error = changing.replicating.start().ended_with()
    assert error.code == "schema-refused"
    assert error.hint.startswith(
        "The replica lacks what crm.w uses (function crm.total(integer) does not exist)"
    )
    assert "`schema: {policies: {view: ignore}}`" in error.hint
    changing.replica.execute(aggregate)
    changing.follow("insert into crm.t values (3)")
    changing.agree()


RIGHTS: dict[str, tuple[str, str, str]] = {
    "the table is another's": (
        "alter table crm.t owner to postgres; grant all on crm.t to public",
        "alter table crm.t add b int",
        'alter table "crm"."t" owner to "{role}";',
    ),
    "the view is another's": (
        "create view crm.w as select 1 as x; alter view crm.w owner to postgres",
        "create or replace view crm.w as select 1 as x, 2 as y",
        'alter view "crm"."w" owner to "{role}";',
    ),
    "the type is another's": (
        'alter type crm."a mood" owner to postgres',
        "alter type crm.\"a mood\" add value 'fine'",
        'alter type "crm"."a mood" owner to "{role}";',
    ),
    "the schema is another's": (
        "alter schema crm owner to postgres; grant usage on schema crm to {role}",
        "create table crm.u (id int primary key)",
        'grant usage, create on schema "crm" to "{role}";',
    ),
}


@pytest.mark.parametrize(("before", "ddl", "mending"), RIGHTS.values(), ids=RIGHTS)
def test_a_role_that_lacks_a_right_goes_on_by_itself_once_it_has_it(
    changing: Changing, before: str, ddl: str, mending: str
) -> None:
    changing.begin(f"{TABLE} create type crm.\"a mood\" as enum ('good')")
    role = "keepstream"
    if "view" in before:
        changing.source.execute("create view crm.w as select 1 as x")
        changing.log()
    changing.replica.execute_as_admin(before.format(role=role))
    changing.run(f"{ddl}; insert into crm.t values (2)")
    changing.log()
    with changing.replicating.running() as applying:
        await_state(changing, applying, StageState.RETRYING)
        error = applying.stage.snapshot().last_error
        assert error is not None
        assert (error.code, mending.format(role=role) in error.hint) == ("schema-rights-missing", True)
        changing.replica.execute_as_admin(mending.format(role=role))
        changing.replicating.wait_for(changing.made_log.lsn)
    assert ids(changing.replica) == [1, 2]


def test_what_the_replica_lacks_is_dropped_without_a_word_and_altered_with_a_remedy(
    changing: Changing,
) -> None:
    changing.begin(f"{TABLE} create table crm.gone (id int primary key); create index i on crm.t (a)")
    changing.replica.execute("drop table crm.gone; drop index crm.i")
    applied = policies(drop_table=Policy.APPLY)
    changing.follow("drop index crm.i; insert into crm.t values (2)", policies=applied)
    changing.run("alter table crm.gone add column x int")
    changing.log()
    error = changing.replicating.start(policies=applied).ended_with()
    assert error.code == "schema-object-missing"
    assert (
        'standby has no "crm"."gone", which the source changes: alter table "crm"."gone" add' in error.message
    )
    assert 'Make "crm"."gone" on the replica as it was on the source before that' in error.hint
    changing.replica.execute("create table crm.gone (id int primary key)")
    changing.follow("drop table crm.gone; insert into crm.t values (3)", policies=applied)
    changing.agree()


def test_a_foreign_key_that_cannot_be_made_is_kept_for_later(changing: Changing) -> None:
    changing.begin(f"{TABLE} create table crm.r (id int primary key); insert into crm.r values (7)")
    changing.replica.execute("delete from crm.r")
    changing.follow(
        "insert into crm.t values (7, 7); alter table crm.t add constraint f foreign key (a)"
        " references crm.r not valid; delete from crm.t where id = 1; alter table crm.t validate constraint f"
    )
    ((kind, name, statement),) = deferred(changing.replica)
    assert (kind, name) == ("foreign key", "crm.t.f")
    assert statement == 'alter table "crm"."t" validate constraint "f";'
    changing.follow("alter table crm.t drop constraint f")
    assert deferred(changing.replica) == []


def test_what_would_act_on_replicated_rows_is_kept_still(changing: Changing) -> None:
    changing.begin(TABLE)
    changing.follow(
        "create function crm.f() returns trigger language plpgsql as"
        " $$ begin new.a := 100; return new; end $$;"
        " create trigger always before insert on crm.t for each row execute function crm.f();"
        " insert into crm.t values (2, 2); alter table crm.t enable always trigger always;"
        " insert into crm.t values (3, 3); alter table crm.t force row level security"
    )
    assert changing.replica.execute("select a from crm.t order by id") == changing.source.execute(
        "select a from crm.t order by id"
    )
    assert [(kind, name) for kind, name, _ in deferred(changing.replica)] == [
        ("trigger", "crm.t.always"),
        ("row security", "crm.t"),
    ]
    changing.follow("drop trigger always on crm.t; alter table crm.t no force row level security")
    assert deferred(changing.replica) == []
    changing.agree()


def test_owner_and_grants_are_the_replicas_own_business(changing: Changing) -> None:
    changing.begin(TABLE)
    changing.follow("grant select on crm.t to keepstream; insert into crm.t values (2)")
    changing.agree()
    assert changing.replica.execute("select to_regclass('keepstream.deferred_ddl')") == [(None,)]


def test_a_progress_row_says_what_is_waited_for_only_until_it_is_decided(changing: Changing) -> None:
    changing.begin(TABLE)
    changing.run(DROP)
    changing.log()
    with changing.replicating.running() as applying:
        await_state(changing, applying)
    with connect(changing.replica.dsn, purpose="test") as session:
        assert progress.require(session, PIPELINE).awaits is not None
    decide(changing, Decision.APPLY)
    assert changing.replicating.row().awaits is None
    assert waiting(changing.replica) is not None
