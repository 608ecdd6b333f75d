"""One change as a JSON object. Row values are PostgreSQL's text (`value.shown`), or null."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, assert_never

from pipeline.events.joined import joined_rows
from pipeline.events.value import shown
from schemas.avro import RowCodec
from schemas.barrier import (
    DdlMessage,
    JoinKeysMessage,
    JoinMessage,
    JoinRowsMessage,
    UnknownMessage,
    barrier_of,
)
from schemas.change import Change, ColumnsAdded, Message, Operation, Truncate
from schemas.ddl.message import TOO_LARGE, SchemaMessage
from schemas.ddl.record import parse_record
from schemas.errors import InternalError
from schemas.join import Join
from schemas.lsn import format_lsn
from schemas.table import TableSchema

OWN_PREFIX = "keepstream."
"""Messages that Keepstream writes for itself (waiting, verifying) are nobody's business."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Committed:
    """What all changes of one transaction share. `commit_time` is in µs since 1970 UTC."""

    xid: int
    commit_lsn: int
    end_lsn: int
    commit_time: int

    def to_json(self, ordinal: int) -> dict[str, Any]:
        time = _EPOCH + timedelta(microseconds=self.commit_time)
        return {
            "commit_lsn": format_lsn(self.commit_lsn),
            "end_lsn": format_lsn(self.end_lsn),
            "ordinal": ordinal,
            "xid": self.xid,
            "commit_time": time.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        }


class EventEncoder:
    """Turns changes into objects; keeps one codec for each table version."""

    def __init__(self, tables: Mapping[bytes, TableSchema]) -> None:
        self._tables = tables
        self._codecs: dict[bytes, RowCodec] = {}
        self._join: Join | None = None

    def table(self, table_id: bytes) -> TableSchema:
        """Raises InternalError (`table-unknown`) for a version that the log did not announce."""
        table = self._tables.get(table_id)
        if table is None:
            raise InternalError(
                f"the log uses table version {table_id.hex()} without having described it",
                code="table-unknown",
                hint="Start again: the reader then begins at an anchor. If it comes back, report a bug.",
            )
        return table

    def encode(self, change: Change) -> Iterator[dict[str, Any]]:
        """The objects of one change, without what its transaction adds: one, or one a table of a TRUNCATE."""
        barrier = barrier_of(change)
        match barrier:
            case None if isinstance(change.payload, Message):
                yield from _message_events(change.payload)
            case None:
                yield self._row_event(change)
            case Truncate():
                for table_id in barrier.tables:
                    yield _event(self.table(table_id), "truncate")
            case ColumnsAdded():
                yield _event(self.table(change.table), "ddl", after=_added(barrier))
            case JoinMessage(content, empty):
                self._join = join = Join.from_json(content)
                made: dict[str, Any] = {"create_table": list(join.columns), "sql": list(join.ddl)}
                made |= {"without_rows": True} if empty else {}
                yield _event(join, "ddl", after=made)
            case JoinRowsMessage(content):
                yield from self._joined(content)
            case JoinKeysMessage():
                return
            case DdlMessage(content):
                yield from _schema_events(SchemaMessage.from_json(content))
            case UnknownMessage():
                raise barrier.error("change")
            case _:
                assert_never(barrier)

    def _joined(self, content: bytes) -> Iterator[dict[str, Any]]:
        """Rows whose table joined before this reader began belong to no table that it can name."""
        if self._join is not None:
            for row in joined_rows(self._join, content):
                yield _event(self._join, "insert", after=row)

    def _codec(self, table_id: bytes) -> tuple[RowCodec, TableSchema]:
        table = self.table(table_id)
        codec = self._codecs.get(table_id)
        if codec is None:
            codec = self._codecs[table_id] = RowCodec(table)
        return codec, table

    def _row_event(self, change: Change) -> dict[str, Any]:
        codec, table = self._codec(change.table)
        names = [column.name for column in table.columns]
        keys = [column.name for column in table.columns if column.key]
        before: dict[str, Any] | None = None
        after: dict[str, Any] | None = None
        if change.old_row is not None:
            before = _object(names, codec.decode_row(change.old_row))
        elif change.old_key is not None:
            before = _object(keys, codec.decode_key(change.old_key))
        absent = [names[index] for index in change.absent]
        if change.row is not None:
            after = _object(names, codec.decode_row(change.row))
            for name in absent:
                del after[name]
        identified_by = before if before is not None else after or {}
        return _event(
            table,
            Operation(change.operation).name.lower(),
            key={name: identified_by[name] for name in keys if name in identified_by},
            before=before,
            after=after,
            absent=absent,
        )


def _message_events(message: Message) -> Iterator[dict[str, Any]]:
    """An application's message; not Keepstream's own."""
    if not message.prefix.startswith(OWN_PREFIX):
        after = {"prefix": message.prefix, "content": shown(message.content)}
        yield _event(None, "message", after=after)


def _schema_events(message: SchemaMessage) -> Iterator[dict[str, Any]]:
    """A rewritten table's rows come as if it was emptied and filled again; where they are too many for the
    log, they do not."""
    for change in message.changes:
        what: dict[str, Any] = {
            "tag": message.tag,
            "class": change.class_,
            "before": change.before,
            "after": change.after,
        }
        what |= {"without_rows": True} if change.rewritten == TOO_LARGE else {}
        state = change.after or change.before or {}
        yield _event(None, "ddl", after=what) | {"schema": state.get("schema"), "name": state.get("name")}
    rows = message.rows
    if rows is None:
        return
    named = {"schema": rows.schema, "name": rows.table}
    if rows.first:
        yield _event(None, "truncate") | named
    for record in rows.records:
        values = parse_record(record, len(rows.columns))
        yield _event(None, "insert", after=dict(zip(rows.columns, values, strict=True))) | named


def _object(names: Sequence[str], values: Sequence[bytes | None]) -> dict[str, Any]:
    return dict(zip(names, (None if value is None else shown(value) for value in values), strict=True))


def _added(payload: ColumnsAdded) -> dict[str, Any]:
    return {
        "add_columns": [
            {"name": c.name, "type": c.type_name, "not_null": c.not_null, "default": c.default}
            for c in payload.columns
        ]
    }


def _event(
    table: TableSchema | Join | None,
    op: str,
    *,
    key: dict[str, Any] | None = None,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    absent: Sequence[str] = (),
) -> dict[str, Any]:
    return {
        "schema": table.schema if table else None,
        "name": (table.table if isinstance(table, Join) else table.name) if table else None,
        "op": op,
        "key": key,
        "before": before,
        "after": after,
        "absent": list(absent),
    }
