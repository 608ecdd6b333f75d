"""The fast path (P15) on a real replica: equal to the exact path where taken, and not taken elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from connectors.postgres.apply import plans
from connectors.postgres.apply.catalog import TargetTable, load_table
from connectors.postgres.catalog.publication import TableName
from connectors.postgres.session import Session
from pipeline.apply import paths, slices
from pipeline.apply.slices import WIDE_BYTES
from schemas.change import UNCHANGED, Change, Message, Operation
from schemas.errors import OperatorNeeded
from schemas.table import ReplicaIdentity
from tests.fix_apply import MadeLog, Replicating, Rows, Taken, rows_of
from tests.fix_postgres import Database, Row

FULL = ReplicaIdentity.FULL


@pytest.fixture(autouse=True)
def _always_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "LEAST_SET_CHANGES", 1)


def content(replica: Database, table: str = "t") -> Sequence[Row]:
    return replica.execute(f"select t::text from public.{table} t order by 1")


def test_inserts_updates_and_deletes_go_as_sets(replica: Database, taken: Taken) -> None:
    replica.execute("create table public.t (id int primary key, name text, body text)")
    replica.execute("insert into public.t values (1, 'a', 'x'), (2, 'b', 'x'), (3, 'c', 'x'), (4, 'd', 'x')")
    rows = rows_of(replica, "public.t")
    taken.apply(
        rows,
        rows.insert("5", "new\t\\ \n", None),
        rows.insert("6", "gone", None),
        rows.delete("6", "gone", None),
        rows.update("1", "changed", UNCHANGED),
        rows.update("2", None, "other"),
        rows.delete("3", None, None),
        rows.update("40", "moved", "whole", key=["4", None, None]),
    )
    assert replica.execute("select * from public.t order by id") == [
        (1, "changed", "x"),
        (2, None, "other"),
        (5, "new\t\\ \n", None),
        (40, "moved", "whole"),
    ]
    assert taken.counts == (7, 0, 0)


def test_an_update_in_place_stays_one(replica: Database, taken: Taken) -> None:
    """No DELETE and INSERT: HOT updates are as native replication has them."""
    replica.execute("create table public.t (id int primary key, n int) with (fillfactor = 50)")
    replica.execute("insert into public.t select i, 0 from generate_series(1, 50) i")
    rows = rows_of(replica, "public.t")
    taken.apply(rows, *[rows.update(str(i), "1") for i in range(1, 51)])
    assert replica.execute("select sum(n) from public.t") == [(50,)]
    assert taken.counts == (50, 0, 0)
    seen = "select n_tup_upd, n_tup_hot_upd, n_tup_del from pg_stat_user_tables where relname = 't'"
    taken.replicating.wait(lambda: replica.execute(seen) == [(50, 50, 0)], "the statistics of 50 HOT updates")


def test_one_target_transaction_takes_many_slices(
    replica: Database, taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction in parts: each slice has a savepoint, and the staging table is used again and again."""
    monkeypatch.setattr(slices, "SLICE_CHANGES", 3)
    replica.execute("create table public.t (id int primary key, n int)")
    rows = rows_of(replica, "public.t")
    changes = [rows.insert(str(i), "0") for i in range(1, 11)]
    changes += [rows.update(str(i), "1") for i in range(1, 11)] + [
        rows.update(str(i), "2") for i in range(1, 11)
    ]
    changes += [rows.delete(str(i), None) for i in range(1, 6)]
    made = taken.made_log.open_parts(*changes, tables=[rows.table])
    taken.made_log.close_parts(made)
    taken.catch_up()
    assert content(replica) == [("(10,2)",), ("(6,2)",), ("(7,2)",), ("(8,2)",), ("(9,2)",)]
    assert taken.counts == (35, 0, 0)


def test_a_table_with_few_changes_goes_one_by_one_beside_one_with_many(
    replica: Database, taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "LEAST_SET_CHANGES", 3)
    replica.execute("create table public.many (id int primary key, n int)")
    replica.execute("create table public.few (id int primary key, n int)")
    many, few = rows_of(replica, "public.many"), rows_of(replica, "public.few")
    taken.apply(
        many,
        many.insert("1", "0"),
        few.insert("1", "0"),
        many.insert("2", "0"),
        few.update("1", "5"),
        many.update("1", "7"),
        more=[few],
    )
    assert (content(replica, "many"), content(replica, "few")) == ([("(1,7)",), ("(2,0)",)], [("(1,5)",)])
    assert taken.counts == (3, 2, 0)


# Where sets are not provably equal they are not tried.


