"""The tables as a snapshot shows them, and the proof that they still are as it shows them (P19).

TRUNCATE and rewrites empty a table for every older snapshot; renames make a name mean something
else; and a value of an enum is shown by its label of today. So a table is locked first, then described
anew by a session that sees today's catalog, and only read if both descriptions agree. They are compared
as digests (`fingerprint`).
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

import psycopg
from psycopg import sql

from connectors.postgres.catalog.publication import TableName
from connectors.postgres.copy.copystream import Tick, run_query
from connectors.postgres.copy.snapshot import TableChanged
from connectors.postgres.partitions.below import with_partitions
from connectors.postgres.session import Session, connect, wrapped
from connectors.postgres.sqlstate import ROW_SECURITY
from schemas.errors import BEGIN_ANEW, HistoryBroken, OperatorNeeded
from schemas.identifiers import qualified
from schemas.pgtypes import BYTEA

# Built-in types whose binary form means the same on every server of one major version: bool, bytea,
# "char", name, int8, int2, int4, text, oid, json, float4, float8, macaddr8, macaddr, cidr, inet,
# bpchar, varchar, date, time, timestamp, timestamptz, interval, timetz, bit, varbit, numeric, uuid,
# jsonb. Not reg* (OIDs that mean nothing elsewhere) and not what users define.
_BINARY_TYPES: Final = frozenset(
    {16, 17, 18, 19, 20, 21, 23, 25, 26, 114, 650, 700, 701, 774, 829, 869, 1042, 1043}
    | {1082, 1083, 1114, 1184, 1186, 1266, 1560, 1562, 1700, 2950, 3802}
)


@dataclass(frozen=True, slots=True)
class SnapshotTable:
    """One table with rows of its own; or, with `leaves`, a partitioned one as a whole, whose rows come under
    its name: they are those of its leaves.

    columns: those that COPY carries; generated ones are computed by the replica. ancestors: the
    partitioned tables above, nearest first. blocks: of the heap; 0 if ctid means nothing there.
    size_bytes: with TOAST, without indexes. rows_estimated: None if it was never analyzed. has_list: the
    publication lists `columns`, and there may be others. row_filter: its WHERE, as SQL; None: all rows.
    """

    oid: int
    schema: str
    name: str
    columns: tuple[str, ...]
    type_oids: tuple[int, ...]
    ancestors: tuple[TableName, ...]
    blocks: int
    size_bytes: int
    rows_estimated: int | None
    fingerprint: str
    leaves: tuple[SnapshotTable, ...] | None = None
    published_as: TableName | None = None
    """Of a leaf: the whole, whose name its rows have in the stream."""
    has_list: bool = False
    row_filter: str | None = None

    @property
    def stored(self) -> tuple[SnapshotTable, ...]:
        """The tables that have its rows."""
        return (self,) if self.leaves is None else self.leaves

    @property
    def table_name(self) -> TableName:
        return self.schema, self.name

    @property
    def qualified_name(self) -> str:
        """For messages; not SQL."""
        return qualified(self.schema, self.name)

    def without(self, names: Collection[str]) -> SnapshotTable:
        """The same, without these columns."""
        kept = {
            name: oid for name, oid in zip(self.columns, self.type_oids, strict=True) if name not in names
        }
        leaves = None if self.leaves is None else tuple(leaf.without(names) for leaf in self.leaves)
        return replace(self, columns=tuple(kept), type_oids=tuple(kept.values()), leaves=leaves)

    @property
    def needs_binary(self) -> bool:
        """Whether text could be too long: bytea doubles its size in it, and a row's limit is 1 GB."""
        return BYTEA in self.type_oids

    @property
    def can_be_binary(self) -> bool:
        return _BINARY_TYPES.issuperset(self.type_oids)


_PUBLISHED: Final = """
    select r.prrelid, p.pubviaroot and c.relkind = 'p' from pg_catalog.pg_publication_rel r
      join pg_catalog.pg_publication p on p.oid = r.prpubid
      join pg_catalog.pg_class c on c.oid = r.prrelid
     where p.pubname = %s
"""

