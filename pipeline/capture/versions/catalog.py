"""The catalog of now beside what the log knows of a table, before rows of it are in the log.

It is asked about the open transaction, so it must show what that one did; it may be ahead of that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from connectors.postgres.catalog.publication import publication_identity
from connectors.postgres.catalog.shape import Shape, read_shape, read_used_types
from connectors.postgres.catalog.tables import CatalogColumn, read_columns
from connectors.postgres.copy.visibility import wait_until_transaction_visible
from pipeline.capture.ddl.looking import VISIBLE_LIMIT_S
from pipeline.capture.entries.partitions import known_partitions, with_missing
from pipeline.capture.entries.shapes import (
    SHAPES,
    check_order,
    check_shape,
    first_shape,
    next_shape,
    with_types,
)
from pipeline.capture.opened import OpenCapture
from schemas.table import TableSchema


class Catalog:
    """Of one connection. `xid`: the open transaction, 0 between two."""

    def __init__(self, capture: OpenCapture, publication: str) -> None:
        self.xid = 0
        self._session = capture.sql
        self._chain = capture.chain
        self._tracking = capture.tracking
        self._publication = publication
        self._seen_xid = 0
        self._identity: tuple[str, ...] = ()

    def see_transaction(self) -> None:
        """Wait until sessions see what it did. Raises RetryLater (`commit-not-visible`)."""
        if self.xid and self.xid != self._seen_xid:
            wait_until_transaction_visible(self._session, self.xid, limit_s=VISIBLE_LIMIT_S)
            self._seen_xid = self.xid

    def check_publication(self) -> None:
        """P11: after ALTER PUBLICATION pgoutput describes at least the table that it names anew before that
        one's next row: so its rows are never logged over a gap in them. The next look sees the rest."""
        self.see_transaction()
        identity = publication_identity(self._session, self._publication)
        if identity != self._identity:
            self._tracking.check_publication()
            self._identity = identity

    def shape(self, oid: int) -> Shape | None:
        """None of a table that is gone."""
        self.see_transaction()
        return read_shape(self._session, oid, self._publication)

    def columns(self, oid: int, table: TableSchema) -> Mapping[str, CatalogColumn]:
        """By name."""
        partitions = known_partitions(self._chain.publication).values()
        below = [read_columns(self._session, each.oid) for each in partitions if each.root == oid]
        return with_missing(table.qualified_name, read_columns(self._session, oid), below)

    def check(self, oid: int, table: TableSchema, *, is_announced: bool = False) -> None:
        """As `check_shape`, of the shape of now."""
        self.check_shape(oid, table, self.shape(oid), is_announced=is_announced)

    def check_shape(
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

    def _announced_below(self, oid: int) -> None:
        """The log tells now what the columns of this table's partitions hold, too."""
        entries = self._chain.publication
        for partition in known_partitions(entries).values():
            shape = self.shape(partition.oid) if partition.root == oid else None
            anchored = entries.of(SHAPES).get(partition.oid)
            if shape is not None and anchored is not None:
                check_shape(partition.name, anchored, shape)
                shape = replace(shape, filenode=anchored.filenode)  # of another one the next look judges
                entries = entries.put(SHAPES, first_shape(shape))
        self._chain.publication_is(entries)
