"""Keys as the replica's indexes see them, whatever type they have, and those that only we enforce (P15)."""

from __future__ import annotations

from typing import Final

import pytest

from connectors.postgres.apply import keychecks as apply_keychecks
from connectors.postgres.replication.relation import tables_of
from connectors.postgres.session import connect
from pipeline.apply import paths
from schemas.table import ReplicaIdentity
from tests.fix_apply import MadeLog, Replicating, Rows
from tests.fix_postgres import Database, Row
from tests.postgres_releases import needs_release

INDEX, FULL = ReplicaIdentity.INDEX, ReplicaIdentity.FULL
ODD: Final = '"o""d {}%s"'

SETUP: Final = (
    f"create schema {ODD}; grant usage on schema {ODD} to public; create extension ltree schema {ODD};"
    " create extension hstore schema public; create extension cube schema public;"
    " create extension isn schema public; create extension citext schema public;"
    f" create domain public.path as {ODD}.ltree; create domain public.mail as public.citext;"
    f" create type public.place as (path {ODD}.ltree, mail public.citext);"
)

# A type has no operator class of its own; the operators of this one have names that nothing else has.
SIGNS: Final = {"<": "lt", "<=": "le", "=": "eq", ">=": "ge", ">": "gt"}
FOR_JSON: Final = "".join(
    f"create function {ODD}.{name}(json, json) returns bool immutable language sql"
    f" as 'select $1::text collate \"C\" {sign} $2::text';"
    f" create operator {ODD}.~{sign}~ (leftarg = json, rightarg = json, function = {ODD}.{name});"
    for sign, name in SIGNS.items()
) + (
    f"create function {ODD}.compared(json, json) returns int immutable language sql"
    " as 'select bttextcmp($1::text collate \"C\", $2::text)';"
    f" create operator class {ODD}.json_ops for type json using btree as function 1 {ODD}.compared, "
    + ", ".join(f"operator {number} {ODD}.~{sign}~" for number, sign in enumerate(SIGNS, 1))
)

# Type of a key and four values of it.
KEYS: Final = {
    f"{ODD}.ltree": ("a.b", "a.c", "b", "c.d"),
    "public.hstore": ('"a"=>"1"', '"a"=>"2"', '"b"=>NULL', ""),
    "public.cube": ("(1)", "(1, 2)", "(1),(2)", "(3)"),
    "public.isbn": ("1-56619-909-3", "0-393-04002-X", "0-306-40615-2", "0-19-852663-6"),
    "public.citext": ("Ann", "Bob", "Cid", "Dan"),
    "public.path": ("a.b", "a.c", "b", "c.d"),
    "public.mail": ("Ann", "Bob", "Cid", "Dan"),
    f"{ODD}.ltree[]": ("{a.b,b}", "{a.c}", "{}", "{a.d}"),
    "public.place": ("(a.b,Ann)", "(a.b,Bob)", "(a.c,Ann)", "(b,)"),
    "json": ("{}", "{ }", "1", "1.0"),
}


@pytest.mark.parametrize("identity", [INDEX, FULL])
@pytest.mark.parametrize("as_sets", [False, True], ids=["exact", "sets"])
def test_rows_are_found_by_keys_of_every_type(
    replica: Database,
    made_log: MadeLog,
    replicating: Replicating,
    monkeypatch: pytest.MonkeyPatch,
    identity: ReplicaIdentity,
    as_sets: bool,
) -> None:
    monkeypatch.setattr(paths, "LEAST_SET_CHANGES", 1 if as_sets else 1_000)
    replica.execute_as_admin(SETUP + FOR_JSON)
    tables = [_make(replica, f"t{i}", type_name, identity) for i, type_name in enumerate(KEYS)]
    versions = [rows.table for rows in tables]
    given = list(zip(tables, KEYS.values(), strict=True))
    made_log.commit(*[rows.insert(key, "old") for rows, keys in given for key in keys[:3]], tables=versions)
    replicating.catch_up()
    for rows, (one, other, third, new) in given:
        whole = {"old": [one, "old"]} if identity is FULL else {}
        moved = {"old": [other, "old"]} if identity is FULL else {"key": [other, None]}
        made_log.add(
            rows.update(one, "new", **whole), rows.update(new, "old", **moved), rows.delete(third, "old"),
            tables=versions,
        )  # fmt: skip
    made_log.flush()
    with replicating.running() as applying:
        replicating.wait_for(made_log.lsn)
        details = applying.stage.snapshot().details
    assert (details["set_changes"], details["sets_refused"]) == (3 * len(KEYS) * as_sets, 0)
    for i, (_, (one, _, _, new)) in enumerate(given):
        assert replica.execute(f"select format('%s', k), v from public.t{i} order by v") == [
            (one, "new"), (new, "old")
        ]  # fmt: skip


def _make(replica: Database, name: str, type_name: str, identity: ReplicaIdentity) -> Rows:
    """The log's version is what a source with the same table would announce."""
    by = f"{ODD}.json_ops" if type_name == "json" else ""
    replica.execute(f"create table public.{name} (k {type_name} not null, v text)")
    replica.execute(f"create unique index {name}_k on public.{name} (k {by})")
    given = "full" if identity is FULL else f"using index {name}_k"
    replica.execute(f"alter table public.{name} replica identity {given}")
    return announced(replica, name)


def announced(replica: Database, name: str) -> Rows:
    ((oid,),) = replica.execute(f"select '{name}'::regclass::oid::bigint")
    with connect(replica.dsn, purpose="test") as session:
        (version,) = tables_of(session, [oid])
    return Rows(version)


