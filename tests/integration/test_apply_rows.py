"""Single changes against every shape of table that a replica may have."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from connectors.postgres.session import connect
from schemas.change import UNCHANGED
from schemas.table import ReplicaIdentity
from tests.extreme_values import EXTENSIONS, SETUP, VALUES
from tests.fix_apply import MadeLog, Replicating, Rows, rows_of
from tests.fix_postgres import Database, Row

FULL = ReplicaIdentity.FULL


def apply(made_log: MadeLog, replicating: Replicating, rows: Rows, *changes: object) -> None:
    made_log.commit(*changes, tables=[rows.table])  # type: ignore[arg-type]
    replicating.catch_up()


def content(replica: Database, table: str = "t") -> Sequence[Row]:
    return replica.execute(f"select t::text from public.{table} t order by 1")


def test_every_type_arrives_as_it_was(replica: Database, made_log: MadeLog, replicating: Replicating) -> None:
    """Each value's text, read back with the pinned settings, is the text that was sent; and a row without a
    key is found again by these texts."""
    for extension in EXTENSIONS:
        replica.execute_as_admin(f"create extension if not exists {extension} schema public")
    replica.execute(SETUP)
    types = list(VALUES)
    columns = ", ".join(f"c{number} {name}" for number, name in enumerate(types))
    replica.execute(f"create table public.t (id int primary key, {columns})")
    replica.execute("create table public.s (like public.t); create table public.keyless (like public.t)")
    replica.execute("alter table public.keyless alter id drop not null")
    height = max(map(len, VALUES.values()))
    for height_index in range(height):
        values = [VALUES[name][height_index] if height_index < len(VALUES[name]) else None for name in types]
        marks = ", ".join(f"%s::{name}" for name in types)
        replica.execute(f"insert into public.s values ({height_index}, {marks})", values)
    replica.execute(f"insert into public.s (id) values ({height})")
    texts = _texts(replica, "s", len(types))
    rows, keyless = rows_of(replica, "public.t"), rows_of(replica, "public.keyless", identity=FULL)
    made_log.commit(
        *[rows.insert(*row) for row in texts],
        *[rows.update(*row) for row in texts],
        *[keyless.insert(*row) for row in texts],
        *[keyless.delete(*row) for row in texts[1:]],
        tables=[rows.table, keyless.table],
    )
    replicating.catch_up()
    assert _texts(replica, "t", len(types)) == texts
    assert _texts(replica, "keyless", len(types)) == texts[:1]


def _texts(replica: Database, table: str, width: int) -> list[tuple[str | None, ...]]:
    """Rows as PostgreSQL's text, as pgoutput would send them."""
    query = f"copy (select * from public.{table} order by id) to stdout"
    with connect(replica.dsn, purpose="test") as session, session.cursor().copy(query) as copy:
        rows = list(copy.rows())
    assert all(len(row) == width + 1 for row in rows)
    return rows


def test_columns_are_found_by_name_and_extra_ones_keep_their_defaults(
    replica: Database, made_log: MadeLog, replicating: Replicating
) -> None:
    replica.execute(
        "create table public.t (note text default 'own', b int, extra int default 7, a int primary key)"
    )
    rows = rows_of(replica, "public.t", columns=["a", "b"])
    apply(made_log, replicating, rows, rows.insert("1", "2"), rows.update("1", "3"))
    assert content(replica) == [("(own,3,7,1)",)]


def test_identity_columns_that_are_always_generated_take_the_sources_values(
    replica: Database, made_log: MadeLog, replicating: Replicating
) -> None:
    replica.execute(
        "create table public.t (id int generated always as identity primary key, name text, wide text)"
    )
    rows = rows_of(replica, "public.t")
    apply(
        made_log,
        replicating,
        rows,
        rows.insert("40", "a", "wide"),
        rows.insert("41", "b", "wide"),
        rows.update("40", "c", UNCHANGED),
        rows.update("50", "d", UNCHANGED, key=["41", None, None]),
    )
    assert content(replica) == [("(40,c,wide)",), ("(50,d,wide)",)]


