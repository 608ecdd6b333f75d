"""That no UPDATE or DELETE fails in the application because of a list or filter that we make."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from connectors.postgres.catalog.publication import (
    TableName,
    add_tables,
    create_publication,
    read_publication,
    read_row_filters,
)
from connectors.postgres.catalog.tables import Table, TableKind, list_tables
from connectors.postgres.limits.limit import Limit
from connectors.postgres.limits.unfit import require_fit_columns
from connectors.postgres.limits.unsent import read_toastable
from connectors.postgres.session import Session, wrapped
from schemas.errors import OperatorNeeded
from schemas.identifiers import qualified
from schemas.table import ReplicaIdentity

LOCK_WAIT: Final = "set local lock_timeout = '1s'"


def require_harmless(
    session: Session,
    publication: str,
    tables: Collection[TableName],
    *,
    make_full: Collection[TableName] = (),
) -> None:
    """In the transaction that published these. `make_full`: they are judged as with REPLICA IDENTITY FULL,
    which they are to get. Raises OperatorNeeded (`limit-unfit`)."""
    require_fit_columns(session, publication, tables)
    for table in list_tables(session, publication=publication):
        if (table.schema, table.name) in make_full:
            table = replace(table, replica_identity=ReplicaIdentity.FULL)
        if (table.schema, table.name) in tables and table.kind is TableKind.PARTITIONED:
            raise OperatorNeeded(
                f"{table.qualified_name} is partitioned and followed as a whole: that is all of it",
                code="limit-unfit",
                hint="Take it out of source.tables.limits; or set `source.partitions: leaves` and name"
                " partitions.",
            )
        if (table.schema, table.name) in tables and table.identity_problem is not None:
            raise OperatorNeeded(
                f"with what source.tables.limits says of {table.qualified_name}, its UPDATE and DELETE would"
                f" fail in the application: {table.identity_problem}",
                code="limit-unfit",
                hint="Let it have a key (or another replica identity) of columns that are listed, and let"
                " `where` use no others; or, without `columns`, give it REPLICA IDENTITY FULL.",
            )


def require_addable(session: Session, publication: str, name: TableName, limit: Limit) -> None:
    """As PostgreSQL would add this table, which is to get REPLICA IDENTITY FULL: tried in a transaction that
    is rolled back. Raises as `preview`."""
    with session.transaction(force_rollback=True):
        with wrapped(f"trying to add {qualified(*name)} to publication {publication}"):
            session.execute(LOCK_WAIT)
        add_tables(session, publication, [name], {name: limit})
        require_harmless(session, publication, [name], make_full=[name])


@dataclass(frozen=True, slots=True)
class Preview:
    """Of one table as it would be published. `toastable`: see `read_toastable`."""

    table: Table
    limit: Limit
    toastable: tuple[str, ...]


def preview(
    session: Session, name: TableName, limit: Limit, *, by_root: bool, make_full: bool = False
) -> Preview | None:
    """As PostgreSQL would publish this table, which is ours: tried in a transaction that is rolled back.
    `make_full`: it is to get REPLICA IDENTITY FULL before. None: it has gone.

    Raises OperatorNeeded (`limit-refused`, `limit-unfit`, `privilege-missing`), RetryLater (`lock-timeout`).
    """
    limits, tried = {name: limit}, f"keepstream_preview_{secrets.token_hex(8)}"
    with session.transaction(force_rollback=True):
        with wrapped("trying source.tables.limits"):
            session.execute(LOCK_WAIT)
        create_publication(session, tried, list(limits), by_root=by_root, limits=limits)
        require_harmless(session, tried, limits, make_full=limits if make_full else ())
        toastable = read_toastable(session, tried)
        read = read_limits(session, tried)
        for table in list_tables(session, publication=tried):
            if (table.schema, table.name) == name and name in read:
                return Preview(table, read[name], toastable.get(table.oid, ()))
    return None


def read_limits(session: Session, publication: str) -> dict[TableName, Limit]:
    """As the publication has its tables. Waits for whoever has a filtered one locked."""
    found, filters = read_publication(session, publication), read_row_filters(session, publication)
    return {
        (table.schema, table.name): Limit(table.columns, filters.get((table.schema, table.name)))
        for table in (found.tables if found is not None else ())
    }
