"""The source's tables as its catalog shows them: which can be published, and what would go wrong.

Everything here is readable by any role. The catalog tells of *now*: rows in the stream are decoded
with the Relation message that came with them, never with this.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

from connectors.postgres.session import Session, wrapped
from schemas.identifiers import qualified
from schemas.table import ReplicaIdentity

OWN_SCHEMA: Final = "keepstream"
"""Of every replica, where a source's tables of that name would get among ours."""
_OF_REPLICAS: Final = (
    *("progress", "audit", "deferred_ddl", "copy_run", "copy_part"),
    *("schema_waits", "schema_left_out"),
)
_OF_SOURCES: Final = ("schema_key", "schema_settings", "schema_state")
_OWN_TABLES: Final = (*_OF_REPLICAS, *_OF_SOURCES)
"""A source may be a replica, too."""


class TableKind(Enum):
    """pg_class.relkind."""

    TABLE = "r"
    PARTITIONED = "p"
    FOREIGN = "f"
    MATERIALIZED_VIEW = "m"


@dataclass(frozen=True, slots=True)
class UniqueIndex:
    """A unique index. `usable`: it can be a replica identity, being valid, immediate, whole and on
    columns that are NOT NULL and not generated."""

    name: str
    primary: bool
    chosen: bool
    usable: bool
    deferrable: bool
    generated: bool
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """One table, of any kind but temporary.

    extension: the extension that made it, if one did.
    row_security: policies exist and would hide rows from *our* role in a copy or a comparison (the
        stream itself carries all rows); our sessions then raise instead (row_security is off).
    readable: we may select from it. owned: we may alter it.
    estimated_rows is None if it was never analysed; estimated_bytes includes TOAST, no indexes.
    unsent_columns: stored generated columns that the publication asked about does not send, where the
        server could (PostgreSQL 18).
    listed, filtered_by: the columns that this publication lists of it, and those that its row filter uses;
        None: it has no such limit.
    root, parent: OIDs of the partitioned tables at the top, and right above it, that it is a partition of; 0
        if it is none.
    partitions: of a partitioned table that is at the top, those with rows of their own. Its size, and
        whether we may read it, are theirs.
    """

    oid: int
    schema: str
    name: str
    kind: TableKind
    unlogged: bool
    owner: str
    replica_identity: ReplicaIdentity
    extension: str | None
    row_security: bool
    readable: bool
    owned: bool
    estimated_rows: int | None
    estimated_bytes: int
    unsent_columns: int
    virtual_columns: int
    root: int
    parent: int
    listed: tuple[str, ...] | None
    filtered_by: tuple[str, ...] | None
    unique_indexes: tuple[UniqueIndex, ...]
    partitions: tuple[Table, ...] = ()

    @property
    def is_limited(self) -> bool:
        """Whether the publication sends some of its columns or rows only."""
        return self.listed is not None or self.filtered_by is not None

    @property
    def qualified_name(self) -> str:
        """`schema.name`, for messages and reports, as `qualified` has it; not SQL."""
        return qualified(self.schema, self.name)

    @property
    def uncarried_reason(self) -> str | None:
        """Why no row of it can ever be in the stream; None if they can. A partitioned table has no
        rows of its own."""
        if self.schema == OWN_SCHEMA:
            return f"in schema {OWN_SCHEMA}, which is Keepstream's own on every replica"
        if self.kind is TableKind.FOREIGN:
            return "foreign table"
        if self.kind is TableKind.MATERIALIZED_VIEW:
            return "materialized view"
        return "unlogged table" if self.unlogged else None

    @property
    def identity_columns(self) -> tuple[str, ...]:
        """The columns that identify a row in the stream; () under FULL or if nothing does."""
        index = self._identity_index
        return index.columns if index is not None and index.usable else ()

    @property
    def identity_problem(self) -> str | None:
        """Why an UPDATE or DELETE of this table would fail in the application, or arrive without a key,
        if it were published now; None if it is safe."""
        return self._own_identity_problem or next(filter(None, map(self._unlike, self.partitions)), None)

    @property
    def writes_fail(self) -> bool:
        """Of one with an `identity_problem`: whether PostgreSQL refuses its UPDATE and DELETE while it is
        published; else they come, and replicas cannot tell of which rows."""
        if self._own_identity_problem is None:
            return any(each.writes_fail for each in self.partitions)
        index = self._identity_index
        if index is None or index.deferrable or not index.generated:
            return True
        return self.unsent_columns > 0 or not set(index.columns) <= set(self.listed or index.columns)

    def _unlike(self, partition: Table) -> str | None:
        """A row's key comes as its partition has it, and is read as this table has it."""
        where, own = f"partition {partition.qualified_name}", partition._own_identity_problem
        if own is not None:
            return f"{where}: {own}"
        if partition.replica_identity is ReplicaIdentity.FULL:
            return None
        if self.replica_identity is ReplicaIdentity.FULL:
            return f"{where} has not replica identity full, as the whole table has it"
        if set(self.identity_columns) <= set(partition.identity_columns):
            return None
        return f"{where} is identified by other columns: {', '.join(partition.identity_columns)}"

    @property
    def _own_identity_problem(self) -> str | None:
        if self.replica_identity is ReplicaIdentity.FULL:
            problem = self.full_problem
            return None if problem is None else f"replica identity full with {problem}"
        if self.replica_identity is ReplicaIdentity.NOTHING:
            return "replica identity nothing"
        index = self._identity_index
        if index is None:
            chosen = self.replica_identity is ReplicaIdentity.INDEX
            return "the index of its replica identity is gone" if chosen else "no primary key"
        if index.usable:
            return self._limit_problem(index)
        what = "primary key" if index.primary else f"index {index.name}"
        return f"{what} {_reason(index)}"

    @property
    def full_problem(self) -> str | None:
        """That for which REPLICA IDENTITY FULL does not help either: it makes every UPDATE of a published
        table fail that has a column list, and since PostgreSQL 18 also of one with generated columns that
        the publication does not send."""
        if self.listed is not None:
            return "a column list in the publication"
        if self.virtual_columns:
            return "virtual generated columns"
        if self.unsent_columns:
            return "generated columns that the publication does not send"
        return None

    @property
    def usable_indexes(self) -> tuple[UniqueIndex, ...]:
        """What REPLICA IDENTITY USING INDEX would take."""
        return tuple(
            index for index in self.unique_indexes if index.usable and self._limit_problem(index) is None
        )

    def _limit_problem(self, index: UniqueIndex) -> str | None:
        """Why the publication's list or filter does not go with this index as replica identity."""
        lacking = [name for name in index.columns if self.listed is not None and name not in self.listed]
        if lacking:
            return f"the publication's column list lacks {', '.join(lacking)} of its replica identity"
        others = [name for name in self.filtered_by or () if name not in index.columns]
        if others:
            return f"the publication's row filter uses {', '.join(others)}, not in its replica identity"
        return None

    @property
    def _identity_index(self) -> UniqueIndex | None:
        by_primary_key = self.replica_identity is ReplicaIdentity.DEFAULT
        for index in self.unique_indexes:
            if index.primary if by_primary_key else index.chosen:
                return index
        return None


