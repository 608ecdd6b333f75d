"""Table versions from the catalog, exactly as pgoutput's Relation message would describe them, but for
generated columns, which are not in the log.

Capture needs them where no row has been streamed yet: in the log's first ANCHOR, and when a table
joins. The result depends on the snapshot of the session's transaction.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from connectors.postgres.session import Session, wrapped
from schemas.pgtypes import FIRST_USER_OID, format_type
from schemas.table import Column, ReplicaIdentity, TableSchema

# For a domain, pgoutput names the base type at the bottom; its Relation message keeps the domain's OID.
_COLUMNS: Final = """
    with recursive base(oid, bottom) as (
        select oid, oid from pg_type where typtype <> 'd'
        union all
        select t.oid, base.bottom from pg_type t join base on t.typbasetype = base.oid where t.typtype = 'd'
    )
    select n.nspname, c.relname, c.relreplident,
           a.attname, a.atttypid::bigint, a.atttypmod,
           c.relreplident = 'f' or coalesce(a.attnum = any (i.indkey), false),
           bn.nspname, b.typname
      from {tables}
      join pg_namespace n on n.oid = c.relnamespace
      join pg_attribute a on a.attrelid = c.oid and {sent}
           and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
      join base on base.oid = a.atttypid
      join pg_type b on b.oid = base.bottom
      join pg_namespace bn on bn.oid = b.typnamespace
      left join pg_index i on i.indrelid = c.oid and i.indimmediate and i.indisvalid
           and case c.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident end
     where {which}
     order by n.nspname, c.relname, a.attnum
"""
_PUBLISHED: Final = _COLUMNS.format(
    tables="""pg_publication_tables p
      join pg_namespace pn on pn.nspname = p.schemaname
      join pg_class c on c.relnamespace = pn.oid and c.relname = p.tablename""",
    sent="a.attname = any (p.attnames)",
    which="p.pubname = %s",
)
_NAMED: Final = _COLUMNS.format(tables="pg_class c", sent="true", which="c.oid = any (%s::oid[])")


def published_tables(session: Session, publication: str) -> tuple[TableSchema, ...]:
    """Every table that the publication holds now, as its rows would be announced."""
    with wrapped(f"reading the tables of publication {publication}"):
        return tuple(_tables(session.execute(_PUBLISHED, [publication]).fetchall()))


def tables_of(session: Session, oids: Iterable[int]) -> tuple[TableSchema, ...]:
    """The same of these tables, whether they are published or not. One without columns is left out."""
    with wrapped("reading the columns of tables"):
        return tuple(_tables(session.execute(_NAMED, [list(oids)]).fetchall()))


def _tables(rows: Iterable[tuple[Any, ...]]) -> Iterable[TableSchema]:
    columns: dict[tuple[str, str, str], list[Column]] = {}
    for schema, name, identity, column, type_oid, modifier, key, type_schema, type_name in rows:
        user_type = (type_schema, type_name) if type_oid >= FIRST_USER_OID else None
        where = f"{schema}.{name}.{column}"
        type_name = format_type(type_oid, modifier, user_type, column=where)
        columns.setdefault((schema, name, identity), []).append(
            Column(column, type_oid, modifier, type_name, key)
        )
    for (schema, name, identity), found in columns.items():
        yield TableSchema(schema, name, ReplicaIdentity(identity), tuple(found))
