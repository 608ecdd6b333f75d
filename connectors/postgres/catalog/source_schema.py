"""What a first copy must know of the source's schema beside its tables: foreign keys, extensions,
roles that policies name, and objects that cannot be had on a replica. Read in the copy's snapshot."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from connectors.postgres.catalog.foreignkeys import ForeignKey, read_foreign_keys
from connectors.postgres.session import Session, wrapped
from schemas.errors import OperatorNeeded

PG_CONSTRAINT: Final = 2606
PG_NAMESPACE: Final = 2615
PG_CLASS: Final = 1259


@dataclass(frozen=True, slots=True)
class SourceSchema:
    """schemas: names by OID. foreign: OIDs in pg_class of views that read foreign tables (which a
    replica does not get), and of the foreign tables."""

    foreign_keys: tuple[ForeignKey, ...]
    schemas: dict[int, str]
    extensions: tuple[tuple[str, str], ...]
    policy_roles: tuple[str, ...]
    foreign: frozenset[int]


_EXTENSIONS: Final = """
    select e.extname, n.nspname from pg_catalog.pg_extension e
      join pg_catalog.pg_namespace n on n.oid = e.extnamespace where e.extname <> 'plpgsql' order by 1
"""

_POLICY_ROLES: Final = """
    select distinct r.rolname from pg_catalog.pg_policy p
     cross join lateral unnest(p.polroles) as role
      join pg_catalog.pg_roles r on r.oid = role order by 1
"""

# Foreign tables, and views and materialized views that read them, directly or through other views.
_FOREIGN: Final = """
    with recursive unavailable(oid) as (
        select oid from pg_catalog.pg_class where relkind = 'f'
        union
        select w.ev_class from unavailable u
          join pg_catalog.pg_depend d on d.refclassid = 'pg_catalog.pg_class'::regclass
           and d.refobjid = u.oid and d.classid = 'pg_catalog.pg_rewrite'::regclass
          join pg_catalog.pg_rewrite w on w.oid = d.objid
    )
    select oid from unavailable
"""


def read_source_schema(reader: Session) -> SourceSchema:
    with wrapped("reading the source's schema"):
        return SourceSchema(
            foreign_keys=read_foreign_keys(reader),
            schemas=dict(reader.execute("select oid, nspname from pg_catalog.pg_namespace").fetchall()),
            extensions=tuple((name, schema) for name, schema in reader.execute(_EXTENSIONS)),
            policy_roles=tuple(name for (name,) in reader.execute(_POLICY_ROLES)),
            foreign=frozenset(oid for (oid,) in reader.execute(_FOREIGN)),
        )


_MISSING_EXTENSIONS: Final = """
    select w.name, w.schema, v.name is not null,
           coalesce(bool_or(not v.superuser or v.trusted), false)
             or (select rolsuper from pg_catalog.pg_roles where rolname = current_user)
      from unnest(%s::text[], %s::text[]) as w(name, schema)
      left join pg_catalog.pg_extension e on e.extname = w.name
      left join pg_catalog.pg_available_extension_versions v on v.name = w.name
     where e.extname is null
     group by w.name, w.schema, v.name
     order by w.name
"""


def require_extensions(replica: Session, extensions: Sequence[tuple[str, str]]) -> None:
    """Raises OperatorNeeded (`extension-unavailable`, `extension-needs-admin`) unless each extension is
    there, or our role can create it."""
    names, schemas = [name for name, _ in extensions], [schema for _, schema in extensions]
    with wrapped("looking for extensions on the replica"):
        rows = replica.execute(_MISSING_EXTENSIONS, [names, schemas]).fetchall()
    unknown = [name for name, _, available, _ in rows if not available]
    if unknown:
        raise OperatorNeeded(
            f"the replica's server does not have these extensions of the source: {', '.join(unknown)}",
            code="extension-unavailable",
            hint="Install their packages (contrib and others) on the replica's server.",
        )
    barred = [(name, schema) for name, schema, _, creatable in rows if not creatable]
    if barred:
        raise OperatorNeeded(
            f"only a superuser may create these extensions: {', '.join(name for name, _ in barred)}",
            code="extension-needs-admin",
            hint=f"Run in the replica's database as a superuser: {_create_extensions(barred)}",
        )


def _create_extensions(extensions: Sequence[tuple[str, str]]) -> str:
    statements = []
    for name, schema in extensions:
        if schema not in ("public", "pg_catalog"):
            statements.append(sql.SQL("create schema if not exists {};").format(sql.Identifier(schema)))
        statements.append(
            sql.SQL("create extension {} schema {};").format(sql.Identifier(name), sql.Identifier(schema))
        )
    return " ".join(statement.as_string() for statement in statements)


def require_roles(replica: Session, roles: Collection[str]) -> None:
    """Raises OperatorNeeded (`policy-role-missing`) unless those that policies name exist on the replica."""
    with wrapped("looking for roles on the replica"):
        query = "select w from unnest(%s::text[]) w where w not in (select rolname from pg_catalog.pg_roles)"
        missing = [name for (name,) in replica.execute(query, [list(roles)])]
    if missing:
        creates = " ".join(sql.SQL("create role {};").format(sql.Identifier(r)).as_string() for r in missing)
        raise OperatorNeeded(
            f"policies of the source name roles that the replica lacks: {', '.join(missing)}",
            code="policy-role-missing",
            hint=f"Run on the replica's server as a superuser: {creates}",
        )


def existing_schemas(replica: Session) -> frozenset[str]:
    with wrapped("listing the replica's schemas"):
        return frozenset(name for (name,) in replica.execute("select nspname from pg_catalog.pg_namespace"))


def knows_lz4(replica: Session) -> bool:
    """Whether the replica's server was built with lz4, which columns of the source may be set to."""
    query = (
        "select 'lz4' = any(enumvals) from pg_catalog.pg_settings where name = 'default_toast_compression'"
    )
    with wrapped("looking at the replica's compression methods"):
        return replica.execute(query).fetchall() == [(True,)]