def _reason(index: UniqueIndex) -> str:
    if index.deferrable:
        return "is deferrable"
    return "contains a generated column" if index.generated else "is not valid"


_NOT_OURS: Final = """
       n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
       and not (n.nspname = %(own)s and c.relname = any (%(own_tables)s))
"""
# A row filter's node tree names its columns by their numbers.
_TABLES: Final = rf"""
    select c.oid::bigint, n.nspname, c.relname, c.relkind, c.relpersistence = 'u',
           pg_get_userbyid(c.relowner), c.relreplident,
           (select e.extname from pg_depend d join pg_extension e on e.oid = d.refobjid
             where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
               and d.refclassid = 'pg_extension'::regclass),
           row_security_active(c.oid),
           has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select'),
           pg_has_role(c.relowner, 'usage'),
           nullif(greatest(c.reltuples, -1), -1)::bigint,
           (c.relpages::bigint + coalesce(t.relpages, 0)) * current_setting('block_size')::bigint,
           (select count(*) from pg_attribute a, pg_publication p
             where a.attrelid = c.oid and a.attgenerated = 's' and p.pubname = %(publication)s
               and to_jsonb(p) ->> 'pubgencols' in ('n', 'false')),
           (select count(*) from pg_attribute a where a.attrelid = c.oid and a.attgenerated = 'v'),
           case when c.relispartition then coalesce(pg_partition_root(c.oid)::oid, 0) else 0 end::bigint,
           case when c.relispartition then coalesce(
               (select i.inhparent from pg_inherits i where i.inhrelid = c.oid), 0) else 0 end::bigint,
           case when r.prattrs is not null then (
               select array_agg(a.attname::text order by a.attnum) from pg_attribute a
                where a.attrelid = c.oid and a.attnum = any (r.prattrs::int2[])) end,
           case when r.prqual is not null then (
               select array_agg(a.attname::text order by a.attnum) from pg_attribute a
                where a.attrelid = c.oid and a.attnum in (
                    select used[1]::int from regexp_matches(r.prqual::text, ':varattno (\d+)', 'g') used)) end
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
      left join pg_class t on t.oid = c.reltoastrelid
      left join pg_publication_rel r
        on r.prrelid = c.oid and r.prpubid = (select p.oid from pg_publication p
                                               where p.pubname = %(publication)s)
     where c.relkind in ('r', 'p', 'f', 'm') and c.relpersistence <> 't' and {_NOT_OURS}
       and (%(oid)s::oid is null or c.oid = %(oid)s::oid
            or c.relispartition and pg_partition_root(c.oid) = %(oid)s::oid)
     order by n.nspname, c.relname
"""  # noqa: S608 - constants
_INDEXES: Final = f"""
    select i.indrelid::bigint, x.relname, i.indisprimary, i.indisreplident,
           i.indisvalid and i.indimmediate and i.indpred is null and i.indexprs is null
               and bool_and(a.attnotnull and a.attgenerated = ''),
           not i.indimmediate, bool_or(a.attgenerated <> ''),
           array_agg(a.attname::text order by k.position)
      from pg_index i
      join pg_class x on x.oid = i.indexrelid
      join pg_class c on c.oid = i.indrelid
      join pg_namespace n on n.oid = c.relnamespace
      cross join lateral unnest(i.indkey::int2[]) with ordinality as k(attnum, position)
      join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
     where i.indisunique and k.position <= i.indnkeyatts and {_NOT_OURS}
       and (%(oid)s::oid is null or c.oid = %(oid)s::oid
            or c.relispartition and pg_partition_root(c.oid) = %(oid)s::oid)
     group by i.indrelid, i.indexrelid, x.relname
     order by i.indisprimary desc, x.relname
"""  # noqa: S608 - constants


