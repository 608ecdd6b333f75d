"""A table whose rows are not in the log: apply leaves its changes out, follows what DDL makes of it, and
takes its changes from the transaction on that finds it copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from connectors.postgres.catalog.publication import TableName
from connectors.postgres.ddl import left_out
from connectors.postgres.mend.transaction import end_awaiting
from connectors.postgres.replica import deferred as kept
from connectors.postgres.session import connect
from schemas.change import Change, Message, Operation
from schemas.ddl.kinds import DEFAULTS, Kind, Policy
from schemas.ddl.message import DDL_PREFIX, ObjectChange, SchemaMessage
from schemas.errors import OperatorNeeded
from schemas.join import (
    JOIN_EMPTY_PREFIX,
    JOIN_KEYS_PREFIX,
    JOIN_PREFIX,
    JOIN_ROWS_PREFIX,
    Join,
    JoinKey,
    JoinKeys,
)
from tests.fix_apply import PIPELINE, Applying
from tests.fix_ddl import Changing

FOLLOWING: Mapping[Kind, Policy] = {**DEFAULTS, Kind.ALTER_TYPE: Policy.APPLY, Kind.DROP_TABLE: Policy.APPLY}
MANY = "insert into {} select i, 1, 'set' from generate_series({}, {}) i"
"""More than are worth sets."""
NO_KEYS = JoinKeys()
ONE = "language sql as 'select 1'"
TABLES = "create table crm.t (id int primary key); insert into crm.t values (1), (2)"
U = "create table crm.u (id int primary key, t int references crm.t, note text)"
PARTED = (
    "create table crm.p (id int, u int references crm.u) partition by list (id);"
    " create table crm.c (id int, u int)"
)
"""Rows of what is attached are checked against the key to crm.u."""
U_TO_T = 'alter table only "crm"."u" add constraint "u_t_fkey" FOREIGN KEY (t) REFERENCES crm.t(id);'
X = "create table crm.x (id int primary key, u int references crm.u)"
V_TO_U = 'alter table only "crm"."v" add constraint "v_u" FOREIGN KEY (u) REFERENCES crm.u(id);'


def message(prefix: str, content: bytes) -> Change:
    return Change(Operation.MESSAGE, bytes(8), payload=Message(True, prefix, content))


def join(changing: Changing, prefix: str, *rows: bytes, keys: JoinKeys = NO_KEYS) -> None:
    """Of table crm.u, which may be there."""
    ddl = "create table crm.u (id int primary key, t int, note text)"
    definition = Join("crm", "u", ("id", "t", "note"), (ddl,)).to_json()
    changing.made_log.commit(
        message(prefix, definition),
        *(message(JOIN_ROWS_PREFIX, each) for each in rows),
        message(JOIN_KEYS_PREFIX, keys.to_json()),
    )
    changing.replicating.catch_up()


def awaiting(changing: Changing) -> list[str]:
    with connect(changing.replica.dsn, purpose="test") as session:
        return sorted(".".join(table) for table in left_out.read(session, PIPELINE).awaiting)


def copy(changing: Changing, table: str) -> None:
    """What `snapshot` does in one transaction of the replica that stands where the source does."""
    rows = changing.source.execute(f"select r::text from {table} r")
    with connect(changing.replica.dsn, purpose="test") as session, session.transaction():
        session.execute("set local session_replication_role = replica")
        for (row,) in rows:
            session.execute(f"insert into {table} select (%s::{table}).*".encode(), [row])
        schema, name = table.split(".")
        end_awaiting(session, PIPELINE, (schema, name), replica_role=True, check=lambda: None)


def deferred(changing: Changing) -> list[tuple[Any, ...]]:
    return changing.replica.execute("select kind, object, reason from keepstream.deferred_ddl order by id")


def keys(changing: Changing) -> list[tuple[Any, ...]]:
    return changing.replica.execute("select conname::text from pg_constraint where contype = 'f' order by 1")


def test_changes_are_left_out_on_every_path_and_ddl_is_followed_until_the_table_is_copied(
    changing: Changing,
) -> None:
    changing.begin(TABLES)
    changing.follow(f"{U}; {X}; {PARTED}; insert into crm.u values (1, 1, 'before')", policies=FOLLOWING)
    changing.replica.execute("delete from crm.u")
    join(changing, JOIN_EMPTY_PREFIX)
    assert awaiting(changing) == ["crm.u"]
    changing.run("update crm.u set note = 'single' where id = 1; delete from crm.u where id = 1")
    changing.run(
        f"{MANY.format('crm.u', 10, 400)}; insert into crm.t values (3); truncate crm.u, crm.x, crm.p;"
        " insert into crm.u values (5, 2, 'again')"
    )
    changing.log()
    changing.run(
        "update crm.u set note = 'part'; insert into crm.t values (4); insert into crm.x values (1, 5)"
    )
    changing.log(part_bytes=1)
    changing.follow(
        "insert into crm.c values (1, 5); alter table crm.p attach partition crm.c for values in (1)"
    )
    changing.follow(
        "alter table crm.u alter note type varchar(40) using note || '!', add column extra int default 7,"
        " alter id type bigint;"
        " alter table crm.u rename to w; create index on crm.w (extra); insert into crm.w values (6)",
        policies=FOLLOWING,
    )
    assert (awaiting(changing), changing.replica.execute("select count(*) from crm.w")) == (["crm.w"], [(0,)])
    assert changing.replica.execute("select count(*) from crm.t") == [(4,)]
    waits = "it refers to crm.u, whose rows are still to be copied"
    assert deferred(changing) == [
        ("foreign key", "crm.x.x_u_fkey", waits),
        ("foreign key", "crm.p.p_u_fkey", waits),
    ]

    with changing.replicating.running(policies=FOLLOWING):
        changing.run("update crm.w set note = 'left out' where id = 6; insert into crm.t values (5)")
        changing.log()
        changing.replicating.wait_for(changing.made_log.lsn)
        copy(changing, "crm.w")
        changing.run(f"update crm.w set note = 'copied' where id = 5; {MANY.format('crm.w', 10, 400)}")
        changing.log()
        changing.replicating.wait_for(changing.made_log.lsn)
    assert awaiting(changing) == []
    changing.agree()


def test_keys_to_a_table_without_rows_are_made_when_it_is_copied(changing: Changing) -> None:
    """Those that its joining tells, and those that DDL makes meanwhile. One of its own is made at once."""
    changing.begin(
        f"{TABLES}; create table crm.v (id int primary key, u int); insert into crm.v values (1, 5)"
    )
    changing.follow(f"{U}; insert into crm.u values (5, 1, 'five')", policies=FOLLOWING)
    changing.replica.execute("drop table crm.u")
    with connect(changing.replica.dsn, purpose="test") as session:
        kept.keep(session, PIPELINE, kept.Deferred("foreign key", "crm.v.v_u", "as told", V_TO_U))
    own = JoinKey("crm.u.u_t_fkey", "crm.t", U_TO_T)
    join(changing, JOIN_EMPTY_PREFIX, keys=JoinKeys((own,), (), (JoinKey("crm.v.v_u", "crm.u", V_TO_U),)))
    changing.follow("alter table crm.v add constraint v_later foreign key (u) references crm.u")
    changing.follow("alter table crm.v rename constraint v_later to v_last")
    changing.follow("alter table crm.v add constraint v_proven foreign key (u) references crm.u not valid")
    changing.follow("alter table crm.v validate constraint v_proven")
    changing.follow(
        "create table crm.w (u int constraint w_u references crm.u) partition by list (u);"
        " create table crm.w5 (u int); insert into crm.w5 values (5);"
        " alter table crm.w attach partition crm.w5 for values in (5)"
    )
    assert keys(changing) == [("u_t_fkey",)]
    waits = "it refers to crm.u, whose rows are still to be copied"
    violated = 'insert or update on table "v" violates foreign key constraint "v_later"'
    assert deferred(changing) == [
        ("foreign key", "crm.v.v_u", waits),
        ("foreign key", "crm.v.v_last", violated),
        ("foreign key", "crm.v.v_proven", waits),
        ("foreign key", "crm.v.v_proven", 'constraint "v_proven" of relation "v" does not exist'),
        ("foreign key", "crm.w.w_u", waits),
    ]
    copy(changing, "crm.u")
    assert keys(changing) == [("u_t_fkey",), ("v_last",), ("v_proven",), ("v_u",), ("w_u",), ("w_u",)]
    assert changing.replica.execute("select from pg_constraint where not convalidated") == []
    assert deferred(changing) == []


def test_a_table_that_was_rewritten_and_is_too_large_loses_its_rows_until_it_is_copied(
    changing: Changing,
) -> None:
    """Keys to it wait, so that it need not be emptied row by row; on both sides of the change are others'
    rows and its own, in one transaction."""
    changing.begin(
        f"{TABLES}; {U}; {X}; create table crm.s (id int primary key, s int references crm.s);"
        " insert into crm.u values (1, 1, 'one'); insert into crm.x values (1, 1);"
        " insert into crm.s values (1, null), (2, 1)"
    )
    changing.source.execute_as_admin("update keepstream.schema_settings set max_rows_bytes = 0")
    changing.follow(
        "insert into crm.u values (2, 2, 'two'); insert into crm.x values (2, 2);"
        " alter table crm.u alter note type bytea using sha256(note::bytea),"
        " add column at text default clock_timestamp();"
        " insert into crm.u values (3, 1, 'three'); insert into crm.x values (3, 3);"
        " update crm.x set u = 1 where id = 3; delete from crm.u where id = 3;"
        " alter table crm.s alter id type bigint using id + 10, alter s type bigint using s + 10",
        policies=FOLLOWING,
    )
    assert awaiting(changing) == ["crm.s", "crm.u"]
    assert changing.replica.execute("select from crm.u union all select from crm.s") == []
    assert changing.replica.execute("select * from crm.x order by id") == [(1, 1), (2, 2), (3, 1)]
    assert deferred(changing) == [
        ("foreign key", "crm.x.x_u_fkey", "it refers to crm.u, whose rows are still to be copied"),
        ("foreign key", "crm.s.s_s_fkey", "it refers to crm.s, whose rows are still to be copied"),
    ]
    copy(changing, "crm.u")
    changing.follow(
        "update crm.u set t = 2; insert into crm.s values (20, 11); alter table crm.s rename to r",
        policies=FOLLOWING,
    )
    assert awaiting(changing) == ["crm.r"]
    copy(changing, "crm.r")
    changing.follow("update crm.r set s = 12 where id = 20")
    assert (awaiting(changing), deferred(changing)) == ([], [])
    changing.agree()


def test_a_table_that_is_dropped_or_joins_again_with_its_rows_awaits_none(changing: Changing) -> None:
    changing.begin(TABLES)
    changing.follow(U)
    join(changing, JOIN_EMPTY_PREFIX)
    changing.follow("insert into crm.u values (1)")
    join(changing, JOIN_PREFIX, b"1\t2\tone\n")
    assert awaiting(changing) == []
    assert changing.replica.execute("select * from crm.u") == [(1, 2, "one")]
    changing.follow("delete from crm.u")
    with connect(changing.replica.dsn, purpose="test") as verifying, verifying.transaction():
        left_out.read(verifying, PIPELINE)  # which locks the list against ALTER TABLE until it ends
        join(changing, JOIN_EMPTY_PREFIX)
    assert awaiting(changing) == ["crm.u"]
    changing.follow("drop table crm.u", policies=FOLLOWING)
    assert awaiting(changing) == []
    changing.agree()


def test_a_table_awaits_its_copy_under_the_name_that_it_has_on_the_source(changing: Changing) -> None:
    """Whoever renames it on the replica: somebody before, or after a policy left that out. A function of that
    name is another thing."""
    changing.begin(TABLES)
    changing.follow(f"{U}; create schema other; create function crm.u() returns int {ONE}")
    join(changing, JOIN_EMPTY_PREFIX)
    changing.follow("alter function crm.u() rename to v; insert into crm.u values (6)")
    assert (awaiting(changing), changing.replica.execute("select from crm.u")) == (["crm.u"], [])
    changing.replica.execute("alter table crm.u rename to w")
    changing.follow("alter table crm.u rename to w; insert into crm.w values (7)")
    assert (awaiting(changing), changing.replica.execute("select from crm.w")) == (["crm.w"], [])
    ignoring = {**FOLLOWING, Kind.SET_SCHEMA: Policy.IGNORE}
    changing.follow("alter table crm.w set schema other; insert into other.w values (8)", policies=ignoring)
    assert awaiting(changing) == ["other.w"]
    changing.replica.execute("alter table crm.w set schema other")
    copy(changing, "other.w")
    changing.follow("update other.w set note = 'copied'")
    changing.agree()


def told(applying: Applying) -> Any:
    """What the stage says of the copies that it has made."""
    return applying.stage.snapshot().details["awaited_copies"]


def test_the_applier_has_it_copied_and_says_why_that_failed_until_it_worked(
    changing: Changing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.apply.applier.LOOK_EVERY_S", 0.05)
    monkeypatch.setattr("pipeline.apply.awaited.FIRST_S", 0.05)
    changing.begin(TABLES)
    changing.follow(f"{U}; insert into crm.u values (5, 1, 'five')", policies=FOLLOWING)
    changing.replica.execute("delete from crm.u")
    join(changing, JOIN_EMPTY_PREFIX)
    said: list[Any] = []

    def copy_tables(tables: Sequence[TableName], **_: object) -> object:
        assert tables == (("crm", "u"),)
        said.append(told(applying))
        if len(said) == 1:
            raise OperatorNeeded("it does not fit", code="replica-schema", hint="Mend it.")
        copy(changing, "crm.u")
        return None

    with changing.replicating.running(policies=FOLLOWING, copy_tables=copy_tables) as applying:
        changing.replicating.wait(lambda: awaiting(changing) == [], "the copy")
        changing.run("update crm.u set note = 'copied'; insert into crm.t values (3)")
        changing.log()
        changing.replicating.wait_for(changing.made_log.lsn)
        changing.replicating.wait(lambda: told(applying)["running"] == [], "its end")
        assert told(applying)["failed"] == {}
    first, second = said
    assert (first["running"], first["failed"]) == (["crm.u"], {})
    (failed,) = second["failed"].values()
    assert (failed["code"], failed["hint"]) == ("replica-schema", "Mend it.")


def test_a_key_that_waits_for_rows_becomes_what_the_source_makes_of_it_meanwhile(changing: Changing) -> None:
    """Other names of it, its columns and tables, a comment; or nothing, where it goes, alone or with its
    table. One that goes with the very command that rewrites rows does not wait."""
    changing.begin(
        "create table crm.p (id int primary key, n int unique, v text, k int constraint k references crm.p);"
        " create table crm.c (id int primary key, a int, constraint said foreign key (a) references crm.p,"
        " constraint called foreign key (a) references crm.p (n),"
        " constraint gone foreign key (a) references crm.p);"
        " create table crm.d (a int references crm.p);"
        " create table crm.o (a int references crm.p) partition by range (a);"
        " create table crm.o1 partition of crm.o for values from (0) to (10);"
        " create table crm.w (id int primary key, v text) partition by range (id);"
        " create table crm.w1 partition of crm.w for values from (0) to (10);"
        " create table crm.w2 partition of crm.w for values from (10) to (20);"
        " create table crm.e (a int references crm.w, b int references crm.w1);"
        " comment on constraint said on crm.c is 'it ''REFERENCES'' p';"
        " insert into crm.p values (1, 1), (2, 2); insert into crm.c values (1, 1), (2, 2);"
        " insert into crm.d values (1); insert into crm.o values (1); insert into crm.w values (1), (11);"
        " insert into crm.e values (11, 1)"
    )
    changing.source.execute_as_admin("update keepstream.schema_settings set max_rows_bytes = 0")
    changing.follow(
        "alter table crm.p drop constraint k, alter v type int using 1; alter table crm.w add at float"
        " default random()",
        policies=FOLLOWING,
    )
    waits = "it refers to {}, whose rows are still to be copied"
    assert deferred(changing) == [
        ("foreign key", f"crm.{key}", waits.format(f"crm.{to}"))
        for key, to in (
            *(("c.said", "p"), ("c.said", "p"), ("c.called", "p"), ("c.gone", "p"), ("d.d_a_fkey", "p")),
            *(("o.o_a_fkey", "p"), ("e.e_a_fkey", "w"), ("e.e_b_fkey", "w1")),
        )
    ]
    changing.follow(
        'alter table crm.c rename constraint called to "At last";'
        " comment on constraint \"At last\" on crm.c is 'last';"
        " alter table crm.c rename constraint gone to went; alter table crm.c drop constraint went;"
        ' alter table crm.c rename a to "a, (b"; alter table crm.p rename n to "constraint";'
        " alter table crm.o detach partition crm.o1; drop table crm.d; create table crm.d (a int);"
        " alter table crm.p rename to q",
        policies=FOLLOWING,
    )
    for table in awaiting(changing):
        copy(changing, table)
    changing.agree()
    assert (deferred(changing), awaiting(changing)) == ([], [])


def test_a_table_that_leaves_a_whole_without_rows_has_none_either(changing: Changing) -> None:
    """Where the log has its changes under its own name from then on, and as a whole that is a plain table
    here, too."""
    changing.begin(
        "create table crm.w (id int primary key) partition by range (id);"
        " create table crm.w1 partition of crm.w for values from (0) to (10);"
        " create table crm.w2 partition of crm.w for values from (10) to (20);"
        " insert into crm.w values (1), (11)"
    )
    described = "select keepstream.named(keepstream.describe('table', '{}'::regclass)), '{}'::regclass::oid"
    with connect(changing.replica.dsn, purpose="test") as session:
        left_out.await_copy(session, PIPELINE, ("crm", "w"), replica="standby")
    changing.replica.execute(
        "truncate crm.w; alter table crm.w detach partition crm.w2; insert into crm.w2 values (12)"
    )
    for name in ("crm.w1", "crm.w2"):
        ((before, oid),) = changing.source.execute_as_admin(described.format(name, name))
        changing.source.execute(f"alter table crm.w detach partition {name}")
        ((after, _),) = changing.source.execute_as_admin(described.format(name, name))
        after = {**after, "published": ["ours"]}
        left = ObjectChange("table", int(oid), before, after, whole=("crm", "w"))
        changing.made_log.commit(message(DDL_PREFIX, SchemaMessage("1", 0, changes=(left,)).to_json()))
        changing.replicating.catch_up()
    assert awaiting(changing) == ["crm.w", "crm.w1", "crm.w2"]
    for table in ("crm.w", "crm.w1", "crm.w2"):
        changing.replica.execute(f"truncate {table}")
        copy(changing, table)
    changing.agree()


def test_a_partition_that_left_a_plain_whole_without_rows_may_be_altered_before_it_joins(
    changing: Changing,
) -> None:
    """The replica does not have it yet, and its join brings what it is by then."""
    changing.begin("create table crm.w (id int primary key)")
    changing.source.execute(
        "drop table crm.w; create table crm.w (id int primary key) partition by range (id);"
        " create table crm.u partition of crm.w for values from (0) to (10)"
    )
    described = "select keepstream.named(keepstream.describe('table', r)), r::oid from to_regclass('crm.u') r"
    with connect(changing.replica.dsn, purpose="test") as session:
        left_out.await_copy(session, PIPELINE, ("crm", "w"), replica="standby")
    for script, whole in (
        ("alter table crm.w detach partition crm.u", ("crm", "w")),
        ("alter table crm.w attach partition crm.u for values from (0) to (10)", ("crm", "w")),
        ("alter table crm.w detach partition crm.u", ("crm", "w")),
        ("alter table crm.u add t int", ()),
        ("alter table crm.u add note text", ()),
    ):
        ((before, oid),) = changing.source.execute_as_admin(described)
        changing.source.execute(script)
        ((after, _),) = changing.source.execute_as_admin(described)
        told = ObjectChange("table", int(oid), before, after, whole=whole)
        changing.made_log.commit(message(DDL_PREFIX, SchemaMessage("1", 0, changes=(told,)).to_json()))
        changing.replicating.catch_up()
    assert deferred(changing) == [("partition", "crm.u", "the replica has no such table until it joins")]
    ((statement,),) = changing.replica.execute("select statement from keepstream.deferred_ddl")
    changing.replica.execute(statement)  # who takes the replica over runs what was deferred
    join(changing, JOIN_PREFIX)
    assert (deferred(changing), awaiting(changing)) == ([], ["crm.w"])
