"""Where tracking begins: the installation's message tells each table as it is there.

What happened before is judged as without tracking, but by the catalog of that place: columns that were added
and not announced yet are announced here, and what cannot be followed stops capture.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from connectors.postgres.catalog.tables import CatalogColumn
from pipeline.capture.entries.names import NAMES, left_tables
from pipeline.capture.entries.partitions import MEMBERS
from pipeline.capture.entries.schemachange import added_columns, describe_added
from pipeline.capture.entries.shapes import SHAPES, check_shape, first_shape, listed_columns
from pipeline.capture.entries.told import TOLD, Told, shape_of_state
from pipeline.capture.history.publication import renamed
from schemas.change import ColumnsAdded
from schemas.ddl.message import SchemaMessage, State
from schemas.entries import Entries
from schemas.identifiers import qualified
from schemas.table import Column, ReplicaIdentity, TableSchema


def begun(entries: Entries, message: SchemaMessage) -> Entries:
    """The entries behind it, but for that tracking has begun. Tables that join have what their joining told.

    Raises RefusedData (`schema-changed`, `table-renamed`).
    """
    known = entries.of(TOLD)
    for oid, state in _states(entries, message).items():
        _require_followed(entries, oid, state)
        shape = shape_of_state(oid, state).only(listed_columns(entries, oid))
        told = Told.of_shape(shape, state["schema"], state["name"])
        entries = entries.put(TOLD, replace(told, entry=known[oid].entry if oid in known else ""))
        entries = entries.put(SHAPES, first_shape(shape))
    return entries


def unannounced(
    entries: Entries, message: SchemaMessage, newest: Mapping[tuple[str, str], TableSchema]
) -> list[tuple[int, TableSchema, ColumnsAdded]]:
    """Of tables that have more columns there than the log knows: OID, version, and what is to be announced.
    `entries`: before the message; `newest`: by name, the newest versions."""
    found = []
    told = entries.of(TOLD)
    for oid, state in _states(entries, message).items():
        previous, listed = newest.get((state["schema"], state["name"])), listed_columns(entries, oid)
        now = Told.of_shape(shape_of_state(oid, state).only(listed), state["schema"], state["name"])
        if previous is None or (oid in told and told[oid].columns == now.columns):
            continue
        version = version_of(previous, state, listed)
        added = added_columns(previous, version)
        if added:
            catalog = {column["name"]: _column(column) for column in state["columns"]}
            found.append((oid, version, describe_added(previous, version, added, catalog)))
    return found


def _states(entries: Entries, message: SchemaMessage) -> dict[int, State]:
    """Of the tables that the log has."""
    known = {*entries.of(NAMES), *left_tables(entries), *entries.of(MEMBERS)}
    return {
        change.oid: change.after
        for change in message.changes
        if change.class_ == "table" and change.oid in known and change.after is not None
    }


def _require_followed(entries: Entries, oid: int, state: State) -> None:
    """A look may have been ahead of this place: then it has compared what lies between."""
    name, known = qualified(state["schema"], state["name"]), entries.of(NAMES).get(oid)
    if known is not None and known.name != name:
        raise renamed(known.name, name)
    shape, then = shape_of_state(oid, state), entries.of(SHAPES).get(oid)
    if then is not None and then.last_number <= (now := shape.only(then.listed)).last_number:
        check_shape(name, then, now)


def version_of(previous: TableSchema, state: State, listed: Collection[int] | None) -> TableSchema:
    """The version of the table's rows in this state, with the key that it had: its next Relation message may
    tell another. `listed`: the numbers of those columns that rows have; None: of all."""
    keys = {column.name for column in previous.columns if column.key}
    is_full = state["replica_identity"] == ReplicaIdentity.FULL.value
    types = {column.name: column for column in previous.columns}
    columns = []
    for column in state["columns"]:
        if column["generated"] or (listed is not None and column["num"] not in listed):
            continue
        type_ = int(column["type_oid"]), int(column["typmod"])
        known = types.get(column["name"])
        same = known is not None and (known.type_oid, known.type_modifier) == type_
        name = known.type_name if known is not None and same else column["type"]
        columns.append(Column(column["name"], *type_, name, is_full or column["name"] in keys))
    return TableSchema(previous.schema, previous.name, previous.replica_identity, tuple(columns))


def _column(column: State) -> CatalogColumn:
    return CatalogColumn(
        column["num"],
        column["name"],
        int(column["type_oid"]),
        int(column["typmod"]),
        column["type"],
        column["not_null"],
        column["identity"],
        column["generated"],
        None if column["generated"] else column["default"],
        column["has_missing"],
        column["missing"],
        column["collation"],
    )