@pytest.mark.parametrize(
    ("target", "columns", "identity"),
    [
        ("id int primary key, n int, extra int default 7", ["id", "n"], ReplicaIdentity.DEFAULT),
        (
            "id int primary key, n int, unique (n) deferrable initially deferred",
            None,
            ReplicaIdentity.DEFAULT,
        ),
        ("id int primary key, n int generated always as identity", None, ReplicaIdentity.DEFAULT),
        ("id int, n int", None, FULL),
        ("id int primary key deferrable, n int", None, ReplicaIdentity.DEFAULT),
    ],
    ids=["extra column", "deferrable key", "identity always", "no key", "deferrable primary key"],
)
def test_a_table_that_does_not_fit_goes_one_by_one(
    replica: Database, taken: Taken, target: str, columns: Sequence[str] | None, identity: ReplicaIdentity
) -> None:
    replica.execute(f"create table public.t ({target})")
    rows = rows_of(replica, "public.t", columns=columns, identity=identity)
    taken.apply(rows, rows.insert("1", "5"), rows.insert("2", "6"), rows.delete("2", "6"))
    assert replica.execute("select id, n from public.t") == [(1, 5)]
    assert taken.counts == (0, 3, 0)


def test_two_versions_of_a_table_in_one_slice_go_one_by_one(replica: Database, taken: Taken) -> None:
    """Each would have a net change of its own, and their changes take turns."""
    replica.execute("create table public.t (id int primary key, n int)")
    by_key, whole = rows_of(replica, "public.t"), rows_of(replica, "public.t", identity=FULL)
    update = whole.update("1", "6", old=["1", "5"])
    taken.apply(by_key, by_key.insert("1", "5"), update, by_key.update("1", "7"), more=[whole])
    assert content(replica) == [("(1,7)",)]
    assert taken.counts == (0, 3, 0)


def test_a_run_that_cannot_be_netted_goes_one_by_one(replica: Database, taken: Taken) -> None:
    replica.execute("create table public.t (id int primary key, body text)")
    replica.execute("insert into public.t values (1, 'large')")
    rows = rows_of(replica, "public.t")
    taken.apply(rows, rows.update("2", UNCHANGED, key=["1", None]))
    assert content(replica) == [("(2,large)",)]
    assert taken.counts == (0, 1, 0)


def test_a_wide_row_goes_one_by_one(replica: Database, taken: Taken) -> None:
    replica.execute("create table public.t (id int primary key, body text)")
    rows = rows_of(replica, "public.t")
    taken.apply(rows, rows.insert("1", "x" * (WIDE_BYTES + 1)), rows.insert("2", "y"))
    assert replica.execute("select id, length(body) from public.t order by id") == [
        (1, WIDE_BYTES + 1),
        (2, 1),
    ]
    assert taken.counts == (0, 2, 0)


# What the replica refuses as sets is sent again one by one.


def test_a_unique_value_handed_over_between_updated_rows(replica: Database, taken: Taken) -> None:
    replica.execute("create table public.t (id int primary key, mail text unique)")
    replica.execute("insert into public.t values (1, 'a'), (2, 'b')")
    rows = rows_of(replica, "public.t")
    taken.apply(
        rows,
        rows.update("1", None),
        rows.update("2", "a"),
        rows.update("1", "b"),
    )
    assert content(replica) == [("(1,b)",), ("(2,a)",)]
    assert taken.counts == (0, 3, 1)


def test_what_is_sent_again_after_a_refusal_is_counted_once(
    replica: Database, taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "LEAST_SET_CHANGES", 3)
    replica.execute("create table public.t (id int primary key, mail text unique)")
    replica.execute("create table public.few (id int primary key, n int)")
    replica.execute("insert into public.t values (1, 'a'), (2, 'b')")
    rows, few = rows_of(replica, "public.t"), rows_of(replica, "public.few")
    swap = [rows.update("1", None), rows.update("2", "a"), rows.update("1", "b")]
    taken.apply(rows, few.insert("1", "0"), *swap, more=[few])
    assert (content(replica), content(replica, "few")) == ([("(1,b)",), ("(2,a)",)], [("(1,0)",)])
    assert taken.counts == (0, 4, 1)


