"""Random statements about what a database has at the moment: some fail, as applications' do."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

import psycopg
from psycopg import sql

_NAMES: Final = tuple("abcdefgh")
_SCHEMAS: Final = ("public", "s1", "s2")
_TYPES: Final = (
    "int",
    "bigint",
    "text",
    "numeric(10, 2)",
    "varchar(20)",
    "boolean",
    "jsonb",
    "int[]",
    "float8",
)
_VALUES: Final = {
    "integer": "7",
    "bigint": "7000000000",
    "text": "'t'",
    "numeric(10,2)": "1.5",
    "boolean": "true",
    "jsonb": "'{}'",
    "double precision": "'NaN'",
    "mood": "'good'",
}
_OURS: Final = "n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'keepstream')"
_RELATIONS: Final = f"""
    select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where {_OURS} and c.relkind::text = any (%s) order by c.oid
"""
_COLUMNS: Final = """
    select attname, format_type(atttypid, atttypmod) from pg_attribute
     where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped and attgenerated = ''
       and attname not in ('id', 'day') order by attnum
"""


class Statements:
    """One session's: `ddl` and `dml` return SQL of one or several statements, or None where nothing fits."""

    def __init__(self, session: psycopg.Connection[tuple[Any, ...]], chance: random.Random) -> None:
        self._session = session
        self._chance = chance
        self._kinds: tuple[tuple[int, Callable[[], str | None]], ...] = (
            (4, self._create),
            (2, self._partition),
            (1, self._child),
            (7, self._add),
            (4, self._column),
            (3, self._retype),
            (3, self._rename),
            (2, self._constraint),
            (2, self._index),
            (3, self._type),
            (2, self._view),
            (1, self._schema),
            (1, self._drop),
        )

    def ddl(self) -> str | None:
        weights = [weight for weight, _ in self._kinds]
        return self._chance.choices(self._kinds, weights)[0][1]()

    def dml(self) -> str | None:
        table = self._table("rp")
        if table is None:
            return None
        column = self._any_column(table)
        number = self._chance.randrange(400)
        value = "null" if column is None else _VALUES.get(column[1], "null")
        named = f", {column[0]}" if column else ""
        given = f", {value}" if column else ""
        changes = [f"update {table} set {column[0]} = {value} where id % 7 = {number % 7}"] if column else []
        inserting = f"insert into {table} (id{named}) values ({number}{given}) on conflict do nothing"
        deleting = f"delete from {table} where id = {number}"
        return self._chance.choice([inserting, inserting, inserting, *changes, deleting])

    # What is there

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        return self._session.execute(query, values or None).fetchall()

    def _relation(self, kinds: str) -> str | None:
        found = self._rows(_RELATIONS, list(kinds))
        return _quoted(*self._chance.choice(found)) if found else None

    def _table(self, kinds: str = "r") -> str | None:
        return self._relation(kinds)

    def _any_column(self, table: str) -> tuple[str, str] | None:
        found = self._rows(_COLUMNS, table)
        if not found:
            return None
        name, type_ = self._chance.choice(found)
        return _quoted(name), type_

    def _name(self) -> str:
        return f"{self._chance.choice(_NAMES)}{self._chance.randrange(40)}"

    def _new(self) -> str:
        return f"{self._chance.choice(_SCHEMAS)}.{self._name()}"

    def _any_type(self) -> str:
        return self._chance.choice((*_TYPES, "public.mood", "public.short"))

    # What is made of it

    def _create(self) -> str:
        keys = ("id int primary key", "id serial primary key", "id int not null unique")
        rest = f"{self._name()} {self._any_type()}, {self._name()}x {self._any_type()}"
        if self._chance.random() < 0.3:
            key = "id int, day int default 1, primary key (id, day)"
            return f"create table {self._new()} ({key}, {rest}) partition by range (day)"
        return f"create table {self._new()} ({self._chance.choice(keys)}, {rest})"

    def _partition(self) -> str | None:
        parent, child = self._table("p"), self._table()
        low = self._chance.choice((0, 10, 20))
        bound = f"for values from ({low}) to ({low + 10})"
        if parent is None:
            return None
        choices = [f"create table {self._new()} partition of {parent} {bound}"]
        if child is not None:
            choices += [f"alter table {parent} detach partition {child}"] * 2
            choices.append(f"alter table {parent} attach partition {child} {bound}")
        return self._chance.choice(choices)

    def _child(self) -> str | None:
        parent = self._table()
        return parent and f"create table {self._new()} ({self._name()} int) inherits ({parent})"

    def _add(self) -> str | None:
        table = self._table("rp")
        defaults = ("int default 7", "text default 'x' not null", "float8 default random()", "bigserial")
        chosen = self._chance.choice((self._any_type(), self._any_type(), *defaults))
        return table and f"alter table {table} add {self._name()} {chosen}"

    def _column(self) -> str | None:
        table = self._table("rp")
        column = table and self._any_column(table)
        if not column:
            return None
        only = self._chance.choice(("", "", "only "))
        change = self._chance.choice(
            (
                f"drop {column[0]}",
                f"rename {column[0]} to {self._name()}",
                f"alter {column[0]} set default null",
                f"alter {column[0]} drop default",
                f"alter {column[0]} set not null",
                f"alter {column[0]} drop not null",
                f"alter {column[0]} set statistics {self._chance.randrange(90)}",
            )
        )
        return f"alter table {only}{table} {change}"

    def _retype(self) -> str | None:
        table = self._table("rp")
        column = table and self._any_column(table)
        type_ = self._chance.choice(_TYPES)
        return column and f"alter table {table} alter {column[0]} type {type_} using null::{type_}"

    def _rename(self) -> str | None:
        table = self._table("rp")
        where = (f"rename to {self._name()}", f"set schema {self._chance.choice(_SCHEMAS)}")
        return table and f"alter table {table} {self._chance.choice(where)}"

    def _constraint(self) -> str | None:
        table, other = self._table("rp"), self._table("rp")
        constraint = self._rows("select conname from pg_constraint where conrelid = to_regclass(%s)", table)
        changes = [
            f"add constraint {self._name()} check (id is not null) not valid",
            "drop constraint if exists a_pkey, add primary key (id)",
            f"add foreign key (id) references {other} not valid",
            "replica identity full",
        ]
        if constraint:
            name = _quoted(self._chance.choice(constraint)[0])
            changes += [f"drop constraint {name} cascade", f"rename constraint {name} to {self._name()}"]
        return table and f"alter table {table} {self._chance.choice(changes)}"

    def _index(self) -> str | None:
        table, index = self._table("rp"), self._relation("iI")
        column = table and self._any_column(table)
        changes = [f"create index on {table} ({column[0]})"] if column else []
        if index:
            changes += [f"drop index {index}", f"alter index {index} rename to {self._name()}"]
        return self._chance.choice(changes) if changes else None

    def _type(self) -> str:
        number = self._chance.randrange(100)
        return self._chance.choice(
            (
                f"alter type public.mood add value if not exists 'm{number}'",
                f"alter type public.mood rename value 'bad' to 'n{number}'",
                f"create type {self._new()} as (p int, q text)",
                f"create domain {self._new()} as int check (value is distinct from {number})",
                f"alter domain public.short add constraint {self._name()} check (value <> 'no{number}')",
            )
        )

    def _view(self) -> str | None:
        table, view = self._table("rp"), self._relation("v")
        changes = [f"create view {self._new()} as select * from {table}"] if table else []
        body = f"'select {self._chance.randrange(9)}'"
        changes.append(f"create or replace function public.f(int) returns int language sql as {body}")
        if view:
            changes += [f"alter view {view} rename to {self._name()}", f"drop view {view}"]
        return self._chance.choice(changes)

    def _schema(self) -> str:
        others = self._rows("select nspname from pg_namespace where nspname ~ '^x' order by 1")
        if not others:
            return f"create schema x{self._name()}"
        old = self._chance.choice(others)[0]
        table = self._table("rp")
        moving = f"alter table {table} set schema {old}" if table else "select"
        return self._chance.choice((moving, f"alter schema {old} rename to x{self._name()}"))

    def _drop(self) -> str | None:
        if len(self._rows(_RELATIONS, ["r", "p"])) < 6:
            return None
        return f"drop table {self._table('rp')}" + self._chance.choice(("", " cascade"))


def _quoted(*parts: str) -> str:
    return sql.Identifier(*parts).as_string()
