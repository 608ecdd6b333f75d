"""A source whose event triggers write schema changes into its WAL, and what the log then holds of them."""

from __future__ import annotations

from typing import Any

from connectors.postgres.ddl.install import install, uninstall
from connectors.postgres.session import connect
from schemas.avro import RowCodec
from schemas.change import ColumnsAdded, Message, Truncate
from schemas.ddl.message import DDL_PREFIX, SchemaMessage
from schemas.join import is_join
from tests.capturing import LogContent
from tests.fix_postgres import Database


def install_triggers(source: Database) -> None:
    with connect(source.admin_dsn, purpose="test") as session:
        install(session, capture_role=_role(source))


def uninstall_triggers(source: Database) -> None:
    with connect(source.admin_dsn, purpose="test") as session:
        uninstall(session)


def _role(source: Database) -> str:
    with connect(source.dsn, purpose="test") as session:
        return session.info.user


def schema_messages(content: LogContent) -> list[SchemaMessage]:
    """All of them, in order."""
    payloads = (change.payload for one in content.committed for change in one.changes)
    return [
        SchemaMessage.from_json(payload.content)
        for payload in payloads
        if isinstance(payload, Message) and payload.prefix == DDL_PREFIX
    ]


def told(content: LogContent) -> list[Any]:
    """What a replica would get of each change, in order: a row under its version's column names, or what a
    message says: its tag, and of tables the names before and after."""
    return [shown for one in content.committed for shown in map(_Shown(content), one.changes) if shown]


class _Shown:
    def __init__(self, content: LogContent) -> None:
        self._tables = content.follower.tables

    def __call__(self, change: Any) -> Any:
        payload = change.payload
        if isinstance(payload, Message):
            return self._message(payload)
        if isinstance(payload, ColumnsAdded):
            return "columns added", *(column.name for column in payload.columns)
        if isinstance(payload, Truncate):
            return "truncate", *(self._tables[table].qualified_name for table in payload.tables)
        version = self._tables[change.table]
        codec = RowCodec(version)
        if change.row is not None:
            names, values = version.column_names, codec.decode_row(change.row)
        else:
            names = tuple(version.columns[i].name for i in version.key_indexes)
            values = codec.decode_key(change.old_key)
        row = {n: v.decode() if isinstance(v, bytes) else v for n, v in zip(names, values, strict=True)}
        return change.operation.name.lower(), version.qualified_name, row

    def _message(self, payload: Message) -> Any:
        if is_join(payload.prefix):
            return payload.prefix
        if payload.prefix != DDL_PREFIX:
            return None
        message = SchemaMessage.from_json(payload.content)
        if message.rows is not None:
            return "rows", f"{message.rows.schema}.{message.rows.table}", *message.rows.records
        if message.installed or message.removed:
            return "installed" if message.installed else "removed"
        return message.tag, *(change.name for change in message.changes)