def test_after_a_refusal_the_table_goes_one_by_one_for_a_while_and_then_as_sets_again(
    replica: Database, taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "SLICE_CHANGES", 3)
    replica.execute("create table public.t (id int primary key, mail text unique)")
    replica.execute("insert into public.t values (1, 'a'), (2, 'b')")
    rows = rows_of(replica, "public.t")
    swap = [rows.update("1", None), rows.update("2", "a"), rows.update("1", "b")]
    later = [rows.insert(str(i), f"m{i}") for i in range(10, 22)]  # four slices
    taken.apply(rows, *swap, *later)
    assert replica.execute("select count(*) from public.t") == [(14,)]
    assert taken.counts == (6, 9, 1)


@pytest.mark.parametrize(
    ("setup", "verb", "code", "words"),
    [
        ("", "update", "row-missing", "update of public.t by (id), change 2 of transaction"),
        ("", "delete", "row-missing", "delete of public.t by (id), change 2 of transaction"),
        (
            "insert into public.t values (3, 'mine')",
            "insert",
            "row-already-there",
            "insert of public.t by (id)",
        ),
        (
            "insert into public.t values (3, 'mine')",
            "pass",
            "row-already-there",
            "insert of public.t by (id)",
        ),
    ],
)
def test_divergence_stops_as_on_the_exact_path_and_names_the_row(
    replica: Database,
    replicating: Replicating,
    made_log: MadeLog,
    setup: str,
    verb: str,
    code: str,
    words: str,
) -> None:
    replica.execute("create table public.t (id int primary key, name text)")
    replica.execute(f"insert into public.t values (1, 'a'), (2, 'b'); {setup}")
    rows = rows_of(replica, "public.t")
    change = {
        "update": [rows.update("3", "x")],
        "delete": [rows.delete("3", None)],
        "insert": [rows.insert("3", "x")],
        "pass": [rows.insert("3", "x"), rows.delete("3", None)],
    }[verb]
    made_log.commit(rows.update("1", "c"), rows.update("2", "d"), *change, tables=[rows.table])
    error = replicating.start().ended_with()
    assert (error.code, words in error.message) == (code, True), error.message
    assert replica.execute("select name from public.t where id < 3 order by id") == [("a",), ("b",)]


def test_a_single_change_that_is_refused_beside_sets_is_named(
    replica: Database, replicating: Replicating, made_log: MadeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "LEAST_SET_CHANGES", 3)
    replica.execute("create table public.many (id int primary key, n int)")
    replica.execute("create table public.few (id int primary key, n int)")
    replica.execute("insert into public.few values (1, 0)")
    many, few = rows_of(replica, "public.many"), rows_of(replica, "public.few")
    changes = [many.insert(str(i), "0") for i in range(5)]
    made_log.commit(*changes, few.insert("1", "0"), tables=[many.table, few.table])
    error = replicating.start().ended_with()
    assert error.code == "row-already-there"
    assert "insert of public.few by (id), change 5 of transaction" in error.message
    assert content(replica, "many") == []


def test_a_new_epoch_voids_parts_whose_sets_are_under_way(
    replica: Database, taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "SLICE_CHANGES", 2)
    replica.execute("create table public.t (id int primary key, n int)")
    rows = rows_of(replica, "public.t")
    made_log = taken.made_log
    before = made_log.lsn
    made_log.open_parts(*[rows.insert(str(i), "0") for i in range(5)], tables=[rows.table])
    made_log.lsn = before
    made_log.begin_epoch()
    made_log.commit(rows.insert("7", "7"), tables=[rows.table])
    taken.catch_up()
    assert content(replica) == [("(7,7)",)]


def test_messages_of_others_do_not_part_what_goes_as_sets(replica: Database, taken: Taken) -> None:
    replica.execute("create table public.t (id int primary key, n int)")
    rows = rows_of(replica, "public.t")
    message = Change(Operation.MESSAGE, bytes(8), payload=Message(True, "app", b"hello"))
    taken.apply(rows, rows.insert("1", "0"), message, rows.update("1", "1"), message, rows.insert("2", "0"))
    assert content(replica) == [("(1,1)",), ("(2,0)",)]
    assert taken.counts == (3, 0, 0)


def test_partitions_are_found_and_a_generated_column_is_computed(replica: Database, taken: Taken) -> None:
    replica.execute(
        "create table public.t (id int, part int, n int, twice int generated always as (2 * n) stored,"
        " primary key (id, part)) partition by list (part);"
        " create table public.t1 partition of public.t for values in (1);"
        " create table public.t2 partition of public.t for values in (2)"
    )
    rows = rows_of(replica, "public.t")
    taken.apply(
        rows,
        rows.insert("1", "1", "5"),
        rows.insert("2", "2", "6"),
        rows.insert("3", "2", "7"),
        rows.update("1", "2", "8", key=["1", "1", None]),
        rows.delete("3", "2", None),
    )
    assert content(replica, "t1") == []
    assert content(replica, "t2") == [("(1,2,8,16)",), ("(2,2,6,12)",)]
    assert taken.counts == (5, 0, 0)


