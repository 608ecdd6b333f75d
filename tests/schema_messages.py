"""Reads what the source's event triggers wrote, without any of the product's code: messages from a slot of
pgoutput, each proved by a seal that is computed here."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeAlias

from connectors.postgres.ddl.install import install, uninstall
from connectors.postgres.session import Session, connect
from tests.fix_postgres import PRODUCT, Database

_DIGITS = 64
_READ = """
    select xid::text, data from pg_logical_slot_get_binary_changes(%s, null, null,
        'proto_version', '1', 'publication_names', 'everything', 'messages', 'true')
"""

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Told:
    """One message as pgoutput sent it, or one DML (`kind`: I, U, D, T) of an application's table."""

    kind: str
    xid: str
    content: bytes = b""


class Tracked:
    """A source with the event triggers, and a slot that hears of all from here on."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._slot = f"told_{database.name}"
        self.install()
        database.execute_as_admin("create publication everything for all tables")
        self.listen()

    def listen(self) -> None:
        self.database.execute_as_admin(
            "select pg_create_logical_replication_slot(%s, 'pgoutput')", [self._slot]
        )

    def admin(self) -> Session:
        return connect(self.database.admin_dsn, purpose="test")

    def install(self) -> None:
        with closing(self.admin()) as session:
            install(session, capture_role=PRODUCT)

    def uninstall(self) -> None:
        with closing(self.admin()) as session:
            uninstall(session)

    def told(self) -> list[Told]:
        """All since the last call, in the log's order, without what the trigger keeps in its own tables."""
        own = {
            oid
            for (oid,) in self.database.execute_as_admin(
                "select c.oid::bigint from pg_class c"
                " join pg_namespace n on n.oid = c.relnamespace where n.nspname = 'keepstream'"
            )
        }
        return list(_told(self.database.execute_as_admin(_READ, [self._slot]), own))

    def messages(self) -> list[Json]:
        """Those of the trigger since the last call, each with a right seal, and xid and ordinal in place."""
        found = [self.open(told) for told in self.told() if told.kind == "M"]
        counted: dict[str, int] = {}
        for message in found:
            assert message["n"] == counted.get(message["xid"], 0)
            counted[message["xid"]] = message["n"] + 1
        return found

    def open(self, told: Told) -> Json:
        seal, text = told.content[:_DIGITS].decode(), told.content[_DIGITS:]
        ((key,),) = self.database.execute_as_admin("select key from keepstream.schema_key")
        assert hashlib.sha256(key + hashlib.sha256(key + text).digest()).hexdigest() == seal
        message: Json = json.loads(text)
        assert message["v"] == 1
        assert message["xid"] == told.xid
        return message

    def changes(self, *statements: str) -> list[Json]:
        """What the statements changed, each run by the tables' owner in a transaction of its own."""
        for statement in statements:
            self.database.execute(statement)
        return [change for message in self.messages() for change in message.get("changes", ())]

    def change(self, statement: str) -> Json:
        """The only one."""
        (change,) = self.changes(statement)
        return change


def _told(rows: list[tuple[str, bytes]], own: set[int]) -> Iterator[Told]:
    for xid, data in rows:
        kind = chr(data[0])
        if kind == "M":
            end = data.index(b"\0", 10)
            if data[1]:  # transactional
                assert data[10:end] == b"keepstream.ddl"
                yield Told("M", xid, data[end + 5 :])
        elif kind in "IUD" and struct.unpack(">I", data[1:5])[0] not in own:
            yield Told(kind, xid)


def changed(change: Json) -> set[str]:
    """The keys that differ; the class alone of an object that came or went."""
    before, after = change["before"], change["after"]
    if before is None or after is None:
        return {"dropped" if after is None else "created"}
    assert before.keys() == after.keys()
    return {key for key in before if before[key] != after[key]}


def named(state: Json, key: str, name: str) -> Json:
    """The column, constraint, index or trigger of that name."""
    (found,) = [each for each in state[key] if each["name"] == name]
    assert isinstance(found, dict)
    return found
