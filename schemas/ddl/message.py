"""What the log says of one DDL command: a message of prefix `keepstream.ddl` at its place in the transaction.

    changes              objects as they were before the command and as they are after it
    rows                 rows of a table that the command before rewrote, as PostgreSQL's record text
    installed, removed   the source's event triggers came or went
    error                the source's event trigger failed: what a command did is not known, but which tables
                         it gave other rows

One message is one of these. States (`before`, `after`) are JSON objects; docs/schema-changes.md says which
keys each class has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

DDL_PREFIX: Final = "keepstream.ddl"
VERSION: Final = 1
WITHOUT_ROWS: Final = 2
"""The version of a message that leaves a table without its rows: who does not know it must not go on."""
SENT: Final = "sent"
TOO_LARGE: Final = "too-large"
UNPUBLISHED: Final = "unpublished"

State = Mapping[str, Any]


def is_ddl(prefix: str) -> bool:
    """Whether a message of this prefix is about schema changes, be it of a later version's kind."""
    return prefix == DDL_PREFIX or prefix.startswith(f"{DDL_PREFIX}.")


@dataclass(frozen=True, slots=True)
class ObjectChange:
    """One object's change. class_: `table`, `enum`, … before: None of a new object; after: None of a dropped
    one. rewritten: "" or `sent` (its rows follow in messages), `too-large` (they do not, and are to be
    copied) or `unpublished` (the log has none of them). whole: of a partition, before the change or after
    it, schema and name of the table under whose name its rows are in the log; () if that is its own. hidden:
    an event trigger was disabled since `before`, so that the change may hide others. unlisted: names, before
    or after it, of the table's columns that no row in the log has, because a publication has a column
    list."""

    class_: str
    oid: int
    before: State | None
    after: State | None
    rewritten: str = ""
    whole: tuple[str, ...] = ()
    hidden: bool = False
    unlisted: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """`schema.name` of now, or of before it was dropped; not quoted."""
        state = self.after or self.before or {}
        schema = None if self.class_ == "schema" else state.get("schema")
        parts = schema, state.get("name", state.get("identity", f"oid {self.oid}"))
        return ".".join(str(part) for part in parts if part)


@dataclass(frozen=True, slots=True)
class TableRows:
    """Rows of a rewritten table, or of a partition that was attached. first, last: of its messages. columns:
    those that `records` have. whole: as `ObjectChange.whole`.

    For capture alone: `filters`, the publications that send some of the rows only (None: the source's event
    triggers are older than that), and `sent`, of each record a digit for each of them: 1 if it sends it."""

    oid: int
    schema: str
    table: str
    columns: tuple[str, ...]
    first: bool
    last: bool
    records: tuple[str, ...]
    whole: tuple[str, ...] = ()
    filters: tuple[str, ...] | None = None
    sent: tuple[str, ...] = ()

    def sent_by(self, publication: str) -> TableRows:
        """Those that the publication sends. Raises ValueError where it cannot be told which."""
        filters = self.filters or ()
        if publication not in filters:
            return replace(self, filters=None, sent=())
        place = filters.index(publication)
        if len(self.sent) != len(self.records):
            raise ValueError("as many marks as records")
        kept = tuple(
            record for record, sent in zip(self.records, self.sent, strict=True) if sent[place] == "1"
        )
        return replace(self, records=kept, filters=None, sent=())

    @property
    def holder(self) -> tuple[str, str]:
        """Schema and name of the table that they are rows of in the log."""
        return (self.whole[0], self.whole[1]) if self.whole else (self.schema, self.table)


@dataclass(frozen=True, slots=True)
class SchemaMessage:
    """xid, n: the source transaction, and the message's ordinal among those of it. tag: of the command. role:
    who ran it. rewrote: with `error`, the OIDs of tables whose rows it may have given other values; None: not
    known. snapshot: with `installed`, the text of the pg_snapshot in which `changes` were read."""

    xid: str
    n: int
    tag: str = ""
    role: str = ""
    changes: tuple[ObjectChange, ...] = ()
    rows: TableRows | None = None
    installed: bool = False
    removed: bool = False
    error: str = ""
    rewrote: frozenset[int] | None = None
    snapshot: str = ""

    def to_json(self) -> bytes:
        loses_rows = any(change.rewritten == TOO_LARGE for change in self.changes)
        value: dict[str, Any] = {"v": WITHOUT_ROWS if loses_rows else VERSION, "xid": self.xid, "n": self.n}
        if self.error:
            value["error"] = self.error
        if self.installed or self.removed:
            value["installed" if self.installed else "removed"] = True
        if self.rows is not None:
            value["rows"] = _rows_value(self.rows)
        else:
            value |= {"tag": self.tag, "role": self.role}
            value["changes"] = [_change_value(change) for change in self.changes]
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, content: bytes | str) -> SchemaMessage:
        """Raises ValueError, KeyError, TypeError or AttributeError for anything that is no such message of
        these versions."""
        value = json.loads(content)
        if value["v"] not in (VERSION, WITHOUT_ROWS):
            raise ValueError(f"version {value['v']!r}")
        rows = value.get("rows")
        return cls(
            xid=str(value["xid"]),
            n=int(value["n"]),
            tag=value.get("tag") or "",
            role=value.get("role") or "",
            changes=tuple(map(_change, value.get("changes") or ())),
            rows=None if rows is None else _rows(rows),
            installed=bool(value.get("installed")),
            removed=bool(value.get("removed")),
            error=value.get("error") or "",
            snapshot=value.get("snapshot") or "",
            rewrote=frozenset(map(int, value["rewrote"])) if "rewrote" in value else None,
        )


def _change(value: Mapping[str, Any]) -> ObjectChange:
    return ObjectChange(
        class_=value["class"],
        oid=int(value["oid"]),
        before=value["before"],
        after=value["after"],
        rewritten=value.get("rewritten") or "",
        whole=tuple(value.get("whole") or ()),
        hidden=bool(value.get("hidden")),
        unlisted=tuple(value.get("unlisted") or ()),
    )


def _change_value(change: ObjectChange) -> dict[str, Any]:
    value = {"class": change.class_, "oid": change.oid, "before": change.before, "after": change.after}
    rewritten = {"rewritten": change.rewritten} if change.rewritten else {}
    unlisted = {"unlisted": list(change.unlisted)} if change.unlisted else {}
    return value | rewritten | _whole_value(change.whole) | unlisted


def _whole_value(whole: tuple[str, ...]) -> dict[str, Any]:
    return {"whole": list(whole)} if whole else {}


def _rows(value: Mapping[str, Any]) -> TableRows:
    return TableRows(
        oid=int(value["oid"]),
        schema=value["schema"],
        table=value["table"],
        columns=tuple(value["columns"]),
        first=bool(value["first"]),
        last=bool(value["last"]),
        records=tuple(value["records"]),
        whole=tuple(value.get("whole") or ()),
        filters=tuple(value["filters"]) if "filters" in value else None,
        sent=tuple(value.get("sent") or ()),
    )


def _rows_value(rows: TableRows) -> dict[str, Any]:
    return {
        "oid": rows.oid,
        "schema": rows.schema,
        "table": rows.table,
        "columns": list(rows.columns),
        "first": rows.first,
        "last": rows.last,
        "records": list(rows.records),
        **_whole_value(rows.whole),
    }