def list_tables(session: Session, *, publication: str) -> tuple[Table, ...]:
    """Every table of the database, by name, but temporary ones, PostgreSQL's and Keepstream's own.
    `publication` publishes them, or would: it need not be there."""
    return _tables(session, None, publication)


def find_table(session: Session, oid: int, *, publication: str) -> Table | None:
    """One of those tables; None if it is gone or is none of them."""
    return next((table for table in _tables(session, oid, publication) if table.oid == oid), None)


def _tables(session: Session, oid: int | None, publication: str) -> tuple[Table, ...]:
    own = {"own": OWN_SCHEMA, "own_tables": list(_OWN_TABLES)}
    parameters = {**own, "oid": oid, "publication": publication}
    with wrapped("reading the catalog's tables"):
        rows = session.execute(_TABLES, parameters).fetchall()
        indexes = _by_table(session.execute(_INDEXES, parameters).fetchall())
    found = [_table(row, tuple(indexes[row[0]])) for row in rows]
    partitions = defaultdict[int, list[Table]](list)
    for table in found:
        if table.root and table.kind is TableKind.TABLE:
            partitions[table.root].append(table)
    return tuple(_whole(table, partitions[table.oid]) for table in found)


def _whole(table: Table, partitions: Sequence[Table]) -> Table:
    """A partitioned table at the top with what its partitions make of it."""
    if table.kind is not TableKind.PARTITIONED or table.root:
        return table
    sizes = [partition.estimated_rows for partition in partitions]
    return replace(
        table,
        row_security=table.row_security or any(each.row_security for each in partitions),
        readable=table.readable and all(each.readable for each in partitions),
        estimated_rows=None if None in sizes else sum(size or 0 for size in sizes),
        estimated_bytes=sum(each.estimated_bytes for each in partitions),
        partitions=tuple(partitions),
    )


