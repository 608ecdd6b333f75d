"""Tables of random types with random values, PostgreSQL being the oracle: what COPY shows of them on the
replica is what it shows on the source, after INSERT, UPDATE and DELETE went through pgoutput, log and apply.

Scalars are made by hypothesis or taken from `extreme_values`; arrays, composite types and domains nest them.
A value that PostgreSQL itself refuses is left out.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.postgres.replication.pgoutput import Decoder, RelationChanged
from connectors.postgres.session import Session, connect
from schemas.change import Change
from schemas.table import TableSchema
from tests.extreme_values import EXTENSIONS, SETUP, VALUES
from tests.fix_apply import Taken
from tests.fix_postgres import Database

Texts = st.SearchStrategy[str | None]

_TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=30)
_DAYS = (
    st.dates().map(str) | st.dates().map(lambda day: f"{day} BC") | st.sampled_from(["infinity", "-infinity"])
)
_MOMENTS = st.tuples(_DAYS, st.times()).map(lambda at: f"{at[1]} {at[0]}" if "inf" not in at[0] else at[0])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
).map(json.dumps)
_INTEGERS = st.integers(-(2**31), 2**31 - 2)
MADE: dict[str, st.SearchStrategy[str]] = {
    "smallint": st.integers(-(2**15), 2**15 - 1).map(str),
    "integer": st.integers(-(2**31), 2**31 - 1).map(str),
    "bigint": st.integers(-(2**63), 2**63 - 1).map(str),
    "numeric": st.decimals().map(str) | st.integers(-(10**60), 10**60).map(str),
    "numeric(12,3)": st.decimals(-(10**8), 10**8).map(str),
    "real": st.floats(width=32).map(repr),
    "double precision": st.floats().map(repr),
    "text": _TEXT,
    "varchar(40)": _TEXT,
    "character(40)": _TEXT,
    "bytea": st.binary(max_size=40).map(lambda value: "\\x" + value.hex()),
    "uuid": st.uuids().map(str),
    "date": _DAYS,
    "time": st.times().map(str),
    "timestamp": _MOMENTS,
    "timestamptz": _MOMENTS,
    "interval": st.tuples(_INTEGERS, _INTEGERS, _INTEGERS).map(lambda i: f"{i[0]} mons {i[1]} days {i[2]} s"),
    "json": _JSON,
    "jsonb": _JSON,
    "bit varying": st.text("01", max_size=70),
    "inet": (st.ip_addresses() | st.ip_addresses(v=6)).map(str),
    "int4range": st.tuples(_INTEGERS, _INTEGERS).map(lambda pair: f"[{min(pair)},{max(pair)}]"),
    "public.citext": _TEXT,
}
_numbers = itertools.count()
_REFUSED = (psycopg.DataError, psycopg.errors.CheckViolation)


@dataclass(frozen=True)
class Type:
    """A type's name, the SQL that makes what it needs, and its values."""

    name: str
    values: Texts = field(repr=False)
    needs: tuple[str, ...] = ()


def _quoted(text: str | None, null: str) -> str:
    if text is None:
        return null
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _array(of: Type) -> Type:
    mark = ";" if of.name == "box" else ","
    values = st.lists(of.values, max_size=3).map(
        lambda items: "{" + mark.join(_quoted(item, "NULL") for item in items) + "}"
    )
    bounded = values.map(lambda text: f"[-2:{text.count(mark) - 2}]={text}" if '","' not in text else text)
    return Type(f"{of.name}[]", values | bounded, of.needs)


def _domain(of: Type) -> Type:
    name = f"odd.domain_{next(_numbers)}"
    return Type(name, of.values, (*of.needs, f"create domain {name} as {of.name}"))


def _composite(of: list[Type]) -> Type:
    name = f'odd."pair {next(_numbers)}"'
    attributes = ", ".join(f'"a{i}," {each.name}' for i, each in enumerate(of))
    needs = tuple(dict.fromkeys(statement for each in of for statement in each.needs))
    values = st.tuples(*(each.values for each in of)).map(
        lambda items: "(" + ",".join(_quoted(item, "") for item in items) + ")"
    )
    return Type(name, values, (*needs, f"create type {name} as ({attributes})"))


def _scalars() -> st.SearchStrategy[Type]:
    extreme = [Type(name, st.none() | st.sampled_from(texts)) for name, texts in VALUES.items()]
    made = [Type(name, st.none() | values) for name, values in MADE.items()]
    return st.sampled_from(made) | st.sampled_from(extreme)