# Constraints that are not enforced while session_replication_role is replica.

NULLS_COLLIDE: Final = "id int primary key, a int, b text, unique nulls not distinct (a, b) deferrable"
LINES: Final = (
    "id int primary key, a int4range, b text, exclude using gist (a with &&) where (b <> 'no') deferrable"
)
TEMPORAL: Final = "id int primary key, a int4range, b int4range, unique (a, b without overlaps) deferrable"
NEEDS_18: Final = needs_release("replica", 18)
WITHOUT_KEY: Final = "id int, a int4range, b text, exclude using gist ((a * '[0,90)') with &&) deferrable"


@pytest.mark.parametrize(
    ("columns", "there", "row"),
    [
        (NULLS_COLLIDE, "7, null, 'x'", ("8", None, "x")),
        (NULLS_COLLIDE, "7, null, null", ("8", None, None)),
        (NULLS_COLLIDE, "7, 1, 'x'", ("8", "1", "x")),
        (LINES, "7, '[1,5)', ''", ("8", "[4,9)", "")),
        pytest.param(TEMPORAL, "7, '[1,5)', '[1,5)'", ("8", "[1,5)", "[4,9)"), marks=NEEDS_18),
        (WITHOUT_KEY, "7, '[1,5)', ''", ("8", "[4,9)", "")),
    ],
)
def test_what_a_deferrable_constraint_forbids_is_found(  # P15
    replica: Database, made_log: MadeLog, replicating: Replicating, columns: str, there: str, row: Row
) -> None:
    rows = _constrained(replica, columns)
    replica.execute(f"insert into public.t values ({there})")
    made_log.commit(rows.insert(*row), tables=[rows.table])
    error = replicating.start().ended_with()
    assert error.code == "row-already-there"
    assert error.message.startswith(("unique key (a, b) of public.t", "exclusion constraint t_"))
    assert replica.execute("select id from public.t") == [(7,)]


@pytest.mark.parametrize(
    ("columns", "there", "row", "moved"),
    [
        (NULLS_COLLIDE, "(7, null, 'x'), (6, 1, null), (5, null, null)", ("8", None, "x"), (None, "y")),
        (LINES, "(7, '[1,5)', ''), (6, '[1,9)', 'no'), (5, null, '')", ("8", "[4,9)", ""), ("[5,9)", "")),
        pytest.param(
            TEMPORAL, "(7, '[1,5)', '[1,5)'), (6, '[2,5)', '[1,5)')", ("8", "[1,5)", "[4,9)"),
            ("[1,5)", "[5,9)"), marks=NEEDS_18,
        ),
        (WITHOUT_KEY, "(7, '[1,5)', ''), (6, '[91,95)', '')", ("8", "[4,9)", ""), ("[91,99)", "")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("limit", [0, 10], ids=["one pass", "row by row"])
def test_what_a_deferrable_constraint_lets_in_at_the_end_is_taken_one_by_one(  # P15
    replica: Database,
    made_log: MadeLog,
    replicating: Replicating,
    monkeypatch: pytest.MonkeyPatch,
    columns: str,
    there: str,
    row: Row,
    moved: Row,
    limit: int,
) -> None:
    """A row conflicts with one that is there, and moves away before the transaction ends."""
    monkeypatch.setattr(paths, "LEAST_SET_CHANGES", 1)
    monkeypatch.setattr(apply_keychecks, "LOOKUP_LIMIT", limit)
    rows = _constrained(replica, columns)
    replica.execute(f"insert into public.t values {there}")
    old = {"old": row} if columns is WITHOUT_KEY else {}
    made_log.commit(rows.insert(*row), rows.update("8", *moved, **old), tables=[rows.table])
    with replicating.running() as applying:
        replicating.wait_for(made_log.lsn)
        details = applying.stage.snapshot().details
    assert (details["set_changes"], details["single_changes"]) == (0, 2)
    assert replica.execute("select a::text, b::text from public.t where id = 8") == [moved]


@NEEDS_18
@pytest.mark.parametrize("as_sets", [False, True], ids=["exact", "sets"])
@pytest.mark.parametrize(("type_name", "one", "other"), [("int4range", "[1,2)", "[2,3)"), ("int", "1", "2")])
def test_rows_are_found_by_a_key_without_overlaps(
    replica: Database,
    made_log: MadeLog,
    replicating: Replicating,
    monkeypatch: pytest.MonkeyPatch,
    type_name: str,
    one: str,
    other: str,
    as_sets: bool,
) -> None:
    monkeypatch.setattr(paths, "LEAST_SET_CHANGES", 1 if as_sets else 1_000)
    replica.execute_as_admin("create extension btree_gist schema public")
    replica.execute(
        f"create table t (k {type_name}, at int4range, v text, primary key (k, at without overlaps))"
    )
    rows, at = announced(replica, "t"), "[1,5)"
    made_log.commit(rows.insert(one, at, "old"), rows.insert(other, at, "old"), tables=[rows.table])
    replicating.catch_up()
    made_log.commit(rows.update(one, at, "new"), rows.delete(other, at, "old"), tables=[rows.table])
    replicating.catch_up()
    assert replica.execute("select k::text, at::text, v from t") == [(one, at, "new")]


def _constrained(replica: Database, columns: str) -> Rows:
    identity = "full" if columns is WITHOUT_KEY else "default"
    replica.execute(f"create table public.t ({columns}); alter table public.t replica identity {identity}")
    return announced(replica, "t")
