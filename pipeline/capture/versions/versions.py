"""Which version of its table a row has, and whether replicas would read it as the source meant it.

pgoutput describes a table before its first row and again after any DDL on it. Each description is judged
against the log's newest ANCHOR and the catalog before a row of it is in the log: the same table, published by
us, with columns that hold what they held (`check_shape`). Columns that were added are announced in the log
before the first row that has them.

A table that left the publication may be another one by the time its last rows come, which were committed
before: the catalog of now says nothing about them. What the log knows was true of the table when it left
(`protection` looks under its lock), and PostgreSQL describes rows by the catalog of their own time. So such
rows are logged if their columns are those that the log knows. Had a column been added that the log does
not know yet, only a catalog in which the table is still as it was could tell what older rows hold there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from connectors.postgres.catalog.publication import publication_identity
from connectors.postgres.catalog.shape import Shape, read_shape, read_used_types
from connectors.postgres.catalog.tables import CatalogColumn, read_columns
from connectors.postgres.copy.visibility import wait_until_transaction_visible
from connectors.postgres.replication.pgoutput import RelationChanged
from pipeline.capture.ddl.begun import unannounced, version_of
from pipeline.capture.ddl.judging import Name
from pipeline.capture.ddl.looking import VISIBLE_LIMIT_S, shape_difference
from pipeline.capture.entries.announcements import Leave
from pipeline.capture.entries.names import left_tables, logged_tables
from pipeline.capture.entries.partitions import MEMBERS, known_partitions, partition_gone, with_missing
from pipeline.capture.entries.schemachange import added_columns, describe_added, refuse_change
from pipeline.capture.entries.shapes import (
    SHAPES,
    check_order,
    check_shape,
    first_shape,
    listed_columns,
    next_shape,
    with_types,
)
from pipeline.capture.entries.told import Told
from pipeline.capture.history.publication import renamed
from pipeline.capture.opened import OpenCapture
from pipeline.capture.writing.packer import FramePacker
from schemas.change import Change, Operation
from schemas.ddl.message import SchemaMessage
from schemas.entries import Entries
from schemas.errors import BEGIN_ANEW, InternalError, RefusedData
from schemas.table import ReplicaIdentity, TableSchema

logger = logging.getLogger("keepstream.capture")


@dataclass(frozen=True, slots=True)
class Described:
    """What of a described table has a place in the log: it without the columns `left_out`, which a replica
    computes itself, and as it is called there; `name` None: as described."""

    left_out: frozenset[str]
    name: Name | None = None


class TableVersions:
    """The versions of one connection. `xid`: the open transaction, 0 between two; `skipping`: the log has it
    already. The pump tells both."""

    def __init__(
        self,
        capture: OpenCapture,
        packer: FramePacker,
        add: Callable[[Change], None],
        *,
        publication: str,
    ) -> None:
        """`add` puts a change into the open transaction."""
        self.xid = 0
        self.skipping = False
        self._session = capture.sql
        self._chain = capture.chain
        self._tracking = capture.tracking
        self._packer = packer
        self._add = add
        self._publication = publication
        self._described: dict[bytes, tuple[int, TableSchema]] = {}
        self._called: dict[bytes, str] = {}
        self._names = logged_tables(capture.chain.publication)
        self._logged = {table.id for table in capture.live_tables}
        self._newest = {(table.schema, table.name): table for table in capture.live_tables}
        self._seen_xid = 0
        self._identity: tuple[str, ...] = ()

    def described(self, changed: RelationChanged) -> Described:
        """pgoutput's Relation: the same table as before, in perhaps another version. Raises HistoryBroken and
        others where rows of it must not be logged."""
        self._called[changed.table.id] = changed.table.qualified_name
        if self._tracking.is_tracked:
            described = self._described_as_told(changed)
            if described is not None:
                return described
        return Described(self._described_as_found(changed))

    def _described_as_told(self, changed: RelationChanged) -> Described | None:
        """None: it is not as messages told, and nothing is tracked any more.

        The name is that of the newest message: rows from before a schema's new name may come behind it.
        """
        if self.skipping:
            return self._described_again(changed)
        self._check_publication()
        if changed.oid not in self._tracking.told:
            self._tracking.check_publication()
        told = self._tracking.told.get(changed.oid)
        if told is None:
            raise _unpublished(changed.oid)
        table = _named_as_told(changed.table, told)
        if not told.confirms(table):
            self._tracking.end(_differs_from_told(told.qualified_name))
            return None
        self._described[table.id] = changed.oid, table
        self._look_at(told)
        return Described(frozenset(told.generated), told.name)

    def _described_again(self, changed: RelationChanged) -> Described:
        """For rows that the log has. What is told is newer: PostgreSQL describes the table again before rows
        that come behind a change. So one that is not as told is no version of any row to come."""
        told = self._tracking.told.get(changed.oid)
        if told is None:
            return Described(frozenset())
        table = _named_as_told(changed.table, told)
        if not told.confirms(table):
            return Described(frozenset())
        self._described[table.id] = changed.oid, table
        return Described(frozenset(told.generated), told.name)

    def _look_at(self, told: Told) -> None:
        """What differs in the catalog of now is judged by the next look, which need not wait long."""
        shape = self._read_shape(told.oid)
        known = self._chain.publication.of(SHAPES).get(told.oid)
        if shape is not None and known is not None and shape_difference(told.qualified_name, known, shape):
            self._tracking.look_soon()

    def renamed(self, names: Mapping[Name, Name | None]) -> None:
        """A schema message gave tables of the log other names, by the old ones; None: they were dropped."""
        known = {old: self._newest.pop(old) for old in names if old in self._newest}
        for table in known.values():
            self._packer.forget(table)
            self._logged.discard(table.id)
        for old, table in known.items():
            if (new := names[old]) is not None:
                self.know(replace(table, schema=new[0], name=new[1]))

    def follow(self, message: SchemaMessage) -> None:
        """The log knows the columns that a schema message tells before a row has them."""
        for change in message.changes:
            told = self._tracking.told.get(change.oid) if change.class_ == "table" else None
            if told is None or told.joining or change.after is None:
                continue
            previous = self._newest.get(told.name)
            if previous is not None and not told.confirms(previous):
                listed = listed_columns(self._chain.publication, change.oid)
                self.know(version_of(previous, change.after, listed))

    def begin_tracked(self, entries: Entries, message: SchemaMessage) -> None:
        """Behind the message of the event triggers' installation. `entries`: an ANCHOR's, before it."""
        for oid, table, payload in unannounced(entries, message, self._newest):
            self.know(table)
            self._described[table.id] = oid, table
            self._add(Change(Operation.DDL, table.id, payload=payload))

    def is_called(self, oid: int, table: TableSchema) -> None:
        """Rows of this version come without another Relation message."""
        self._described[table.id] = oid, table

    def _described_as_found(self, changed: RelationChanged) -> frozenset[str]:
        oid, table = changed.oid, changed.table
        if self._is_partition(oid, table):
            return frozenset()
        self._require_name(oid, table.qualified_name)
        self._check_publication()
        left = left_tables(self._chain.publication).get(oid)
        if left is not None:
            return self._described_of_left(left, table)
        shape = self._read_shape(oid)
        generated = shape.generated_columns if shape is not None else frozenset()
        table = _without(table, generated)
        self._described[table.id] = oid, table
        try:
            self._check_shape(oid, table, shape)
        except RefusedData as error:
            if not self._is_known(table) or not self._tracking.puts_off(error):
                raise
        return generated

    def _is_partition(self, oid: int, table: TableSchema) -> bool:
        """Whether its rows come under the name of the table at the top, which was described just before."""
        entries = self._chain.publication
        if MEMBERS not in entries or oid in logged_tables(entries):
            return False
        known = entries.of(MEMBERS).get(oid)
        if known is None or known.root == oid:
            self._see_transaction()
            self._tracking.check_publication()
            entries = self._chain.publication
        if oid not in entries.of(MEMBERS):
            self._tracking.locked.require_free(oid)
            raise partition_gone(table.qualified_name, "a published table")
        anchored, shape = entries.of(SHAPES).get(oid), self._read_shape(oid)
        if anchored is not None and shape is not None:
            check_shape(table.qualified_name, anchored, shape)
        return True

    def truncated(self, tables: Iterable[bytes]) -> None:
        """A TRUNCATE of these versions came, be it that the log has it already."""
        for table_id in tables:
            if table_id in self._described:
                self._tracking.truncated(self._described[table_id][0])

    def _is_known(self, table: TableSchema) -> bool:
        """Whether the log has rows of exactly these columns."""
        previous = self._newest.get((table.schema, table.name))
        return (
            previous is not None
            and previous.column_names == table.column_names
            and not added_columns(previous, table)
        )

    def _described_of_left(self, left: Leave, table: TableSchema) -> frozenset[str]:
        table = _without(table, frozenset(left.generated))
        self._described[table.id] = left.oid, table
        previous = self._newest.get((table.schema, table.name))
        if previous is None or added_columns(previous, table):
            self._check_shape(left.oid, table, self._read_shape(left.oid))
        return frozenset(left.generated)

    def introduce(self, table_id: bytes) -> tuple[int, TableSchema]:
        """A row of this version, or a TRUNCATE, comes next: the log knows it from here on. Its OID, too."""
        described = self._described.get(table_id)
        if described is None:
            raise _unconfirmed(self._called[table_id])
        if table_id not in self._logged:
            self._announce(*described)
        return described

    def columns_added(self, oid: int, table: TableSchema) -> None:
        """Here a table has columns that its next row would tell."""
        if self._tracking.is_tracked:
            return
        if table.id not in self._logged and oid not in left_tables(self._chain.publication):
            self._described[table.id] = oid, table
            self._check_shape(oid, table, self._read_shape(oid))
            self._announce(oid, table)

    def know(self, table: TableSchema) -> None:
        """From here on the log holds this version, and later ones are compared with it."""
        self._packer.need(table)
        self._newest[table.schema, table.name] = table
        self._logged.add(table.id)

    def _announce(self, oid: int, table: TableSchema) -> None:
        previous = self._newest.get((table.schema, table.name))
        if previous is not None:
            self._announce_columns(oid, previous, table)
        self.know(table)

    def _announce_columns(self, oid: int, previous: TableSchema, table: TableSchema) -> None:
        if self._tracking.is_tracked:
            return  # a schema message told of them
        added = added_columns(previous, table)
        if not added:
            return
        self._see_transaction()
        catalog = self._read_columns(oid, table)
        self._check_shape(oid, table, self._read_shape(oid))  # no rewrite came before `catalog` was read
        payload = describe_added(previous, table, added, catalog)
        self._packer.need(table)
        self._add(Change(Operation.DDL, table.id, payload=payload))
        self._check_shape(oid, table, self._read_shape(oid), is_announced=True)
        names = ", ".join(column.name for column in added)
        logger.info("columns added", extra={"table": table.qualified_name, "columns": names})

    def _check_publication(self) -> None:
        """P11: after ALTER PUBLICATION pgoutput describes at least the table that it names anew before that
        one's next row: so its rows are never logged over a gap in them. The next look sees the rest."""
        self._see_transaction()
        identity = publication_identity(self._session, self._publication)
        if identity != self._identity:
            self._tracking.check_publication()
            self._identity = identity

    def _require_name(self, oid: int, name: str) -> None:
        """A table that the log does not know under this name joined just now, or somebody else published or
        renamed it (P11)."""
        if self._names.get(oid) == name:
            return
        if oid not in logged_tables(self._chain.publication):
            self._tracking.check_publication()
        self._names = logged_tables(self._chain.publication)
        if oid not in self._names:
            raise _unpublished(oid)
        if self._names[oid] != name:
            raise renamed(self._names[oid], name)

    def _read_shape(self, oid: int) -> Shape | None:
        """None of a table that is gone."""
        self._see_transaction()
        return read_shape(self._session, oid, self._publication)

    def _check_shape(
        self, oid: int, table: TableSchema, shape: Shape | None, *, is_announced: bool = False
    ) -> None:
        """Before the table's next row. `is_announced`: the log tells now what all these columns hold in rows
        from before them."""
        chain = self._chain
        anchored = chain.publication.of(SHAPES).get(oid)
        if shape is not None:
            if anchored is not None:
                check_shape(table.qualified_name, anchored, shape)
            check_order(table.qualified_name, [column.name for column in table.columns], shape)
            if not is_announced and self._tracking.is_behind:
                return
            whole = is_announced and len(table.columns) == len(shape.plain_columns)
            known = first_shape(shape) if whole else next_shape(shape, anchored)
            chain.publication_is(chain.publication.put(SHAPES, known))
            if whole:
                self._announced_below(oid)
        if is_announced:
            types = read_used_types(self._session, self._publication)
            chain.publication_is(with_types(chain.publication, types))

    def _read_columns(self, oid: int, table: TableSchema) -> Mapping[str, CatalogColumn]:
        """By name."""
        partitions = known_partitions(self._chain.publication).values()
        below = [read_columns(self._session, each.oid) for each in partitions if each.root == oid]
        return with_missing(table.qualified_name, read_columns(self._session, oid), below)

    def _announced_below(self, oid: int) -> None:
        """The log tells now what the columns of this table's partitions hold, too."""
        entries = self._chain.publication
        for partition in known_partitions(entries).values():
            shape = self._read_shape(partition.oid) if partition.root == oid else None
            anchored = entries.of(SHAPES).get(partition.oid)
            if shape is not None and anchored is not None:
                check_shape(partition.name, anchored, shape)
                shape = replace(shape, filenode=anchored.filenode)  # of another one the next look judges
                entries = entries.put(SHAPES, first_shape(shape))
        self._chain.publication_is(entries)

    def _see_transaction(self) -> None:
        """The catalog is asked about the open transaction: it must show what that one did."""
        if self.xid and self.xid != self._seen_xid:
            wait_until_transaction_visible(self._session, self.xid, limit_s=VISIBLE_LIMIT_S)
            self._seen_xid = self.xid


def _named_as_told(table: TableSchema, told: Told) -> TableSchema:
    return replace(_without(table, frozenset(told.generated)), schema=told.schema, name=told.table)


def _unpublished(oid: int) -> InternalError:
    return InternalError(f"rows of an unpublished table came: {oid}", code="relation-unknown")


def _differs_from_told(table: str) -> str:
    return f"rows of {table} have other columns than its schema messages told"


def _unconfirmed(table: str) -> RefusedData:
    return RefusedData(
        _differs_from_told(table),
        code="schema-unconfirmed",
        hint=f"The table was altered while an event trigger of the source was disabled or missing. The log"
        f" ends before these rows and stays valid; to go on, {BEGIN_ANEW}.",
    )


def _without(table: TableSchema, generated: frozenset[str]) -> TableSchema:
    """Raises RefusedData (`schema-changed`) where its rows could not be told apart then."""
    places = [i for i, column in enumerate(table.columns) if column.name in generated]
    if table.replica_identity is not ReplicaIdentity.FULL and any(table.columns[i].key for i in places):
        raise refuse_change(table.qualified_name, "its replica identity has a generated column")
    return table.without(places)