def _around(inner: st.SearchStrategy[Type]) -> st.SearchStrategy[Type]:
    arrays = inner.filter(lambda of: not of.name.endswith("[]")).map(_array)
    return arrays | inner.map(_domain) | st.lists(inner, min_size=1, max_size=3).map(_composite)


SCALARS = _scalars()
TYPES = st.one_of(SCALARS, SCALARS, SCALARS, _around(SCALARS), _around(_around(SCALARS)))


@dataclass(frozen=True)
class Drawn:
    """A table to be made: its columns' types, its rows, and whether whole old rows are sent."""

    types: list[Type]
    rows: list[list[str | None]]
    full: bool


@st.composite
def tables(draw: st.DrawFn) -> Drawn:
    types = draw(st.lists(TYPES, min_size=1, max_size=8))
    rows = draw(st.lists(st.tuples(*(each.values for each in types)).map(list), min_size=2, max_size=6))
    return Drawn(types, rows, draw(st.booleans()))


class Oracle:
    """The source: makes tables, and decodes what pgoutput tells of them."""

    def __init__(self, session: Session, source: Database, replica: Database) -> None:
        self._session = session
        self._databases = (source, replica)
        self._decoder = Decoder()
        self.tables: list[TableSchema] = []

    def make(self, drawn: Drawn) -> str:
        name = f"public.random_{next(_numbers)}"
        columns = "".join(f", c{i} {each.name}" for i, each in enumerate(drawn.types))
        needs = dict.fromkeys(statement for each in drawn.types for statement in each.needs)
        full = f"alter table {name} replica identity full" if drawn.full else ""
        for database in self._databases:
            for statement in [*needs, f"create table {name} (id int primary key{columns})", full]:
                if statement:
                    database.execute(statement)
        return name

    def write(self, name: str, drawn: Drawn) -> list[Change]:
        """Each row comes, gets the values of the next one, and some go."""
        for number, row in enumerate(drawn.rows):
            self._insert(name, number, row)
        columns = [f"c{i}" for i in range(len(drawn.types))]
        others = ", ".join(f"o.{column}" for column in columns)
        self._session.execute(
            f"update {name} t set ({', '.join(columns)}) = row({others}) from {name} o"
            f" where o.id = t.id + 1".encode()
        )
        self._session.execute(f"delete from {name} where id % 3 = 1".encode())
        return self._changes()

    def _insert(self, name: str, number: int, row: list[str | None]) -> None:
        places = ", ".join(["%s"] * (len(row) + 1))
        try:
            self._session.execute(f"insert into {name} values ({places})".encode(), [number, *row])
        except _REFUSED:
            self._session.execute(f"insert into {name} values (%s)".encode(), [number])
            for place, value in enumerate(row):
                with contextlib.suppress(*_REFUSED):
                    statement = f"update {name} set c{place} = %s where id = %s"
                    self._session.execute(statement.encode(), [value, number])

    def _changes(self) -> list[Change]:
        messages = self._session.execute(
            """select data from pg_logical_slot_get_binary_changes(
                   'types_random', null, null, 'proto_version', '1', 'publication_names', 'everything')"""
        )
        decoded = [self._decoder.decode(data) for (data,) in messages]
        self.tables = [each.table for each in decoded if isinstance(each, RelationChanged)]
        return [each for each in decoded if isinstance(each, Change)]


@pytest.fixture
def oracle(source: Database, replica: Database) -> Iterator[Oracle]:
    for database in (source, replica):
        for extension in EXTENSIONS:
            database.execute_as_admin(f"create extension {extension} schema public cascade")
        database.execute(SETUP)
    source.execute_as_admin("create publication everything for all tables")
    with connect(source.admin_dsn, purpose="test") as session:
        session.execute("select pg_create_logical_replication_slot('types_random', 'pgoutput')")
        yield Oracle(session, source, replica)
    source.drop_slot("types_random")


def shown(database: Database, name: str) -> bytes:
    query = f"copy (select * from {name} order by id) to stdout".encode()
    with psycopg.connect(database.admin_dsn) as connection, connection.cursor().copy(query) as copy:
        return b"".join(copy)


@given(drawn=tables())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=25)
def test_random_tables_are_on_the_replica_what_they_are_on_the_source(
    oracle: Oracle, taken: Taken, source: Database, replica: Database, drawn: Drawn
) -> None:
    name = oracle.make(drawn)
    changes = oracle.write(name, drawn)
    taken.made_log.commit(*changes, tables=oracle.tables)
    taken.catch_up()
    assert shown(replica, name) == shown(source, name)
