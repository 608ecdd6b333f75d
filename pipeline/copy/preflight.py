"""What can be known to fail later fails here, before anything is made."""

from __future__ import annotations

from collections.abc import Sequence

from connectors.postgres.catalog import source_schema
from connectors.postgres.catalog.publication import TableName, read_publication
from connectors.postgres.copy.snapshot_tables import (
    SnapshotTable,
    named_tables,
    published_tables,
)
from connectors.postgres.ddl import rights_now
from connectors.postgres.limits.sent import ColumnLists, lists_in
from connectors.postgres.pgtools import PgTools, find_pgtools
from connectors.postgres.replica import leftovers
from connectors.postgres.replica.prepared import find_targets, require_types
from connectors.postgres.session import Session
from pipeline.config import Initial
from pipeline.copy.options import CopyOptions
from schemas.errors import OperatorNeeded
from schemas.identifiers import qualified


def require_copyable(
    options: CopyOptions, *, source: Session, replica: Session, replica_role: bool
) -> Sequence[TableName]:
    """The prepared tables that will be filled; none where the copy makes them, or copies nothing.

    Raises OperatorNeeded, or RetryLater where a role is awaited, with what mends it, if the copy cannot
    succeed; never writes.
    """
    if options.initial is Initial.NONE:
        tables, lists = _replicated(options, source)
        require_types(source, replica, tables, lists, replica_role=replica_role)
        return ()
    _require_encoding(source, replica)
    copied = tables_to_copy(options, source)
    if options.initial is Initial.DATA:
        return list(find_targets(source, replica, copied, replica_role=replica_role).values())
    facts = source_schema.read_source_schema(source)
    source_schema.require_extensions(replica, facts.extensions)
    source_schema.require_roles(replica, facts.policy_roles)
    if rights_now.wanted(options.policies):
        there = rights_now.read_rights(source)
        rights_now.require_roles(replica, there, options.policies, replica=options.replica)
    tools_for(options, source)
    return ()


def require_empty(options: CopyOptions, replica: Session, targets: Sequence[TableName]) -> None:
    """Raises OperatorNeeded (`replica-not-empty`) where rows or objects stand in the copy's way."""
    if options.initial is Initial.COPY:
        _refuse_objects(leftovers.user_objects(replica))
    _refuse_filled(leftovers.filled_tables(replica, targets))


def tables_to_copy(options: CopyOptions, reader: Session) -> list[SnapshotTable]:
    """The tables whose rows are copied, as `reader` sees publication and catalog; each leaf of a partitioned
    one for itself."""
    if options.publication is not None:
        published = published_tables(reader, options.publication)
        return [stored for table in published for stored in table.stored]
    return named_tables(reader, options.tables)


def _replicated(options: CopyOptions, source: Session) -> tuple[list[int], ColumnLists]:
    """The OIDs of the tables that nobody copies: they need not be readable. And their column lists."""
    if options.publication is None:
        return [table.oid for table in named_tables(source, options.tables)], {}
    publication = read_publication(source, options.publication)
    oids = [] if publication is None else [table.oid for table in publication.tables]
    return oids, lists_in(publication)


def tools_for(options: CopyOptions, source: Session) -> PgTools:
    """Raises OperatorNeeded (`pg-dump-too-old`, `pg-dump-without-tls`)."""
    connections = [options.source_conninfo, options.replica_conninfo]
    return find_pgtools(major_of(source), connections=connections, configured=options.pg_bin)


def major_of(session: Session) -> int:
    """The server's major version, 18."""
    return session.info.server_version // 10000


def _require_encoding(source: Session, replica: Session) -> None:
    theirs, ours = (_encoding(session) for session in (source, replica))
    if ours not in (theirs, "UTF8"):
        raise OperatorNeeded(
            f"the replica's encoding is {ours}, the source's is {theirs}",
            code="encoding-differs",
            hint="Make the replica's database anew: create database … encoding 'UTF8' template template0;",
        )


def _encoding(session: Session) -> str:
    return session.info.parameter_status("server_encoding") or ""


def _refuse_objects(objects: Sequence[leftovers.UserObject]) -> None:
    if objects:
        more = f" and {len(objects) - 1} more" if len(objects) > 1 else ""
        raise OperatorNeeded(
            f"the replica is not empty: it has {objects[0]}{more}",
            code="replica-not-empty",
            hint="Name an empty database, or drop what is there; or set `initial: data` if only rows are "
            "missing, `initial: none` if all is there and equal.",
        )


def _refuse_filled(tables: Sequence[TableName]) -> None:
    if tables:
        more = f" and {len(tables) - 1} more tables" if len(tables) > 1 else ""
        raise OperatorNeeded(
            f"the replica has rows in {qualified(*tables[0])}{more}",
            code="replica-not-empty",
            hint="With `initial: data` the tables to be replicated must be empty: run the TRUNCATE that"
            " `keepstream check` prints; or set `initial: none` if they are equal to the source's.",
        )
