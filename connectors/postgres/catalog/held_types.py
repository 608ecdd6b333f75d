"""What the columns of tables hold: their types with all that these consist of, domains resolved.

A Relation message names the type at the bottom of a domain, but not its modifier, and of a composite type
nothing but its name. The catalog of either side tells: two such descriptions can be compared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from connectors.postgres.session import Session, wrapped
from schemas.pgtypes import format_type

BASE: Final = "b"
COMPOSITE: Final = "c"
ENUM: Final = "e"
ARRAY: Final = "a"
"""Our own letter: to pg_type an array is a base type."""


@dataclass(frozen=True, slots=True)
class HeldType:
    """A type that is no domain. `name` and `kind`: pg_type's typname and typtype, or ARRAY. `parts`: the
    attributes of a composite type by name; the element of an array or the subtype of a range, without one.
    `labels`: an enum's, in its order."""

    oid: int
    modifier: int
    name: str
    kind: str
    schema: str = "pg_catalog"
    parts: tuple[tuple[str, HeldType], ...] = ()
    labels: tuple[str, ...] = ()

    @property
    def is_array(self) -> bool:
        return self.kind == ARRAY

    @property
    def type_name(self) -> str:
        """SQL."""
        return format_type(self.oid, self.modifier, (self.schema, self.name))

    def enums(self) -> Iterator[HeldType]:
        """All in it, however deep inside."""
        if self.kind == ENUM:
            yield self
        for _, part in self.parts:
            yield from part.enums()


@dataclass(frozen=True, slots=True)
class _Described:
    """A row of pg_type. `below`: name, OID and modifier of what it consists of, or is a domain over."""

    schema: str
    name: str
    kind: str
    below: tuple[tuple[str, int, int], ...]
    labels: tuple[str, ...]


_TYPES: Final = """
    with recursive used(oid) as (
        select unnest(%s::oid[])
        union
        select below.oid from used u join pg_type t on t.oid = u.oid cross join lateral (
            select t.typbasetype
            union all select t.typelem where t.typsubscript = 'array_subscript_handler'::regproc
            union all select g.rngsubtype from pg_range g where t.oid in (g.rngtypid, g.rngmultitypid)
            union all select a.atttypid from pg_attribute a
                       where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
        ) below(oid) where below.oid <> 0
    )
    select t.oid::bigint, n.nspname, t.typname,
           case when t.typsubscript = 'array_subscript_handler'::regproc then 'a' else t.typtype::text end,
           case when t.typtype = 'd'
                then jsonb_build_array(jsonb_build_array('', t.typbasetype::bigint, t.typtypmod))
                when t.typsubscript = 'array_subscript_handler'::regproc
                then jsonb_build_array(jsonb_build_array('', t.typelem::bigint, -1))
                when t.typtype = 'c'
                then (select jsonb_agg(jsonb_build_array(a.attname, a.atttypid::bigint, a.atttypmod)
                                       order by a.attnum)
                        from pg_attribute a
                       where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped)
                else (select jsonb_agg(jsonb_build_array('', g.rngsubtype::bigint, -1))
                        from pg_range g where t.oid in (g.rngtypid, g.rngmultitypid)) end,
           (select array_agg(e.enumlabel::text order by e.enumsortorder)
              from pg_enum e where e.enumtypid = t.oid)
      from used join pg_type t on t.oid = used.oid join pg_namespace n on n.oid = t.typnamespace
"""

_COLUMNS: Final = """
    select n.nspname, c.relname, a.attname, a.atttypid::bigint, a.atttypmod
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
      join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
     where c.oid = any (%s::oid[])
"""

_ENUMS: Final = """
    select t.oid::bigint, n.nspname, t.typname,
           array(select e.enumlabel::text from pg_enum e where e.enumtypid = t.oid order by e.enumsortorder)
      from pg_type t join pg_namespace n on n.oid = t.typnamespace
     where t.typtype = 'e'
"""

HeldColumns = Mapping[str, HeldType]
"""What a table's columns hold, by name."""


class Types:
    """Types of one database, as they were when they were read."""

    def __init__(self, session: Session, oids: Collection[int]) -> None:
        with wrapped("reading what types consist of"):
            rows = session.execute(_TYPES, [sorted(oids)]).fetchall()
        self._described = {
            oid: _Described(
                schema, name, kind, tuple((n, o, m) for n, o, m in below or ()), tuple(labels or ())
            )
            for oid, schema, name, kind, below, labels in rows
        }

    def held(self, oid: int, modifier: int) -> HeldType:
        """What a column of that type and modifier holds. No type contains itself."""
        found = self._described[oid]
        if found.kind == "d":
            ((_, base, base_modifier),) = found.below
            return self.held(base, base_modifier if modifier < 0 else modifier)
        parts = tuple(
            (name, self.held(part, modifier if found.kind == ARRAY else part_modifier))
            for name, part, part_modifier in found.below
        )
        return HeldType(oid, modifier, found.name, found.kind, found.schema, parts, found.labels)


def read_held_columns(
    session: Session, tables: Collection[int]
) -> dict[tuple[str, str], dict[str, HeldType]]:
    """Of tables by OID, as the session's snapshot shows them: by their schema and name."""
    with wrapped("reading the types of columns"):
        rows = session.execute(_COLUMNS, [sorted(tables)]).fetchall()
    types = Types(session, {row[3] for row in rows})
    found: dict[tuple[str, str], dict[str, HeldType]] = {}
    for schema, table, column, oid, modifier in rows:
        found.setdefault((schema, table), {})[column] = types.held(oid, modifier)
    return found


def read_enums(session: Session) -> dict[tuple[str, str], HeldType]:
    """Of this database, by schema and name."""
    with wrapped("reading enums"):
        rows = session.execute(_ENUMS).fetchall()
    return {
        (schema, name): HeldType(oid, -1, name, ENUM, schema, labels=tuple(labels))
        for oid, schema, name, labels in rows
    }