def test_an_identity_column_outside_of_the_key_takes_a_changed_value(
    replica: Database, made_log: MadeLog, replicating: Replicating
) -> None:
    replica.execute(
        "create table public.t (id int primary key, n int generated always as identity, name text)"
    )
    rows = rows_of(replica, "public.t")
    apply(made_log, replicating, rows, rows.insert("1", "5", "a"), rows.update("1", "6", UNCHANGED))
    assert content(replica) == [("(1,6,a)",)]


def test_full_identity_without_a_key_touches_one_of_equal_rows(
    replica: Database, made_log: MadeLog, replicating: Replicating
) -> None:
    replica.execute("create table public.t (a int, j json, p point, b bool, c char(5), i inet, n numeric)")
    rows = rows_of(replica, "public.t", identity=FULL)
    same = ("1", '{"a": 1}', "(1,2)", "t", "ab   ", "10.0.0.1", "1.0")
    other = ("1", '{"a":1}', "(1,2)", "t", "ab   ", "10.0.0.1", "1.00")
    nulls = (None,) * 7
    apply(
        made_log,
        replicating,
        rows,
        *[rows.insert(*row) for row in (same, same, other, nulls, nulls)],
        rows.delete(*same),
        rows.update("2", *same[1:], old=same),
        rows.delete(*nulls),
        rows.update("3", *nulls[1:], old=nulls),
    )
    assert content(replica) == [
        ('(1,"{""a"":1}","(1,2)",t,"ab   ",10.0.0.1,1.00)',),
        ('(2,"{""a"": 1}","(1,2)",t,"ab   ",10.0.0.1,1.0)',),
        ("(3,,,,,,)",),
    ]


def test_full_identity_tells_a_null_row_value_from_a_row_of_nulls_and_from_empty_text(
    replica: Database, made_log: MadeLog, replicating: Replicating
) -> None:
    replica.execute(
        "create type public.pair as (a int, b int); create table public.t (p public.pair, s text)"
    )
    rows = rows_of(replica, "public.t", identity=FULL)
    apply(
        made_log,
        replicating,
        rows,
        *[rows.insert(*row) for row in ((None, ""), ("(,)", ""), (None, None), ("(,)", None))],
        rows.delete("(,)", None),
        rows.delete(None, ""),
    )
    assert content(replica) == [('("(,)","")',), ("(,)",)]


def test_full_identity_uses_a_key_of_the_replica_and_keeps_absent_values(
    replica: Database, made_log: MadeLog, replicating: Replicating
) -> None:
    replica.execute("create table public.t (a int primary key, b text, wide text)")
    rows = rows_of(replica, "public.t", identity=FULL)
    apply(
        made_log,
        replicating,
        rows,
        rows.insert("1", "x", "wide"),
        rows.update("2", "y", UNCHANGED, old=["1", "x", "wide"]),
    )
    assert content(replica) == [("(2,y,wide)",)]


def test_a_key_update_keeps_an_absent_value(
    replica: Database, made_log: MadeLog, replicating: Replicating
) -> None:
    replica.execute("create table public.t (a int primary key, wide text)")
    rows = rows_of(replica, "public.t")
    apply(made_log, replicating, rows, rows.insert("1", "wide"), rows.update("2", UNCHANGED, key=["1", None]))
    assert content(replica) == [("(2,wide)",)]


