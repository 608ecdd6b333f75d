"""Rows that a schema change rewrites, in their place among DML, and what a rollback leaves of messages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fix_postgres import Database
from tests.schema_messages import Json, Tracked


@pytest.fixture
def tracked(source: Database) -> Tracked:
    return Tracked(source)


def sequence(tracked: Tracked) -> list[Any]:
    """What was told, in order: I, U, D, the tag of a command, or (table, records)."""
    return [_word(tracked.open(told)) if told.kind == "M" else told.kind for told in tracked.told()]


def _word(message: Json) -> Any:
    rows = message.get("rows")
    return message["tag"] if rows is None else (rows["table"], rows["records"])


def test_rows_stand_between_the_dml_before_and_after_in_one_transaction(tracked: Tracked) -> None:
    tracked.database.execute("create table t (id int primary key, v int); insert into t values (1, 10)")
    tracked.messages()
    tracked.database.execute(
        "begin; insert into t values (2, 20); alter table t alter v type text using 'v' || v;"
        " update t set v = 'x' where id = 1; commit"
    )
    assert sequence(tracked) == ["I", "ALTER TABLE", ("t", ["(1,v10)", "(2,v20)"]), "U"]


def test_a_row_right_behind_a_command_is_told_behind_it(tracked: Tracked) -> None:
    """PostgreSQL gives a message the LSN of the next record, and what of a transaction has one LSN comes in
    any order; the one of a statistics object always came too late."""
    tracked.database.execute("create table t (id int primary key, v int); insert into t values (1, 10)")
    tracked.messages()
    tracked.database.execute(
        "begin; insert into t values (2, 20); create statistics on id, v from t;"
        " update t set v = 30 where id = 1; commit"
    )
    assert sequence(tracked) == ["I", "CREATE STATISTICS", "U"]


def test_a_column_dropped_and_added_again_is_told_in_its_place(tracked: Tracked) -> None:
    tracked.database.execute("create table t (id int primary key, v int)")
    tracked.messages()
    tracked.database.execute(
        "begin; insert into t values (1, 1); alter table t drop v; insert into t values (2);"
        " alter table t add v text; insert into t values (3, 'c'); commit"
    )
    assert sequence(tracked) == ["I", "ALTER TABLE", "I", "ALTER TABLE", "I"]


def test_a_volatile_default_sends_the_rows_and_a_constant_one_does_not(tracked: Tracked) -> None:
    tracked.database.execute("create table t (id int primary key); insert into t values (1)")
    tracked.messages()
    tracked.database.execute("alter table t add c int default 5")
    assert sequence(tracked) == ["ALTER TABLE"]
    tracked.database.execute("alter table t add u uuid default gen_random_uuid()")
    ((row,),) = tracked.database.execute("select row(id, c, u)::text from t")
    assert sequence(tracked) == ["ALTER TABLE", ("t", [row])]


def test_rows_are_records_of_the_columns_that_are_not_generated(tracked: Tracked) -> None:
    tracked.database.execute(
        'create table t (id int, "a b" text, g int generated always as (1) stored, z text);'
        " insert into t values (1, 'x,\"y\"'), (2, null), (3, '')"
    )
    tracked.messages()
    tracked.database.execute("alter table t alter id type bigint")
    change, rows = tracked.messages()
    assert change["changes"][0]["rewritten"] == "sent"
    assert rows["rows"]["columns"] == ["id", "a b", "z"]
    assert rows["rows"]["records"] == ['(1,"x,""y""",)', "(2,,)", '(3,"",)']
    assert (rows["rows"]["first"], rows["rows"]["last"]) == (True, True)
    assert rows["rows"]["oid"] == change["changes"][0]["oid"]


def test_many_rows_come_in_messages_of_about_a_megabyte(tracked: Tracked) -> None:
    tracked.database.execute(
        "create table t (id int, v text); insert into t select i, repeat('x', 1000) from"
        " generate_series(1, 3000) i"
    )
    tracked.messages()
    tracked.database.execute("alter table t alter id type bigint")
    _, *rows = tracked.messages()
    assert [m["rows"]["first"] for m in rows] == [True, False, False, False]
    assert [m["rows"]["last"] for m in rows] == [False, False, False, True]
    assert all(len(json.dumps(m)) < 1.2 * 1024**2 for m in rows)
    ids = [int(record[1:].split(",")[0]) for m in rows for record in m["rows"]["records"]]
    assert ids == list(range(1, 3001))