_NAMED: Final = """
    select c.oid from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
      join unnest(%s::text[], %s::text[]) as w(schema, name) on w.schema = n.nspname and w.name = c.relname
"""

# Digests of tables: with `stored`, as the reader's own snapshot shows them, else as they are now.
_FINGERPRINTS: Final = """
    select c.oid, encode(sha256(convert_to(concat_ws(' ', n.nspname, c.relname, c.relkind,
             case when %(stored)s then c.relfilenode else pg_catalog.pg_relation_filenode(c.oid) end, (
             select string_agg(concat_ws(' ', a.attnum, a.attname, a.atttypid, a.atttypmod,
                                         a.attgenerated, a.attisdropped), ',' order by a.attnum)
               from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attnum > 0
           ), (
             with recursive used(oid) as (
                 select a.atttypid from pg_catalog.pg_attribute a
                  where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
                 union
                 select part.oid from used u join pg_catalog.pg_type t on t.oid = u.oid cross join lateral (
                     select unnest(array[t.typelem, t.typbasetype])
                     union all
                     select m.atttypid from pg_catalog.pg_attribute m
                      where t.typtype = 'c' and m.attrelid = t.typrelid and m.attnum > 0
                     union all
                     select r.rngsubtype from pg_catalog.pg_range r where r.rngtypid = t.oid
                 ) part(oid) where part.oid <> 0
             )
             select string_agg(concat_ws(' ', e.oid, e.enumlabel), ',' order by e.oid)
               from pg_catalog.pg_enum e where e.enumtypid in (select oid from used)
           )), 'UTF8')), 'hex')
      from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where c.oid = any(%(oids)s::oid[])
"""

_TABLES: Final = sql.SQL("""
    select c.oid, n.nspname, c.relname, col.names, col.types, up.schemas, up.names,
           case when am.amname = 'heap'
                then pg_catalog.pg_relation_size(c.oid) / current_setting('block_size')::bigint else 0 end,
           pg_catalog.pg_table_size(c.oid), case when c.reltuples >= 0 then c.reltuples::bigint end,
           r.prattrs is not null, pg_catalog.pg_get_expr(r.prqual, r.prrelid),
           pg_catalog.row_security_active(c.oid),
           pg_catalog.has_table_privilege(c.oid, 'select') or col.readable
      from {tree} t
      join pg_catalog.pg_class c on c.oid = t.oid and c.relkind = 'r'
           and (c.relpersistence = 'p' or not %(only_logged)s)
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
      left join pg_catalog.pg_am am on am.oid = c.relam
      left join pg_catalog.pg_publication_rel r
        on r.prrelid = c.oid and r.prpubid = (select p.oid from pg_catalog.pg_publication p
                                               where p.pubname = %(publication)s)
     cross join lateral (
        select coalesce(array_agg(a.attname::text order by a.attnum), '{{}}') as names,
               coalesce(array_agg(a.atttypid::int8 order by a.attnum), '{{}}') as types,
               coalesce(bool_and(pg_catalog.has_column_privilege(c.oid, a.attnum, 'select')), false)
                   as readable
          from pg_catalog.pg_attribute a
         where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
           and (r.prattrs is null or a.attnum = any (r.prattrs::int2[]))
     ) col
     cross join lateral (
        with recursive parents(oid, depth) as (
            select i.inhparent, 1 from pg_catalog.pg_inherits i
             where i.inhrelid = c.oid and c.relispartition
            union all
            select i.inhparent, p.depth + 1 from parents p
              join pg_catalog.pg_inherits i on i.inhrelid = p.oid
        )
        select coalesce(array_agg(pn.nspname::text order by p.depth), '{{}}') as schemas,
               coalesce(array_agg(pc.relname::text order by p.depth), '{{}}') as names
          from parents p
          join pg_catalog.pg_class pc on pc.oid = p.oid
          join pg_catalog.pg_namespace pn on pn.oid = pc.relnamespace
     ) up
     order by n.nspname, c.relname
""").format(tree=with_partitions("select unnest(%(oids)s::oid[])"))


