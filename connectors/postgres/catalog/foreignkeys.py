"""Foreign keys as the source's catalog has them, with the SQL that makes them again elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from psycopg import sql

from connectors.postgres.catalog.publication import TableName
from connectors.postgres.partitions.below import with_partitions
from connectors.postgres.session import Session, wrapped
from schemas.identifiers import qualified
from schemas.join import JoinKey, JoinKeys


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """`statement` makes it again, on a database with the same tables. `inherited`: it is a partition's, from
    its parent."""

    oid: int
    table: TableName
    name: str
    referenced: TableName
    statement: str
    inherited: bool = False

    def __str__(self) -> str:
        return qualified(*self.table, self.name)


_ALL: Final = """
    select k.oid, n.nspname, c.relname, k.conname, c.relkind, fn.nspname, fc.relname,
           pg_catalog.pg_get_constraintdef(k.oid), k.conparentid <> 0
      from pg_catalog.pg_constraint k
      join pg_catalog.pg_class c on c.oid = k.conrelid
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
      join pg_catalog.pg_class fc on fc.oid = k.confrelid
      join pg_catalog.pg_namespace fn on fn.oid = fc.relnamespace
     where k.contype = 'f'
"""
_ORDER: Final = " order by n.nspname, c.relname, k.conname"

# A partitioned table has rows as soon as one of its partitions is published, and they as soon as it is.
_PUBLISHED: Final = (
    sql.SQL("""
    select distinct a.relid
      from pg_catalog.pg_publication p
      join pg_catalog.pg_publication_rel r on r.prpubid = p.oid
     cross join lateral (
               select pg_partition_ancestors(r.prrelid)::oid
                union {tree}) a (relid)
     where p.pubname = %(publication)s
""")
    .format(tree=with_partitions("select r.prrelid"))
    .as_string()
)
# A partition's copy of its parent's key counts for itself; the copies that a key to a partitioned table has
# for each partition there do not.
_GIVEN: Final = """(k.conparentid = 0 or c.relispartition and exists (
         select from pg_catalog.pg_constraint up
          where up.oid = k.conparentid and up.conrelid <> k.conrelid))"""
_OWN: Final = f"""{_ALL} and k.conrelid = %(table)s::oid and {_GIVEN}
     and (k.confrelid = k.conrelid or k.confrelid in ({_PUBLISHED})) = %(published)s{_ORDER}"""
_AWAITED: Final = f"""{_ALL} and {_GIVEN} and k.conrelid <> k.confrelid
     and (k.confrelid = %(table)s::oid or k.confrelid in (select pg_partition_ancestors(%(table)s::oid)))
     and k.conrelid in ({_PUBLISHED}){_ORDER}"""


def read_foreign_keys(session: Session) -> tuple[ForeignKey, ...]:
    """All of the database; those of partitions that their parents gave them are not among them."""
    with wrapped("reading foreign keys"):
        return tuple(
            _foreign_key(*row) for row in session.execute(f"{_ALL} and k.conparentid = 0{_ORDER}".encode())
        )


def read_keys_of(session: Session, table: int, publication: str) -> JoinKeys:
    """Those that the table with this OID, which is about to be published, has a part in."""
    values = {"table": table, "publication": publication}

    def read(query: str, **more: bool) -> tuple[JoinKey, ...]:
        found = [_foreign_key(*row) for row in session.execute(query.encode(), values | more)]
        return tuple(
            JoinKey(str(key), qualified(*key.referenced), key.statement, inherited=key.inherited)
            for key in found
        )

    with wrapped("reading a table's foreign keys"):
        return JoinKeys(read(_OWN, published=True), read(_OWN, published=False), read(_AWAITED))


def _foreign_key(
    oid: int,
    schema: str,
    table: str,
    name: str,
    kind: str,
    to_schema: str,
    to_table: str,
    definition: str,
    inherited: bool,
) -> ForeignKey:
    statement = sql.SQL("alter table {}{} add constraint {} {}").format(
        sql.SQL("" if kind == "p" else "only "),
        sql.Identifier(schema, table),
        sql.Identifier(name),
        sql.SQL(definition),  # PostgreSQL wrote it
    )
    referenced = (to_schema, to_table)
    return ForeignKey(oid, (schema, table), name, referenced, f"{statement.as_string()};", inherited)
