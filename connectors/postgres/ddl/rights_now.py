"""Owners and privileges of all objects of a database as they are now: for a first copy, which makes them on
the replica what they are on the source. And those of one table, which joins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from psycopg import sql

from connectors.postgres.ddl import rights
from connectors.postgres.ddl.follow import Policies, leaves_out
from connectors.postgres.session import Session, wrapped
from schemas.ddl.command import Command
from schemas.ddl.kinds import Kind, Policy
from schemas.ddl.message import ObjectChange, State
from schemas.ddl.phrases import Pieces
from schemas.ddl.rights import default_acl_steps, owner_and_grants
from schemas.ddl.step import Name, Step

_BATCH: Final = 50  # what a transaction locks: max_locks_per_transaction

_FOLLOWED: Final = sql.SQL("n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'keepstream')")

# A table, and its sequences but for identity columns'.
_ONE_TABLE: Final = sql.SQL("""
    (c.oid = %(table)s::oid or c.oid in (
        select o.objid from pg_catalog.pg_depend o
         where o.classid = 'pg_class'::regclass and o.refclassid = 'pg_class'::regclass
           and o.refobjid = %(table)s::oid and o.refobjsubid > 0 and o.deptype = 'a'))
""")
# As the event triggers' functions describe them, which only their owner may call.
_RELATIONS: Final = sql.SQL("""
    select case c.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence'
                          else 'table' end,
           n.nspname, c.relname, '', pg_get_userbyid(c.relowner),
           coalesce(c.relacl, acldefault(case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner)
               )::text[],
           c.relkind = 'S' and exists (
               select from pg_catalog.pg_depend d
                where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'a'
                  and d.refclassid = 'pg_class'::regclass and d.refobjsubid > 0)
      from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p', 'v', 'm', 'S') and c.relpersistence <> 't' and {followed}
       and not exists (select from pg_catalog.pg_depend e where e.classid = 'pg_class'::regclass
                        and e.objid = c.oid and e.objsubid = 0 and e.deptype in ('e', 'i'))
""")
_OBJECTS: Final = sql.SQL("""
    {relations}
    union all
    select case p.prokind when 'p' then 'procedure' else 'function' end, n.nspname, p.proname,
           '(' || pg_get_function_identity_arguments(p.oid) || ')', pg_get_userbyid(p.proowner),
           coalesce(p.proacl, acldefault('f', p.proowner))::text[], false
      from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
     where p.prokind <> 'a' and {followed}
       and not exists (select from pg_catalog.pg_depend e where e.classid = 'pg_proc'::regclass
                        and e.objid = p.oid and e.deptype in ('e', 'i'))
    union all
    select case t.typtype when 'd' then 'domain' else 'type' end, n.nspname, t.typname, '',
           pg_get_userbyid(t.typowner), coalesce(t.typacl, acldefault('T', t.typowner))::text[], false
      from pg_catalog.pg_type t
      join pg_catalog.pg_namespace n on n.oid = t.typnamespace
      left join pg_catalog.pg_class c on c.oid = t.typrelid
     where (t.typtype in ('d', 'e', 'r') or c.relkind = 'c') and {followed}
       and not exists (select from pg_catalog.pg_depend e where e.classid = 'pg_type'::regclass
                        and e.objid = t.oid and e.deptype in ('e', 'i'))
    union all
    select 'schema', null, n.nspname, '', pg_get_userbyid(n.nspowner),
           coalesce(n.nspacl, acldefault('n', n.nspowner))::text[], false
      from pg_catalog.pg_namespace n
     where {followed}
       and not exists (select from pg_catalog.pg_depend e where e.classid = 'pg_namespace'::regclass
                        and e.objid = n.oid and e.deptype in ('e', 'i'))
""").format(relations=_RELATIONS.format(followed=_FOLLOWED), followed=_FOLLOWED)
_PARTS: Final = sql.SQL("""
    select n.nspname, c.relname, a.attname, null, null, a.attacl::text[]
      from pg_catalog.pg_attribute a
      join pg_catalog.pg_class c on c.oid = a.attrelid
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where a.attacl is not null and a.attnum > 0 and not a.attisdropped and {followed}
    union all
    select n.nspname, c.relname, a.attname, m.nspname, s.relname,
           coalesce(s.relacl, acldefault('s', s.relowner))::text[]
      from pg_catalog.pg_depend d
      join pg_catalog.pg_class s on s.oid = d.objid and s.relkind = 'S'
      join pg_catalog.pg_namespace m on m.oid = s.relnamespace
      join pg_catalog.pg_class c on c.oid = d.refobjid
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
      join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum = d.refobjsubid
     where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.deptype = 'i'
       and d.refobjsubid > 0 and {followed}
""")
_DEFAULTS: Final = """
    select pg_get_userbyid(d.defaclrole), n.nspname,
           case d.defaclobjtype when 'r' then 'table' when 'S' then 'sequence' when 'f' then 'function'
                                when 'T' then 'type' else 'schema' end,
           d.defaclacl::text[]
      from pg_catalog.pg_default_acl d left join pg_catalog.pg_namespace n on n.oid = d.defaclnamespace
     where d.defaclobjtype in ('r', 'S', 'f', 'T', 'n')
"""

_WITH_COLUMNS: Final = ("table", "view", "materialized view")

Key = tuple[str, str | None, str, str]
"""What ALTER calls it; its schema, name, and arguments."""


@dataclass(frozen=True, slots=True)
class Rights:
    """Objects by their key; default privileges by role, schema and kind of object."""

    objects: Mapping[Key, State] = field(default_factory=dict)
    defaults: Mapping[tuple[str, str | None, str], State] = field(default_factory=dict)


def read_rights(session: Session) -> Rights:
    """In the session's snapshot."""
    with wrapped("reading owners and privileges"):
        objects = _read_objects(session, _OBJECTS, _PARTS.format(followed=_FOLLOWED), {})
        defaults = {
            (role, schema, kind): {"owner": role, "schema": schema, "objects": kind, "acl": acl}
            for role, schema, kind, acl in session.execute(_DEFAULTS)
        }
    return Rights(objects, defaults)