@pytest.mark.parametrize("identity", [ReplicaIdentity.DEFAULT, FULL])
def test_rows_go_to_their_partitions(
    replica: Database, made_log: MadeLog, replicating: Replicating, identity: ReplicaIdentity
) -> None:
    key = ", primary key (id)" if identity is ReplicaIdentity.DEFAULT else ""
    replica.execute(
        f"create table public.t (id int, name text{key}) partition by range (id);"
        "create table public.low partition of public.t for values from (0) to (10);"
        "create table public.high partition of public.t for values from (10) to (20)"
    )
    rows = rows_of(replica, "public.t", identity=identity)
    old = ["2", "b"]
    apply(
        made_log,
        replicating,
        rows,
        rows.insert("1", "a"),
        rows.insert("2", "b"),
        rows.insert("11", "a"),
        rows.update("12", "c", **({"old": old} if identity is FULL else {"key": old})),
        rows.delete("1", "a"),
    )
    assert content(replica) == [("(11,a)",), ("(12,c)",)]
    assert replica.execute("select count(*) from public.high") == [(2,)]


def test_changes_of_a_parent_leave_its_children_alone(
    replica: Database, made_log: MadeLog, replicating: Replicating
) -> None:
    replica.execute(
        "create table public.t (id int primary key, name text);"
        "create table public.child () inherits (public.t);"
        "insert into public.child values (1, 'child')"
    )
    rows = rows_of(replica, "public.t")
    apply(made_log, replicating, rows, rows.insert("1", "a"), rows.update("1", "b"), rows.delete("1", None))
    assert content(replica) == [("(1,child)",)]


def test_triggers_foreign_keys_and_row_security_do_not_act_on_what_the_source_did(
    replica: Database, made_log: MadeLog, replicating: Replicating
) -> None:
    replica.execute(
        """
        create table public.parent (id int primary key);
        create table public.t (id int primary key references public.parent on delete cascade, name text);
        create function public.shout() returns trigger language plpgsql as
            $$ begin new.name := upper(new.name); return new; end $$;
        create trigger shout before insert or update on public.t for each row execute function public.shout();
        alter table public.t enable row level security;
        """
    )
    rows, parent = rows_of(replica, "public.t"), rows_of(replica, "public.parent")
    made_log.commit(
        rows.insert("1", "a"),  # child before parent
        parent.insert("1"),
        rows.update("1", "b"),
        parent.delete("1"),
        parent.insert("1"),
        tables=[rows.table, parent.table],
    )
    replicating.catch_up()
    assert content(replica) == [("(1,b)",)]


@pytest.mark.parametrize(
    ("made", "named"),
    [
        ("alter table public.t enable always trigger shout", "trigger shout"),
        ("alter table public.t enable replica trigger shout", "trigger shout"),
        (
            "create rule noted as on delete to public.t do also notify gone;"
            " alter table public.t enable always rule noted",
            "rule noted",
        ),
    ],
)
def test_what_would_fire_even_on_a_replica_stops_until_it_is_disabled(
    replica: Database, made_log: MadeLog, replicating: Replicating, made: str, named: str
) -> None:
    replica.execute(
        """
        create table public.t (id int primary key, name text);
        create function public.shout() returns trigger language plpgsql as
            $$ begin new.name := upper(new.name); return new; end $$;
        create trigger shout before insert on public.t for each row execute function public.shout();
        """
    )
    replica.execute(made)
    rows = rows_of(replica, "public.t")
    made_log.commit(rows.insert("1", "a"), tables=[rows.table])
    error = replicating.start().ended_with()
    assert (error.code, error.exit_code) == ("replica-triggers", 4)
    assert error.message == f"writes to public.t of standby would fire {named}"
    assert content(replica) == []
    replica.execute(error.hint.split("on the replica: ")[1])
    replicating.catch_up()
    assert content(replica) == [("(1,a)",)]


def test_a_deferrable_key_may_be_swapped_inside_a_transaction(
    replica: Database, made_log: MadeLog, replicating: Replicating
) -> None:
    replica.execute(
        "create table public.t (id int primary key, mail text unique deferrable initially deferred)"
    )
    rows = rows_of(replica, "public.t")
    apply(
        made_log,
        replicating,
        rows,
        rows.insert("1", "a"),
        rows.insert("2", "b"),
        rows.update("1", "b"),
        rows.update("2", "a"),
    )
    assert content(replica) == [("(1,b)",), ("(2,a)",)]