def test_full_identity_with_a_key_on_the_replica_goes_as_sets(replica: Database, taken: Taken) -> None:
    replica.execute("create table public.t (id int primary key, n numeric)")
    replica.execute("insert into public.t values (1, 1.0), (2, 2.0)")
    rows = rows_of(replica, "public.t", identity=FULL)
    taken.apply(
        rows,
        rows.update("1", "1.00", old=["1", "1.0"]),
        rows.update("3", "2.0", old=["2", "2.0"]),
        rows.delete("3", "2.0"),
    )
    assert content(replica) == [("(1,1.00)",)]
    assert taken.counts == (3, 0, 0)


def test_odd_names(replica: Database, taken: Taken) -> None:
    replica.execute(
        'create schema "s.""x"; create table "s.""x"."t s" ("select" int primary key, "a.b" text)'
    )
    rows = rows_of(replica, '"s.""x"."t s"', named='s."x.t s')
    named = rows.table.__class__('s."x', "t s", rows.table.replica_identity, rows.table.columns)
    rows = Rows(named)
    taken.apply(
        rows, rows.insert("1", "a"), rows.insert("2", "b"), rows.update("1", "c"), rows.delete("2", None)
    )
    assert replica.execute('select * from "s.""x"."t s"') == [(1, "c")]
    taken.apply(rows, rows.update("1", "d"))
    assert replica.execute('select * from "s.""x"."t s"') == [(1, "d")]
    assert taken.counts == (5, 0, 0)


def test_tables_that_come_together_are_looked_up_together(
    replica: Database, taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As sets and one by one; each is described as what it is."""
    alone: list[TableName] = []

    def load(conn: Session, schema: str, name: str, *, replica_role: bool) -> TargetTable:
        alone.append((schema, name))
        return load_table(conn, schema, name, replica_role=replica_role)

    monkeypatch.setattr(plans, "load_table", load)
    replica.execute("create table public.t (id int primary key, body text)")
    replica.execute('create table public.u (a text, b text collate "C", n numeric, primary key (b, a))')
    replica.execute("create table public.v (id int not null unique deferrable, r int4range)")
    t, u, v = (rows_of(replica, f"public.{name}") for name in "tuv")
    for least in (1, 100):
        monkeypatch.setattr(paths, "LEAST_SET_CHANGES", least)
        inserts = t.insert(str(least), "x"), u.insert("k", str(least), "1.50"), v.insert(str(least), "[1,3)")
        taken.apply(t, *inserts, u.delete("k", str(least), None), more=[u, v])
    assert alone == []
    assert content(replica) == [("(1,x)",), ("(100,x)",)]
    assert (content(replica, "u"), content(replica, "v")) == ([], [('(1,"[1,3)")',), ('(100,"[1,3)")',)])


def test_a_table_that_is_missing_among_others_is_named_by_its_change(replica: Database, taken: Taken) -> None:
    replica.execute("create table public.t (id int primary key)")
    replica.execute("create table public.u (id int primary key)")
    t, u = rows_of(replica, "t"), rows_of(replica, "u")
    replica.execute("drop table public.u")
    with pytest.raises(OperatorNeeded, match=r"public\.u does not exist in the replica"):
        taken.apply(t, t.insert("1"), u.insert("1"), more=[u])
    assert content(replica) == []


def test_what_comes_while_the_replica_works_is_read_meanwhile(replica: Database, taken: Taken) -> None:
    replica.execute("create table public.t (id int primary key)")
    rows = rows_of(replica, "public.t")
    taken.made_log.commit(rows.insert("0"), tables=[rows.table])
    for number in range(1, 10):
        taken.made_log.commit(rows.insert(str(number)))
    waiting = "select from pg_locks where relation = 'public.t'::regclass and not granted"
    with replica.connect() as other:
        other.execute("begin; lock table public.t in share mode")
        with taken.replicating.running() as applying:
            taken.replicating.wait(lambda: bool(replica.execute_as_admin(waiting)), "the replica's work")
            for number in range(10, 20):
                taken.made_log.commit(rows.insert(str(number)))
            taken.replicating.wait(lambda: applying.unapplied == 20, "the reading of what came")
            assert replica.execute_as_admin(waiting)
            other.execute("commit")
            taken.replicating.wait_for(taken.made_log.lsn)
    assert len(content(replica)) == 20
