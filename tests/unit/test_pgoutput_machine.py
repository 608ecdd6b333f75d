"""The decoder over random streams: what a naive encoder wrote comes back as it was, and whatever decodes at
all is exactly what stands there, because encoding it again gives the same bytes.

The encoder below writes messages from PostgreSQL's documentation (protocol-logicalrep-message-formats) and
knows nothing of the decoder. Each message is fed whole, now and then cut short, with bytes to spare and with
edits first: those are refused by name and leave the decoder as it was.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from connectors.postgres.replication.pgoutput import (
    Begin,
    Commit,
    Decoded,
    Decoder,
    Origin,
    RelationChanged,
    TypeNamed,
    parse_tuple,
)
from schemas.avro import key_decoder, row_decoder
from schemas.change import UNCHANGED, Change, Message, Operation, TextValue, Truncate
from schemas.errors import InternalError, KeepstreamError
from schemas.table import Column, ReplicaIdentity, TableSchema
from tests.damage import edited, odd_bytes

EPOCH_US = 946_684_800_000_000
USER_TYPE = 20_001
_SUBST = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
WORDS = st.sampled_from(["a", "b", "Order Line", "ä"]) | _SUBST
INTEGERS = st.integers(-(2**31), 2**31 - 1).map(lambda number: b"%d" % number)

# type oid → texts that PostgreSQL writes
TEXTS: dict[int, st.SearchStrategy[bytes]] = {
    16: st.sampled_from([b"t", b"f"]),
    17: st.binary(max_size=9).map(lambda raw: b"\\x" + raw.hex().encode()),
    20: st.integers(-(2**63), 2**63 - 1).map(lambda number: b"%d" % number),
    23: INTEGERS,
    25: WORDS.map(str.encode) | st.integers(0, 300).map(lambda size: b"x" * size),
    701: st.sampled_from([b"0", b"-0", b"1.5", b"1e+300", b"NaN", b"-Infinity"]),
    1082: st.sampled_from([b"2024-02-29", b"0044-03-15 BC", b"infinity"]),
    1114: st.sampled_from([b"2024-02-29 10:34:56.789", b"-infinity", b"1969-12-31 23:59:59.999999"]),
    1184: st.sampled_from([b"2024-02-29 10:34:56+00", b"9999-12-31 23:59:59.000001+00"]),
    1700: st.sampled_from([b"12.50", b"-0.01", b"NaN"]),
    USER_TYPE: WORDS.map(str.encode),
}


def string(text: str) -> bytes:
    return text.encode() + b"\0"


def relation(oid: int, table: TableSchema) -> bytes:
    namespace = "" if table.schema == "pg_catalog" else table.schema
    head = b"R" + struct.pack(">I", oid) + string(namespace) + string(table.name)
    columns = [
        bytes((column.key,)) + string(column.name) + struct.pack(">Ii", column.type_oid, column.type_modifier)
        for column in table.columns
    ]
    identity = table.replica_identity.value.encode()
    return head + identity + struct.pack(">H", len(columns)) + b"".join(columns)


def tuple_data(values: Sequence[TextValue]) -> bytes:
    pieces = [struct.pack(">H", len(values))]
    for value in values:
        if value is None:
            pieces.append(b"n")
        elif value is UNCHANGED:
            pieces.append(b"u")
        else:
            pieces.append(b"t" + struct.pack(">I", len(value)) + value)
    return b"".join(pieces)


def begin(value: Begin) -> bytes:
    return b"B" + struct.pack(">QqI", value.commit_lsn, value.commit_time - EPOCH_US, value.xid)


def commit(value: Commit) -> bytes:
    return b"C\0" + struct.pack(">QQq", value.commit_lsn, value.end_lsn, value.commit_time - EPOCH_US)


@dataclass(frozen=True)
class Known:
    """What a stream has said of one relation."""

    oid: int
    table: TableSchema


def row_message(change: Change, known: Known, old_key_tuple: bytes) -> bytes:
    """`I`, `U` or `D`. `old_key_tuple`: how a `K` tuple stood there; its other columns say nothing."""
    pieces = [b"IUD"[change.operation : change.operation + 1], struct.pack(">I", known.oid)]
    if change.old_key is not None:
        pieces += [b"K", old_key_tuple]
    if change.old_row is not None:
        pieces += [b"O", tuple_data(row_decoder(known.table)(change.old_row, 0))]
    if change.row is not None:
        values: list[TextValue] = list(row_decoder(known.table)(change.row, 0))
        for index in change.absent:
            assert values[index] is None
            values[index] = UNCHANGED
        pieces += [b"N", tuple_data(values)]
    return b"".join(pieces)


class Stream(RuleBasedStateMachine):
    """One connection."""

    @initialize()
    def a_connection(self) -> None:
        self.decoder = Decoder()
        self.relations: dict[int, TableSchema] = {}
        self.type_names: dict[int, tuple[str, str]] = {}

    # messages, as the server may send them

    @rule(oid=st.sampled_from([USER_TYPE, USER_TYPE + 1]), namespace=WORDS, name=WORDS)
    def a_type(self, oid: int, namespace: str, name: str) -> None:
        self._send(b"Y" + struct.pack(">I", oid) + string(namespace) + string(name))
        self.type_names[oid] = (namespace or "pg_catalog", name)

    @rule(data=st.data(), oid=st.integers(1, 3), name=WORDS, identity=st.sampled_from(ReplicaIdentity))
    def a_relation(self, data: st.DataObject, oid: int, name: str, identity: ReplicaIdentity) -> None:
        types = [oid for oid in TEXTS if oid != USER_TYPE or USER_TYPE in self.type_names]
        full = identity is ReplicaIdentity.FULL
        columns = data.draw(
            st.lists(st.tuples(WORDS, st.sampled_from(types), st.booleans()), max_size=4), label="columns"
        )
        table = TableSchema(
            "pg_catalog" if name == "a" else "public",
            name,
            identity,
            tuple(Column(word, kind, -1, self._type_name(kind), key or full) for word, kind, key in columns),
        )
        value = self._send(relation(oid, table))
        assert value == RelationChanged(oid, table)
        assert self.decoder.table(oid) == table
        self.relations[oid] = table

    def _type_name(self, oid: int) -> str:
        if oid == USER_TYPE:
            namespace, name = (part.replace('"', '""') for part in self.type_names[oid])
            return f'"{namespace}"."{name}"'
        plain = {16: "boolean", 17: "bytea", 20: "bigint", 23: "integer", 25: "text", 1082: "date"}
        plain |= {701: "double precision", 1700: "numeric", 1114: "timestamp without time zone"}
        return (plain | {1184: "timestamp with time zone"})[oid]

    @rule(lsn=st.integers(0, 2**62), time=st.integers(0, 2**52), xid=st.integers(3, 2**32 - 1))
    def a_transaction_begins_and_ends(self, lsn: int, time: int, xid: int) -> None:
        message = b"B" + struct.pack(">QqI", lsn, time, xid)
        assert self._send(message) == Begin(lsn, EPOCH_US + time, xid)  # type: ignore[arg-type]
        message = b"C\0" + struct.pack(">QQq", lsn, lsn + 8, time)
        assert self._send(message) == Commit(lsn, lsn + 8, EPOCH_US + time)  # type: ignore[arg-type]

    @rule(lsn=st.integers(0, 2**63 - 1), name=WORDS)
    def an_origin(self, lsn: int, name: str) -> None:
        value = self._send(b"O" + struct.pack(">Q", lsn) + string(name))
        assert value == Origin(lsn, name)  # type: ignore[arg-type]

    @rule(transactional=st.booleans(), prefix=WORDS, content=st.binary(max_size=30))
    def a_message(self, transactional: bool, prefix: str, content: bytes) -> None:
        head = b"M" + bytes((transactional,)) + struct.pack(">Q", 7) + string(prefix)
        value = self._send(head + struct.pack(">I", len(content)) + content)
        assert isinstance(value, Change)
        assert value.payload == Message(transactional, prefix, content)

    @precondition(lambda self: self.relations)
    @rule(data=st.data(), options=st.integers(0, 3))
    def a_truncate(self, data: st.DataObject, options: int) -> None:
        oids = data.draw(st.lists(st.sampled_from(sorted(self.relations)), min_size=1, unique=True))
        value = self._send(b"T" + struct.pack(f">IB{len(oids)}I", len(oids), options, *oids))
        assert isinstance(value, Change)
        ids = tuple(self.relations[oid].id for oid in oids)
        assert value.payload == Truncate(ids, bool(options & 1), bool(options & 2))

    @precondition(lambda self: self.relations)
    @rule(data=st.data(), operation=st.sampled_from("IUD"), old=st.sampled_from(["", "K", "O"]))
    def a_row(self, data: st.DataObject, operation: str, old: str) -> None:
        oid = data.draw(st.sampled_from(sorted(self.relations)))
        table = self.relations[oid]
        row = self._row(data, table)
        message = operation.encode() + struct.pack(">I", oid)
        old_values: list[TextValue] | None = None
        if operation == "D" or (operation == "U" and old):
            old = old or "K"
            old_values = self._row(data, table)
            if old == "K":
                old_values = [v if c.key else None for v, c in zip(old_values, table.columns, strict=True)]
            message += old.encode() + tuple_data(old_values)
        new = list(row)
        if operation == "U":
            for index in data.draw(st.sets(st.sampled_from(range(len(row))))) if row else ():
                new[index] = UNCHANGED
        if operation != "D":
            message += b"N" + tuple_data(new)
        self._is_the_change(self._send(message), table, operation, old, old_values, new)

    def _row(self, data: st.DataObject, table: TableSchema) -> list[TextValue]:
        return [data.draw(st.none() | TEXTS[column.type_oid]) for column in table.columns]

    def _is_the_change(
        self,
        value: Decoded,
        table: TableSchema,
        operation: str,
        old: str,
        old_values: list[TextValue] | None,
        new: list[TextValue],
    ) -> None:
        assert isinstance(value, Change)
        assert (value.operation, value.table) == (Operation("IUD".index(operation)), table.id)
        assert (value.old_key is not None) == (old_values is not None and old == "K")
        assert (value.old_row is not None) == (old_values is not None and old == "O")
        if value.old_key is not None and old_values is not None:
            assert key_decoder(table)(value.old_key, 0) == [old_values[i] for i in table.key_indexes]
        if value.old_row is not None:
            assert row_decoder(table)(value.old_row, 0) == old_values
        if operation == "D":
            assert value.row is None
            return
        assert value.row is not None
        assert value.absent == tuple(i for i, text in enumerate(new) if text is UNCHANGED)
        assert row_decoder(table)(value.row, 0) == [None if text is UNCHANGED else text for text in new]

    # what else may come

    def _send(self, message: bytes) -> Decoded:
        self._refuses_cut_and_lengthened(message)
        value = self.decoder.decode(message)
        assert self._encoded(value, message) == message
        return value

    def _refuses_cut_and_lengthened(self, message: bytes) -> None:
        for length in {*range(1, min(len(message), 40)), *range(max(1, len(message) - 5), len(message))}:
            self._refuses(message[:length])
        for junk in (b"\0", b"N", b"t\0\0\0\0", bytes(9)):
            self._refuses(message + junk)

    def _refuses(self, message: bytes) -> None:
        with pytest.raises(InternalError) as refused:
            self.decoder.decode(message)
        assert refused.value.code in ("pgoutput-malformed", "pgoutput-relation-unknown")

    @precondition(lambda self: self.relations)
    @rule(data=st.data())
    def an_edited_row(self, data: st.DataObject) -> None:
        oid = data.draw(st.sampled_from(sorted(self.relations)))
        row = tuple_data(self._row(data, self.relations[oid]))
        kind = data.draw(st.sampled_from([b"I%sN", b"U%sN", b"U%sK%bN", b"U%sO%bN", b"D%sK", b"D%sO"]))
        head = struct.pack(">I", oid)
        message = (kind % ((head, row) if b"%b" in kind else head)) + row
        self._decodes_rightly_or_refuses(data.draw(edited(message)))

    @rule(data=st.data(), kind=st.sampled_from(b"BCIUDTMO"))
    def noise(self, data: st.DataObject, kind: int) -> None:
        body = b"".join(data.draw(st.lists(odd_bytes, max_size=8)))
        self._decodes_rightly_or_refuses(bytes((kind,)) + body)

    @rule(data=st.data(), kind=st.sampled_from(b"RY"))
    def noise_to_another_connection(self, data: st.DataObject, kind: int) -> None:
        """What describes relations would change what later rows mean."""
        kept = self.decoder
        self.decoder = Decoder()
        described = relation(7, data.draw(st.sampled_from(list(self.relations.values()) or [EMPTY])))
        message = described if kind == ord("R") else b"Y\0\0\x4e\x21public\0mood\0"
        self.decoder.decode(b"Y" + struct.pack(">I", USER_TYPE) + b"public\0mood\0")
        self._decodes_rightly_or_refuses(data.draw(edited(message)))
        self.decoder = kept

    def _decodes_rightly_or_refuses(self, message: bytes) -> None:
        try:
            value = self.decoder.decode(message)
        except KeepstreamError as refused:
            assert refused.code  # noqa: PT017 - whatever else comes is the failure
        else:
            assert self._encoded(value, message) == message

    def _encoded(self, value: Decoded, message: bytes) -> bytes:
        """The value as a message. From `message` comes only what a value does not keep."""
        if isinstance(value, Begin):
            return begin(value)
        if isinstance(value, Commit):
            return commit(value)
        if isinstance(value, Origin):
            return b"O" + struct.pack(">Q", value.commit_lsn) + string(value.name)
        if isinstance(value, TypeNamed):
            again = [value.namespace, ""] if value.namespace == "pg_catalog" else [value.namespace]
            head, name = b"Y" + struct.pack(">I", value.oid), string(value.name)
            return next((m for n in again if (m := head + string(n) + name) == message), b"")
        if isinstance(value, RelationChanged):
            again_ = relation(value.oid, value.table)
            return message if again_ == message.replace(b"pg_catalog\0", b"\0", 1) else again_
        return self._encoded_change(value, message)

    def _encoded_change(self, change: Change, message: bytes) -> bytes:
        match change.payload:
            case Message(transactional=transactional, prefix=prefix, content=content):
                head = b"M" + bytes((transactional,)) + message[2:10] + string(prefix)
                return head + struct.pack(">I", len(content)) + content
            case Truncate() as truncate:
                options = truncate.cascade + 2 * truncate.restart_identity
                oids = struct.unpack(f">{len(truncate.tables)}I", message[6:])
                assert tuple(self.relations[oid].id for oid in oids) == truncate.tables
                return b"T" + struct.pack(f">IB{len(oids)}I", len(oids), options, *oids)
        known = Known(int.from_bytes(message[1:5]), self.relations[int.from_bytes(message[1:5])])
        assert known.table.id == change.table
        key_tuple = b""
        if change.old_key is not None:
            values, end = parse_tuple(message, 6)
            assert [values[i] for i in known.table.key_indexes] == key_decoder(known.table)(change.old_key, 0)
            key_tuple = message[6:end]
        return row_message(change, known, key_tuple)


EMPTY = TableSchema("public", "nothing", ReplicaIdentity.NOTHING, ())
TestStream = Stream.TestCase
