"""A published table's replica identity, without which its UPDATE and DELETE fail in the application: the SQL
that gives it one."""

from __future__ import annotations

from psycopg import sql

from connectors.postgres.catalog.publication import WRITERS_WAIT_MS, TableName, drop_table_sql
from connectors.postgres.catalog.tables import Table
from connectors.postgres.session import Session, wrapped
from schemas.identifiers import qualified
from schemas.table import ReplicaIdentity


def full_identity_sql(table: TableName) -> str:
    """The statement that makes every column of a table its replica identity (`keyless: full`)."""
    return sql.SQL("alter table only {} replica identity full").format(sql.Identifier(*table)).as_string()


def index_identity_sql(table: TableName, index: str) -> str:
    """The statement that makes an index, given as SQL, a table's replica identity."""
    return f"alter table only {sql.Identifier(*table).as_string()} replica identity using index {index};"


def full_identity_of(table: Table) -> str:
    """The same for a table with its partitions."""
    return " ".join(f"{full_identity_sql(name)};" for name in _without_full(table))


def _without_full(table: Table) -> list[TableName]:
    """It, and those of its partitions that have another replica identity."""
    others = (each for each in table.partitions if each.replica_identity is not ReplicaIdentity.FULL)
    return [(each.schema, each.name) for each in (table, *others)]


def set_full_identity(session: Session, table: Table) -> None:
    """Run it on a session in autocommit. The application's statements never wait long behind ours: raises
    RetryLater (`lock-timeout`) where the table is in use all the time."""
    for name in _without_full(table):
        with wrapped(f"setting the replica identity of {qualified(*name)}"), session.transaction():
            session.execute(f"set local lock_timeout = {WRITERS_WAIT_MS}")
            session.execute(full_identity_sql(name).encode())


def identity_sql(table: Table) -> str | None:
    """The statement that makes UPDATE and DELETE of a published table work again in the application; None if
    it has neither a usable index nor can have REPLICA IDENTITY FULL."""
    if table.full_problem is None:
        return full_identity_of(table)
    for index in table.usable_indexes:
        return index_identity_sql((table.schema, table.name), sql.Identifier(index.name).as_string())
    return None


def identity_remedy(table: Table, publication: str) -> str:
    """The same with words for the tables that have none."""
    statement = identity_sql(table)
    if statement is not None:
        return statement
    return (
        "Give it a primary key, or a unique index on NOT NULL columns and:"
        f" {index_identity_sql((table.schema, table.name), '…')} at once, at the price of beginning anew with"
        f" Keepstream: {drop_table_sql(publication, (table.schema, table.name))};"
    )
