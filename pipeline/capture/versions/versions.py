"""Which version of its table a row has, and whether replicas would read it as the source meant it.

pgoutput describes a table before its first row and again after any DDL on it. Each description is judged
against the log's newest ANCHOR and the catalog before a row of it is in the log: the same table, published by
us, with columns that hold what they held (`check_shape`). Columns that were added are announced in the log
before the first row that has them.

A table that left the publication may be another one by the time its last rows come, which were committed
before: the catalog of now says nothing about them. What the log knows was true of the table when it left
(`joins/protection` looks under its lock), and PostgreSQL describes rows by the catalog of their own time. So
such rows are logged if their columns are those that the log knows. Had a column been added that the log does
not know yet, only a catalog in which the table is still as it was could tell what older rows hold there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from connectors.postgres.replication.pgoutput import RelationChanged
from pipeline.capture.ddl.begun import unannounced, version_of
from pipeline.capture.ddl.judging import Name
from pipeline.capture.ddl.looking import shape_difference
from pipeline.capture.entries.announcements import Leave
from pipeline.capture.entries.names import left_tables, logged_tables
from pipeline.capture.entries.partitions import MEMBERS, partition_gone
from pipeline.capture.entries.schemachange import added_columns, describe_added, refuse_change
from pipeline.capture.entries.shapes import SHAPES, check_shape, listed_columns
from pipeline.capture.entries.told import Told
from pipeline.capture.history.publication import renamed
from pipeline.capture.opened import OpenCapture
from pipeline.capture.versions.catalog import Catalog
from pipeline.capture.versions.known import KnownVersions
from pipeline.capture.writing.packer import FramePacker
from schemas.change import Change, Operation
from schemas.ddl.message import SchemaMessage
from schemas.entries import Entries
from schemas.errors import BEGIN_ANEW, InternalError, RefusedData
from schemas.table import TableSchema

logger = logging.getLogger("keepstream.capture")


@dataclass(frozen=True, slots=True)
class Described:
    """What of a described table has a place in the log: it without the columns `left_out`, which a replica
    computes itself, and as it is called there; `name` None: as described."""

    left_out: frozenset[str]
    name: Name | None = None


class TableVersions:
    """Of one connection. `known`: those that the log holds."""

    def __init__(
        self,
        capture: OpenCapture,
        packer: FramePacker,
        add: Callable[[Change], None],
        *,
        publication: str,
    ) -> None:
        """`add` puts a change into the open transaction."""
        self.known = KnownVersions(packer, capture.live_tables)
        self._skipping = False
        self._catalog = Catalog(capture, publication)
        self._chain = capture.chain
        self._tracking = capture.tracking
        self._packer = packer
        self._add = add
        self._described: dict[bytes, tuple[int, TableSchema]] = {}
        self._called: dict[bytes, str] = {}
        self._names = logged_tables(capture.chain.publication)

    def begin(self, xid: int, *, skipping: bool) -> None:
        """A transaction begins. `skipping`: the log has it already."""
        self._catalog.xid, self._skipping = xid, skipping

    def end(self) -> None:
        """It ended."""
        self._catalog.xid, self._skipping = 0, False

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
        if self._skipping:
            return self._described_again(changed)
        self._catalog.check_publication()
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
        shape = self._catalog.shape(told.oid)
        known = self._chain.publication.of(SHAPES).get(told.oid)
        if shape is not None and known is not None and shape_difference(told.qualified_name, known, shape):
            self._tracking.look_soon()

    def follow(self, message: SchemaMessage) -> None:
        """The log knows the columns that a schema message tells before a row has them."""
        for change in message.changes:
            told = self._tracking.told.get(change.oid) if change.class_ == "table" else None
            if told is None or told.joining or change.after is None:
                continue
            previous = self.known.newest.get(told.name)
            if previous is not None and not told.confirms(previous):
                listed = listed_columns(self._chain.publication, change.oid)
                self.known.add(version_of(previous, change.after, listed))

    def begin_tracked(self, entries: Entries, message: SchemaMessage) -> None:
        """Behind the message of the event triggers' installation. `entries`: an ANCHOR's, before it."""
        for oid, table, payload in unannounced(entries, message, self.known.newest):
            self.known.add(table)
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
        self._catalog.check_publication()
        left = left_tables(self._chain.publication).get(oid)
        if left is not None:
            return self._described_of_left(left, table)
        shape = self._catalog.shape(oid)
        generated = shape.generated_columns if shape is not None else frozenset()
        table = _without(table, generated)
        self._described[table.id] = oid, table
        try:
            self._catalog.check_shape(oid, table, shape)
        except RefusedData as error:
            if not self.known.has_columns_of(table) or not self._tracking.puts_off(error):
                raise
        return generated

    def _is_partition(self, oid: int, table: TableSchema) -> bool:
        """Whether its rows come under the name of the table at the top, which was described just before."""
        entries = self._chain.publication
        if MEMBERS not in entries or oid in logged_tables(entries):
            return False
        known = entries.of(MEMBERS).get(oid)
        if known is None or known.root == oid:
            self._catalog.see_transaction()
            self._tracking.check_publication()
            entries = self._chain.publication
        if oid not in entries.of(MEMBERS):
            self._tracking.locked.require_free(oid)
            raise partition_gone(table.qualified_name, "a published table")
        anchored, shape = entries.of(SHAPES).get(oid), self._catalog.shape(oid)
        if anchored is not None and shape is not None:
            check_shape(table.qualified_name, anchored, shape)
        return True

    def truncated(self, tables: Iterable[bytes]) -> None:
        """A TRUNCATE of these versions came, be it that the log has it already."""
        for table_id in tables:
            if table_id in self._described:
                self._tracking.truncated(self._described[table_id][0])

    def _described_of_left(self, left: Leave, table: TableSchema) -> frozenset[str]:
        table = _without(table, frozenset(left.generated))
        self._described[table.id] = left.oid, table
        previous = self.known.before(table)
        if previous is None or added_columns(previous, table):
            self._catalog.check(left.oid, table)
        return frozenset(left.generated)

    def introduce(self, table_id: bytes) -> tuple[int, TableSchema]:
        """A row of this version, or a TRUNCATE, comes next: the log knows it from here on. Its OID, too."""
        described = self._described.get(table_id)
        if described is None:
            raise _unconfirmed(self._called[table_id])
        if not self.known.holds(table_id):
            self._announce(*described)
        return described

    def columns_added(self, oid: int, table: TableSchema) -> None:
        """Here a table has columns that its next row would tell."""
        if self._tracking.is_tracked:
            return
        if not self.known.holds(table.id) and oid not in left_tables(self._chain.publication):
            self._described[table.id] = oid, table
            self._catalog.check(oid, table)
            self._announce(oid, table)

    def _announce(self, oid: int, table: TableSchema) -> None:
        previous = self.known.before(table)
        if previous is not None:
            self._announce_columns(oid, previous, table)
        self.known.add(table)

    def _announce_columns(self, oid: int, previous: TableSchema, table: TableSchema) -> None:
        if self._tracking.is_tracked:
            return  # a schema message told of them
        added = added_columns(previous, table)
        if not added:
            return
        self._catalog.see_transaction()
        catalog = self._catalog.columns(oid, table)
        self._catalog.check(oid, table)  # no rewrite came before `catalog` was read
        payload = describe_added(previous, table, added, catalog)
        self._packer.need(table)
        self._add(Change(Operation.DDL, table.id, payload=payload))
        self._catalog.check(oid, table, is_announced=True)
        names = ", ".join(column.name for column in added)
        logger.info("columns added", extra={"table": table.qualified_name, "columns": names})

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
    if any(table.is_found_by(table.columns[i]) for i in places):
        raise refuse_change(table.qualified_name, "its replica identity has a generated column")
    return table.without(places)