def _table(row: tuple[Any, ...], indexes: tuple[UniqueIndex, ...]) -> Table:
    kind, unlogged, owner, identity = row[3:7]
    values = (
        *row[:3],
        TableKind(kind),
        unlogged,
        owner,
        ReplicaIdentity(identity),
        *row[7:-2],
        *(None if names is None else tuple(names) for names in row[-2:]),
        indexes,
    )
    return Table(*values)


def _by_table(rows: Iterable[tuple[Any, ...]]) -> defaultdict[int, list[UniqueIndex]]:
    indexes: defaultdict[int, list[UniqueIndex]] = defaultdict(list)
    for row in rows:
        values = (*row[1:-1], tuple(row[-1]))
        indexes[row[0]].append(UniqueIndex(*values))
    return indexes


@dataclass(frozen=True, slots=True)
class CatalogColumn:
    """A column as the catalog has it. `type_name` is format_type()'s. `identity`: `a` always, `d` by
    default, else ''. `generated`: `s` stored, `v` virtual, else ''. `default`: its SQL expression;
    None for a generated column, too. `missing`: PostgreSQL's text of the value that rows from before
    ADD COLUMN have, where `has_missing`. `collation`: its name as SQL; None for its type's own. `base_oid`:
    of the type below a domain; None where that was not read."""

    number: int
    name: str
    type_oid: int
    type_modifier: int
    type_name: str
    not_null: bool
    identity: str
    generated: str
    default: str | None
    has_missing: bool
    missing: str | None
    collation: str | None = None
    base_oid: int | None = None


# attmissingval is an anyarray of one element; its text is taken out of the array's, whatever the element's
# type: not every type's arrays are delimited by commas. A default names no columns; without the table,
# pg_get_expr does not wait for whoever has that locked. A generated column's expression does.
_COLUMNS: Final = r"""
    select a.attnum, a.attname, a.atttypid::bigint, a.atttypmod, format_type(a.atttypid, a.atttypmod),
           a.attnotnull, a.attidentity, a.attgenerated,
           case when a.attgenerated = '' then pg_get_expr(d.adbin, 0) end, a.atthasmissing,
           case when held.text like '{"%%'
                then regexp_replace(substr(held.text, 3, length(held.text) - 4), '\\(.)', '\1', 'g')
                else substr(held.text, 2, length(held.text) - 2) end,
           case when a.attcollation <> t.typcollation then a.attcollation::regcollation::text end
      from pg_attribute a
      join pg_type t on t.oid = a.atttypid
      cross join lateral (select a.attmissingval::text as text) held
      left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
     where a.attrelid = %s and a.attnum > 0 and not a.attisdropped
     order by a.attnum
"""


def read_columns(session: Session, oid: int) -> tuple[CatalogColumn, ...]:
    """The columns of one table, in their order; () if it is gone."""
    with wrapped("reading the catalog's columns"):
        rows = session.execute(_COLUMNS, [oid]).fetchall()
    return tuple(CatalogColumn(*row) for row in rows)


def count_large_objects(session: Session) -> int:
    """Large objects in the database; none of them is ever in the stream."""
    with wrapped("counting large objects"):
        row = session.execute("select count(*) from pg_largeobject_metadata").fetchone()
    assert row is not None
    return int(row[0])