def _read_objects(
    session: Session, objects: sql.Composed, parts: sql.Composed, values: Mapping[str, Any]
) -> dict[Key, State]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for schema, table, column, sequence_schema, sequence, acl in session.execute(parts, values):
        part = {"num": column, "acl": acl}
        if sequence is not None:
            part["sequence"] = [sequence_schema, sequence]
        found.setdefault((schema, table), []).append(part)
    return {
        (word, schema, name, arguments): {
            "schema": schema,
            "name": name,
            "owner": owner,
            "acl": acl,
            "owned_by": owned,
            "part_acl": found.get((schema, name), []) if word in _WITH_COLUMNS else [],
        }
        for word, schema, name, arguments, owner, acl, owned in session.execute(objects, values)
    }


def table_rights(session: Session, table: int) -> tuple[State, ...]:
    """Of the table with this OID and its sequences, as a join tells them. The caller wraps errors."""
    relations, parts = (each.format(followed=_ONE_TABLE) for each in (_RELATIONS, _PARTS))
    objects = _read_objects(session, relations, parts, {"table": table})
    return tuple({**state, "called": word} for (word, *_), state in objects.items())


def give_table(conn: Session, told: Sequence[State], policies: Policies, *, replica: str) -> None:
    """What `table_rights` told, to a table that was made in the open transaction. Raises psycopg.Error, and
    RetryLater as `level`."""
    tables = [state for state in told if state["called"] == "table"]
    if not tables or not wanted(policies):
        return
    name = sql.Identifier(tables[0]["schema"], tables[0]["name"]).as_string()
    (oid,) = conn.execute("select to_regclass(%s)::oid::bigint", [name]).fetchone() or (None,)
    here, there = _by_key(table_rights(conn, oid)), _by_key(told)
    for step in rights.takeable(conn, leading(here, there, policies), replica):
        rights.take(conn, step)


def _by_key(told: Sequence[State]) -> Rights:
    return Rights({(state["called"], state["schema"], state["name"], ""): state for state in told})


def wanted(policies: Policies) -> bool:
    """Whether a replica follows owners or privileges."""
    return any(policies[kind] is not Policy.IGNORE for kind in rights.RIGHTS)


def leading(here: Rights, there: Rights, policies: Policies) -> list[Step]:
    """From what the replica has (`here`) to what the source has: of objects that both have."""
    both = sorted(here.objects.keys() & there.objects.keys(), key=_after_schemas)
    pairs = [(key, here.objects[key], there.objects[key]) for key in both]
    found = [step for key, held, told in pairs for step in _of_object(key, held, _of_its_parts(told, held))]
    found += _of_defaults(here, there)
    return _taken(found, policies)


def _of_its_parts(there: State, here: State) -> State:
    """Without sequences that the replica lacks: columns that are not listed have no identity there."""
    own = [part.get("sequence") for part in here["part_acl"]]
    return {**there, "part_acl": [part for part in there["part_acl"] if part.get("sequence") in (None, *own)]}


def making(there: Rights, policies: Policies) -> list[Step]:
    """As if all were made anew: which roles does it take?"""
    found = [step for key, state in there.objects.items() for step in _of_object(key, None, state)]
    return _taken([*found, *_of_defaults(Rights(), there)], policies)


def _after_schemas(key: Key) -> tuple[bool, str]:
    """Who grants on what is in a schema must have its USAGE."""
    return key[0] != "schema", str(key)


def _of_object(key: Key, before: State | None, after: State) -> Iterator[Step]:
    word, schema, name, arguments = key
    label = Name((name,) if schema is None else (schema, name))
    about: Pieces = (f"{word} ", label, arguments) if arguments else (f"{word} ", label)
    # Numbers of columns differ between the two: they are called by their names.
    names = {part["num"] for state in (before or {}, after) for part in state.get("part_acl") or ()}
    columns = [{"num": column, "name": column} for column in sorted(names)]
    yield from owner_and_grants(about, before, {**after, "columns": columns})


def _of_defaults(here: Rights, there: Rights) -> Iterator[Step]:
    for key, state in there.defaults.items():
        yield from default_acl_steps(
            ObjectChange("default_acl", 0, here.defaults.get(key), state), Command(())
        )


def _taken(found: Sequence[Step], policies: Policies) -> list[Step]:
    return sorted((step for step in found if not leaves_out(step, policies)), key=lambda step: step.phase)


def level(conn: Session, there: Rights, policies: Policies, *, replica: str) -> None:
    """Give the replica's objects the owners and privileges of the source's, in a few transactions.

    Raises RetryLater (`role-missing`, `role-not-granted`) before anything was done.
    """
    found = rights.takeable(conn, leading(read_rights(conn), there, policies), replica)
    with wrapped("giving objects their owners and privileges"):
        for start in range(0, len(found), _BATCH):
            with conn.transaction():
                for step in found[start : start + _BATCH]:
                    rights.take(conn, step)


def require_roles(conn: Session, there: Rights, policies: Policies, *, replica: str) -> None:
    """Raises RetryLater (`role-missing`, `role-not-granted`)."""
    with wrapped("looking for roles on the replica"):
        rights.takeable(conn, making(there, policies), replica)


def owns(policies: Policies) -> bool:
    """Whether the replica's objects come to belong to others than our role."""
    return policies[Kind.OWNER] is not Policy.IGNORE