def test_names_with_every_odd_character_work(
    replica: Database, made_log: MadeLog, replicating: Replicating
) -> None:
    replica.execute(
        'create schema "o""dd.%s"; create table "o""dd.%s"."sel{e}ct" ("%(a)s" int primary key, "{b" text)'
    )
    rows = rows_of(replica, '"o""dd.%s"."sel{e}ct"')
    table = rows.table
    rows = Rows(type(table)('o"dd.%s', "sel{e}ct", table.replica_identity, table.columns))
    apply(made_log, replicating, rows, rows.insert("1", "x"), rows.update("2", "y", key=["1", None]))
    assert replica.execute('select * from "o""dd.%s"."sel{e}ct"') == [(2, "y")]


def test_a_row_of_1600_columns_and_one_of_many_megabytes_arrive(
    replica: Database, made_log: MadeLog, replicating: Replicating
) -> None:
    columns = ", ".join(f"c{number} int" for number in range(1599))
    replica.execute(f"create table public.wide (id int primary key, {columns})")
    replica.execute("create table public.long (id int primary key, body text)")
    wide, long = rows_of(replica, "public.wide"), rows_of(replica, "public.long")
    values = [str(number) for number in range(1599)]
    body = "wide" * 5_000_000
    made_log.commit(
        wide.insert("1", *values), wide.update("1", *reversed(values)), long.insert("1", body),
        tables=[wide.table, long.table],
    )  # fmt: skip
    replicating.catch_up()
    assert replica.execute("select c0, c1598 from public.wide") == [(1598, 0)]
    assert replica.execute(
        "select length(body), md5(body) = md5(repeat('wide', 5000000)) from public.long"
    ) == [(20_000_000, True)]


def test_large_rows_arrive_whatever_holds_their_bytes(
    replica: Database, made_log: MadeLog, replicating: Replicating
) -> None:
    """In a bytea they go in binary form: but not in what is looked up later, and not into a text."""
    replica.execute(
        "create schema odd; create domain odd.image as bytea; create domain odd.photo as odd.image;"
        "create table public.t (id int primary key, tag bytea unique deferrable, a bytea, b odd.photo);"
        "create table public.bag (n int, a bytea not null, b odd.photo, c text)"
    )
    rows, bag = rows_of(replica, "public.t"), rows_of(replica, "public.bag", identity=FULL)
    one, other = r"\x" + "00ff" * 2_500_000, r"\x" + "5c27" * 2_500_000
    made_log.commit(
        rows.insert("1", r"\x01", one, other),
        rows.update("1", r"\x02", other, UNCHANGED),
        rows.insert("2", r"\x01", one, None),
        rows.delete("2", None, None, None),
        bag.insert("1", one, None, one),
        bag.insert("2", one, other, "x"),
        bag.update("3", other, UNCHANGED, "x", old=["2", one, other, "x"]),
        bag.delete("1", one, None, one),
        tables=[rows.table, bag.table],
    )
    replicating.catch_up()
    assert _texts(replica, "t", 3) == [("1", r"\x02", other, other)]
    assert replica.execute("select n, a = b, length(b), c from bag") == [(3, True, 5_000_000, "x")]


def test_a_row_is_found_by_a_key_of_a_composite_type(
    replica: Database, made_log: MadeLog, replicating: Replicating
) -> None:
    replica.execute("create type public.pt as (a int, b text)")
    replica.execute("create table public.t (k public.pt primary key, v text)")
    rows = rows_of(replica, "public.t")
    changes = [rows.insert("(1,x)", "a"), rows.insert("(2,y)", "b")]
    apply(made_log, replicating, rows, *changes, rows.update("(1,x)", "c"), rows.delete("(2,y)", None))
    assert content(replica) == [('("(1,x)",c)',)]