def published_tables(reader: Session, publication: str) -> list[SnapshotTable]:
    """What the publication sends of its tables, as `reader`'s snapshot shows both; partitioned ones as their
    leaves, but for those whose rows come under their own name.

    Raises HistoryBroken (`publication-missing`): an empty list would be copied, or found identical,
    without a word.
    """
    with wrapped("reading the publication"):
        _require_publication(reader, publication)
        listed = reader.execute(_PUBLISHED, [publication]).fetchall()
        found = _read(reader, [oid for oid, _ in listed], only_logged=True, publication=publication)
        wholes = _wholes(reader, [oid for oid, is_whole in listed if is_whole], found)
    others = [table for table in found if not any(name in wholes for name in table.ancestors)]
    return sorted([*others, *wholes.values()], key=lambda table: table.table_name)


_WHOLES: Final = """
    select c.oid, n.nspname, c.relname, col.names, col.types
      from pg_catalog.pg_class c
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     cross join lateral (
        select coalesce(array_agg(a.attname::text order by a.attnum), '{}') as names,
               coalesce(array_agg(a.atttypid::int8 order by a.attnum), '{}') as types
          from pg_catalog.pg_attribute a
         where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
     ) col
     where c.oid = any(%s::oid[])
"""


def _wholes(
    reader: Session, oids: Sequence[int], tables: Sequence[SnapshotTable]
) -> dict[TableName, SnapshotTable]:
    """Partitioned tables by name, each with its leaves among `tables`."""
    wholes = {}
    for oid, schema, name, columns, type_oids in reader.execute(_WHOLES, [list(oids)]):
        whole = (schema, name)
        leaves = tuple(replace(leaf, published_as=whole) for leaf in tables if whole in leaf.ancestors)
        sizes = [leaf.rows_estimated for leaf in leaves]
        wholes[whole] = SnapshotTable(
            oid=oid,
            schema=schema,
            name=name,
            columns=tuple(columns),
            type_oids=tuple(type_oids),
            ancestors=(),
            blocks=0,
            size_bytes=sum(leaf.size_bytes for leaf in leaves),
            rows_estimated=None if None in sizes else sum(size or 0 for size in sizes),
            fingerprint="",
            leaves=leaves,
        )
    return wholes


def _require_publication(reader: Session, publication: str) -> None:
    query = "select exists (select from pg_catalog.pg_publication where pubname = %s)"
    if reader.execute(query, [publication]).fetchall() != [(True,)]:
        raise HistoryBroken(
            f"the source has no publication {publication!r}",
            code="publication-missing",
            hint="`keepstream run` makes it at first. If it was dropped since, changes may be lost: "
            f"{BEGIN_ANEW}.",
        )


def named_tables(
    reader: Session, names: Sequence[TableName], *, server: str = "the source"
) -> list[SnapshotTable]:
    """The tables of these names as `reader`'s snapshot shows them; what it does not show is left out.
    `server`: what messages call the one that `reader` is connected to."""
    schemas, tables = [schema for schema, _ in names], [name for _, name in names]
    with wrapped("reading the list of tables"):
        return _read(reader, [oid for (oid,) in reader.execute(_NAMED, [schemas, tables])], server)


def _read(
    reader: Session,
    oids: Sequence[int],
    server: str = "the source",
    *,
    only_logged: bool = False,
    publication: str | None = None,
) -> list[SnapshotTable]:
    """`only_logged`: no unlogged partitions, of which no row is in the stream. `publication`: whose column
    lists and row filters count."""
    values = {"oids": list(oids), "only_logged": only_logged, "publication": publication}
    with wrapped("reading the tables' descriptions"):
        rows = reader.execute(_TABLES, values).fetchall()
        found = {"stored": True, "oids": [row[0] for row in rows]}
        fingerprints: dict[int, str] = dict(reader.execute(_FINGERPRINTS, found).fetchall())
    role = sql.Identifier(reader.info.user).as_string()
    _refuse_hidden([qualified(row[1], row[2]) for row in rows if row[12]], server, role)
    _refuse_unreadable([(row[1], row[2]) for row in rows if row[13] is False], server, role)
    return [_table(*row[:12], fingerprint=fingerprints[row[0]]) for row in rows]