def test_an_empty_table_sends_that_it_has_no_rows(tracked: Tracked) -> None:
    tracked.database.execute("create table t (id int)")
    tracked.messages()
    tracked.database.execute("alter table t alter id type bigint")
    assert sequence(tracked) == ["ALTER TABLE", ("t", [])]


def test_each_partition_sends_its_own_rows(tracked: Tracked) -> None:
    tracked.database.execute(
        "create table p (id int, v int) partition by range (id);"
        " create table p1 partition of p for values from (0) to (10);"
        " create table p2 partition of p for values from (10) to (20); insert into p values (1, 1), (11, 2)"
    )
    tracked.messages()
    tracked.database.execute("alter table p alter v type text")
    assert sequence(tracked) == ["ALTER TABLE", ("p1", ["(1,1)"]), ("p2", ["(11,2)"])]


def test_a_table_beyond_the_limit_is_too_large_and_sends_no_row(tracked: Tracked) -> None:
    tracked.database.execute("create table t (id int); insert into t select generate_series(1, 10000)")
    tracked.database.execute_as_admin("update keepstream.schema_settings set max_rows_bytes = 100000")
    tracked.messages()
    tracked.database.execute("alter table t alter id type bigint")
    (message,) = tracked.messages()
    assert message["changes"][0]["rewritten"] == "too-large"


def test_rows_of_a_table_that_nobody_publishes_are_not_sent(tracked: Tracked) -> None:
    tracked.database.execute("create table t (id int); insert into t values (1)")
    tracked.database.execute_as_admin("alter publication everything rename to gone; create publication none")
    tracked.database.execute_as_admin("drop publication gone; alter publication none rename to everything")
    tracked.messages()
    tracked.database.execute("alter table t alter id type bigint")
    (message,) = tracked.messages()
    assert message["changes"][0]["rewritten"] == "unpublished"


def test_what_rewrites_without_other_values_sends_no_rows(tracked: Tracked) -> None:
    tracked.database.execute("create table t (id int primary key, v text); insert into t values (1, 'a')")
    tracked.messages()
    tracked.database.execute("alter table t set unlogged; alter table t set logged")
    tracked.database.execute("cluster t using t_pkey")
    tracked.database.execute("vacuum full t")
    assert [m for m in tracked.messages() if "rows" in m] == []


def test_rows_that_row_security_hides_from_the_owner_are_sent(tracked: Tracked) -> None:
    tracked.database.execute(
        "create table t (id int); insert into t values (1); alter table t force row level security;"
        " alter table t enable row level security; create policy p on t using (false)"
    )
    tracked.messages()
    tracked.database.execute("alter table t alter id type bigint")
    assert sequence(tracked) == ["ALTER TABLE", ("t", ["(1)"])]


def test_a_rolled_back_savepoint_leaves_nothing(tracked: Tracked) -> None:
    tracked.database.execute("create table t (id int primary key)")
    tracked.messages()
    tracked.database.execute(
        "begin; alter table t add a int; savepoint s; alter table t add b int default random() * 9;"
        " drop table t; rollback to s; alter table t add c int; commit"
    )
    first, second = tracked.messages()
    assert [m["n"] for m in (first, second)] == [0, 1]
    before, after = second["changes"][0]["before"], second["changes"][0]["after"]
    assert before == first["changes"][0]["after"]
    assert [column["name"] for column in after["columns"]] == ["id", "a", "c"]
    tracked.database.execute("begin; create table u (id int); alter table t add d int; rollback")
    assert tracked.messages() == []
    assert tracked.database.execute_as_admin(
        "select count(*) from keepstream.schema_state where state ->> 'name' = 'u'"
    ) == [(0,)]


def test_a_ddl_that_fails_half_way_leaves_nothing(tracked: Tracked) -> None:
    tracked.database.execute("create table t (id int primary key, v text); insert into t values (1, 'x')")
    tracked.messages()
    with pytest.raises(Exception, match="invalid input syntax"):
        tracked.database.execute("alter table t drop column id, alter v type int using v::int")
    assert tracked.messages() == []
    tracked.database.execute("alter table t add c int")
    (message,) = tracked.messages()
    assert [c["name"] for c in message["changes"][0]["before"]["columns"]] == ["id", "v"]


def test_a_prepared_transaction_tells_when_it_commits(tracked: Tracked) -> None:
    tracked.database.execute("begin; create table t (id int); prepare transaction 'p'")
    assert tracked.messages() == []
    tracked.database.execute("commit prepared 'p'")
    assert [m["tag"] for m in tracked.messages()] == ["CREATE TABLE"]