def _table(
    oid: int,
    schema: str,
    name: str,
    columns: list[str],
    type_oids: list[int],
    parent_schemas: list[str],
    parent_names: list[str],
    blocks: int | None,
    size_bytes: int | None,
    rows_estimated: int | None,
    has_list: bool,
    row_filter: str | None,
    *,
    fingerprint: str,
) -> SnapshotTable:
    return SnapshotTable(
        oid=oid,
        schema=schema,
        name=name,
        columns=tuple(columns),
        type_oids=tuple(type_oids),
        ancestors=tuple(zip(parent_schemas, parent_names, strict=True)),
        blocks=blocks or 0,  # None: the table is gone, which the first look at it will find
        size_bytes=size_bytes or 0,
        rows_estimated=rows_estimated,
        fingerprint=fingerprint,
        has_list=has_list,
        row_filter=row_filter,
    )


def _refuse_hidden(tables: Sequence[str], server: str, role: str) -> None:
    if tables:
        raise OperatorNeeded(
            f"row-level security hides rows of {', '.join(tables)} from our role on {server}",
            code=ROW_SECURITY,
            hint=f"Run as a superuser on {server}: alter role {role} bypassrls; or, if our role owns "
            "them there: alter table … no force row level security; or exclude them under "
            "source.tables.exclude.",
        )


def _refuse_unreadable(tables: Sequence[TableName], server: str, role: str) -> None:
    if tables:
        grants = sql.SQL(", ").join(sql.Identifier(*table) for table in tables).as_string()
        raise OperatorNeeded(
            f"our role may not read {', '.join(qualified(*table) for table in tables)} on {server}",
            code="select-denied",
            hint=f"Run as the owner: grant select on {grants} to {role}; or as a superuser: "
            f"grant pg_read_all_data to {role};",
        )


def lock_table(reader: Session, table: SnapshotTable, tick: Tick) -> None:
    """Lock the table against DDL until `reader`'s transaction ends. Waits for DDL that runs now."""
    statement = sql.SQL("lock table only {} in access share mode").format(sql.Identifier(*table.table_name))
    with wrapped(f"locking {table.qualified_name}"):
        try:
            run_query(reader, statement.as_string(), tick)
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as exc:
            raise _changed(table) from exc
        except psycopg.errors.WrongObjectType as exc:
            raise _changed(table) from exc


class Observer:
    """A session beside those that read: it sees today's catalog, and connects again when it was lost.

    May be used from several threads.
    """

    def __init__(self, conninfo: str, *, purpose: str) -> None:
        self._conninfo = conninfo
        self._purpose = purpose
        self._lock = threading.Lock()
        self._session: Session | None = None

    @property
    def session(self) -> Session:
        """Raises RetryLater, LoginRefused as `connect` does."""
        with self._lock:
            if self._session is None or self._session.closed:
                self._session = connect(self._conninfo, purpose=self._purpose)
            return self._session

    def require_unchanged(self, table: SnapshotTable) -> None:
        """Raises TableChanged (`table-changed`) unless the table is as its snapshot shows it. Final only
        while the caller holds a lock on the table."""
        with wrapped(f"looking at {table.qualified_name}"):
            now = self.session.execute(_FINGERPRINTS, {"stored": False, "oids": [table.oid]}).fetchone()
        if now is None or now[1] != table.fingerprint:
            raise _changed(table)

    def close(self) -> None:
        with self._lock:
            if self._session is not None:
                self._session.close()


def _changed(table: SnapshotTable) -> TableChanged:
    error = TableChanged(
        f"{table.qualified_name} was dropped, renamed, altered, truncated or rewritten after the snapshot "
        "was taken",
        code="table-changed",
    )
    error.table = table.table_name
    return error
