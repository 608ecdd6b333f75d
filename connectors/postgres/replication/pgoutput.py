"""pgoutput, decoded: bytes of one XLogData payload in, one value out. No socket, no clock.

Theory of operation. The stream is a sequence of messages, each whole in one payload. `B` opens a
transaction, `C` ends it; between them stand rows (`I`, `U`, `D`), `T`, `M`, `O`. Rows name their table
by OID only; the Relation message (`R`) that explains an OID comes before the first row that needs it
and again after anything about the table changed, and Type messages (`Y`) that name its user-defined
types come before that. So a decoder belongs to one connection and is fed everything in order. A
row's text goes to Avro bytes in one step, by encoders compiled once per table version.

Protocol version 1, streaming off: stream and two-phase messages never come. Values in binary form come only
where they were asked for, and then the encoders are those of `connectors.postgres.binary.rows`. Whatever is
not understood to its last byte raises; a wrong value is never returned.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Final, NoReturn

from connectors.postgres.catalog.replica_identity import full_identity_sql
from schemas.avro import key_encoder, row_encoder
from schemas.change import UNCHANGED, Change, Message, Operation, TextValue, Truncate
from schemas.errors import BEGIN_ANEW, InternalError, KeepstreamError, RefusedData
from schemas.lsn import Lsn
from schemas.pgtypes import format_type
from schemas.table import Column, ReplicaIdentity, TableSchema

EncodeTuple = Callable[[bytes, int], tuple[bytes, tuple[int, ...], int]]
"""(message, offset of a TupleData) → (Avro record, indexes of unsent columns, offset after it)."""

MakeEncoder = Callable[[TableSchema, tuple[int, ...]], EncodeTuple]
"""(table version, places in its tuples that are no columns of it) → its encoder"""

_EPOCH_MICROSECONDS: Final = 946_684_800_000_000  # 2000-01-01, PostgreSQL's zero, since 1970
_INT16: Final = struct.Struct(">H")
_INT32: Final = struct.Struct(">I")
_BEGIN: Final = struct.Struct(">QqI")
_COMMIT: Final = struct.Struct(">BQQq")
_COLUMN_TAIL: Final = struct.Struct(">Ii")
_TRUNCATE: Final = struct.Struct(">IB")
_oid_at = _INT32.unpack_from

_NEW, _KEY, _OLD = b"NKO"
_NULL, _UNSENT, _TEXT, _BINARY = b"nutb"
_INSERT, _UPDATE, _DELETE = Operation.INSERT, Operation.UPDATE, Operation.DELETE
_NO_TABLE: Final = bytes(8)
_NEVER_ASKED_FOR: Final = {
    ord(kind): name
    for kind, name in {
        "S": "Stream Start", "E": "Stream Stop", "c": "Stream Commit", "A": "Stream Abort",
        "b": "Begin Prepare", "P": "Prepare", "K": "Commit Prepared", "r": "Rollback Prepared",
        "p": "Stream Prepare",
    }.items()
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Begin:
    """`B`. `commit_lsn` is where the transaction's commit record starts; `commit_time` is in µs since
    1970 UTC."""

    commit_lsn: Lsn
    commit_time: int
    xid: int


@dataclass(frozen=True, slots=True)
class Commit:
    """`C`. After it stands the position `end_lsn` (P1)."""

    commit_lsn: Lsn
    end_lsn: Lsn
    commit_time: int


@dataclass(frozen=True, slots=True)
class Origin:
    """`O`. The transaction was replicated into the source from `name`, where it committed at
    `commit_lsn`."""

    commit_lsn: Lsn
    name: str


@dataclass(frozen=True, slots=True)
class RelationChanged:
    """`R`. From here on rows of `oid` have the columns that `table` tells; the same object as before when
    nothing that we keep changed."""

    oid: int
    table: TableSchema


@dataclass(frozen=True, slots=True)
class TypeNamed:
    """`Y`. Names a user-defined type; for a domain PostgreSQL sends the name of its base type."""

    oid: int
    namespace: str
    name: str


Decoded = Begin | Commit | Origin | RelationChanged | TypeNamed | Change
"""What one message means. A Change whose payload is a Message with `transactional=False` belongs to no
transaction and stands between two of them."""


class _Relation:
    """One table version with its encoders, as rows find it by OID. `described`: as pgoutput has it, which
    may be wider: `skipped` says where."""

    __slots__ = ("described", "encode_key", "encode_row", "id", "name", "skipped", "table")

    def __init__(
        self,
        described: TableSchema,
        table: TableSchema,
        skipped: tuple[int, ...],
        name: tuple[str, str] | None,
        encode_row: EncodeTuple,
        encode_key: EncodeTuple,
    ) -> None:
        self.described = described
        self.table = table
        self.skipped = skipped
        self.name = name
        self.id = table.id
        self.encode_row = encode_row
        self.encode_key = encode_key


class Decoder:
    """Decodes the messages of one connection, in order."""

    def __init__(
        self,
        *,
        row_encoder: MakeEncoder = row_encoder,
        key_encoder: MakeEncoder = key_encoder,
        binary: bool = False,
    ) -> None:
        """`binary`: values in binary form were asked for; then the encoders know them."""
        self._binary = binary
        self._row_encoder = row_encoder
        self._key_encoder = key_encoder
        self._types: dict[int, tuple[str, str]] = {}
        self._relations: dict[int, _Relation] = {}
        self._by_kind: dict[int, Callable[[bytes], Decoded]] = {
            ord("I"): self._insert,
            ord("U"): self._update,
            ord("D"): self._delete,
            ord("B"): _begin,
            ord("C"): _commit,
            ord("R"): self._relation,
            ord("Y"): self._type,
            ord("T"): self._truncate,
            ord("M"): _message,
            ord("O"): _origin,
        }

    def decode(self, message: bytes) -> Decoded:
        """One whole message, from its kind byte on.

        Raises InternalError: `pgoutput-unknown` (a kind that was not asked for), `pgoutput-malformed`
        (cut short, bytes left over, impossible content), `pgoutput-relation-unknown`; and
        what `schemas.pgtypes` and the row encoders raise for values that cannot be carried.
        """
        try:
            decode = self._by_kind[message[0]]
        except LookupError:
            _refuse_kind(message)
        try:
            return decode(message)
        except (LookupError, struct.error, ValueError, ArithmeticError):
            _check_rows(message, binary=self._binary)
            raise _malformed(message) from None  # the cause would print row values
        except KeepstreamError:
            _check_rows(message, binary=self._binary)
            raise

    def table(self, oid: int) -> TableSchema | None:
        """The version that rows of this table have now; None before its Relation message."""
        relation = self._relations.get(oid)
        return None if relation is None else relation.table

    def leave_out(
        self, oid: int, columns: Collection[str], *, name: tuple[str, str] | None = None
    ) -> TableSchema:
        """Rows of this described table are decoded without these columns from here on, until it is described
        in another way. `name`: schema and name that their version has; None: as described. Returns it."""
        relation = self._relations[oid]
        described = relation.described
        skipped = tuple(i for i, column in enumerate(described.columns) if column.name in columns)
        if skipped != relation.skipped or name != relation.name:
            relation = self._remember(oid, described, skipped, name)
        return relation.table

    def call(self, oid: int, name: tuple[str, str]) -> TableSchema | None:
        """Rows of this table have a version of this schema and name from here on. Returns it; None where the
        table was not described yet."""
        relation = self._relations.get(oid)
        if relation is None:
            return None
        return self._remember(oid, relation.described, relation.skipped, name).table

    def skipped(self, oid: int) -> tuple[int, ...]:
        """The places in this described table's tuples that its version lacks."""
        return self._relations[oid].skipped

    def _insert(self, message: bytes) -> Change:
        """`I` oid `N` TupleData."""
        relation = self._relations.get(_oid_at(message, 1)[0]) or _refuse_relation(message)
        row, absent, end = relation.encode_row(message, 6)
        if message[5] != _NEW or end != len(message):
            raise _malformed(message)
        if absent:
            raise _unsent(relation.table, absent)
        return Change(_INSERT, relation.id, None, None, row)

    def _update(self, message: bytes) -> Change:
        """`U` oid [`K` TupleData | `O` TupleData] `N` TupleData."""
        relation = self._relations.get(_oid_at(message, 1)[0]) or _refuse_relation(message)
        old_key = old_row = None
        at = 5
        if message[5] != _NEW:
            old_key, old_row, at = _old(relation, message)
            if message[at] != _NEW:
                raise _malformed(message)
        row, absent, end = relation.encode_row(message, at + 1)
        if end != len(message):
            raise _malformed(message)
        return Change(_UPDATE, relation.id, old_key, old_row, row, absent)

    def _delete(self, message: bytes) -> Change:
        """`D` oid (`K` | `O`) TupleData."""
        relation = self._relations.get(_oid_at(message, 1)[0]) or _refuse_relation(message)
        old_key, old_row, end = _old(relation, message)
        if end != len(message):
            raise _malformed(message)
        return Change(_DELETE, relation.id, old_key, old_row)

    def _truncate(self, message: bytes) -> Change:
        """`T` Int32 count, Int8 options (1 CASCADE, 2 RESTART IDENTITY), oids."""
        count, options = _TRUNCATE.unpack_from(message, 1)
        if len(message) != 6 + 4 * count or options > 3:
            raise _malformed(message)
        oids = struct.unpack_from(f">{count}I", message, 6)
        tables = tuple((self._relations.get(oid) or _refuse_relation(message, oid)).id for oid in oids)
        payload = Truncate(tables, cascade=bool(options & 1), restart_identity=bool(options & 2))
        return Change(Operation.TRUNCATE, _NO_TABLE, payload=payload)

    def _type(self, message: bytes) -> TypeNamed:
        """`Y` oid, namespace, name."""
        namespace, at = _string(message, 5)
        name, at = _string(message, at)
        if at != len(message):
            raise _malformed(message)
        named = TypeNamed(_oid_at(message, 1)[0], namespace or "pg_catalog", name)
        self._types[named.oid] = (named.namespace, named.name)
        return named

    def _relation(self, message: bytes) -> RelationChanged:
        """`R` oid, namespace, name, replica identity, Int16 count, columns."""
        oid = _oid_at(message, 1)[0]
        namespace, at = _string(message, 5)
        name, at = _string(message, at)
        identity = ReplicaIdentity(chr(message[at]))
        count = _INT16.unpack_from(message, at + 1)[0]
        at += 3
        columns = []
        for _ in range(count):
            column, at = self._column(message, at, f"{namespace or 'pg_catalog'}.{name}")
            columns.append(column)
        if at != len(message):
            raise _malformed(message)
        table = TableSchema(namespace or "pg_catalog", name, identity, tuple(columns))
        return self._learn(oid, table)

    def _column(self, message: bytes, at: int, table: str) -> tuple[Column, int]:
        """Int8 flags (1: part of the replica identity), name, type oid, type modifier."""
        flags = message[at]
        if flags > 1:
            raise _malformed(message)
        name, at = _string(message, at + 1)
        type_oid, modifier = _COLUMN_TAIL.unpack_from(message, at)
        where = f"{table}.{name}"
        type_name = format_type(type_oid, modifier, self._types.get(type_oid), column=where)
        return Column(name, type_oid, modifier, type_name, flags == 1), at + 8

    def _learn(self, oid: int, table: TableSchema) -> RelationChanged:
        known = self._relations.get(oid)
        if known is None or known.described != table:
            known = self._remember(oid, table, ())
        return RelationChanged(oid, known.described)

    def _remember(
        self,
        oid: int,
        described: TableSchema,
        skipped: tuple[int, ...],
        name: tuple[str, str] | None = None,
    ) -> _Relation:
        table = described.without(skipped)
        if name is not None:
            table = replace(table, schema=name[0], name=name[1])
        encode_row, encode_key = self._row_encoder(table, skipped), self._key_encoder(table, skipped)
        relation = self._relations[oid] = _Relation(described, table, skipped, name, encode_row, encode_key)
        return relation


def _old(relation: _Relation, message: bytes) -> tuple[bytes | None, bytes | None, int]:
    """The old tuple at offset 5: (key, row, end), one of the first two. Under `K` the columns outside
    the key are NULL on the wire and are not values."""
    kind = message[5]
    if kind == _KEY:
        key, absent, end = relation.encode_key(message, 6)
        row = None
    elif kind == _OLD:
        row, absent, end = relation.encode_row(message, 6)
        key = None
    else:
        raise _malformed(message)
    if absent:  # PostgreSQL always sends an old tuple whole
        raise _malformed(message)
    return key, row, end


def _begin(message: bytes) -> Begin:
    """`B` Int64 LSN of the commit, Int64 time, Int32 xid."""
    if len(message) != 21:
        raise _malformed(message)
    commit_lsn, time, xid = _BEGIN.unpack_from(message, 1)
    _require_int64(message, commit_lsn, time + _EPOCH_MICROSECONDS)
    return Begin(commit_lsn, time + _EPOCH_MICROSECONDS, xid)


def _require_int64(message: bytes, *numbers: int) -> None:
    """As Avro's long, which the log has them in."""
    if any(number >> 63 not in (0, -1) for number in numbers):
        raise _malformed(message)


def _commit(message: bytes) -> Commit:
    """`C` Int8 flags (0), Int64 commit LSN, Int64 end LSN, Int64 time."""
    if len(message) != 26:
        raise _malformed(message)
    flags, commit_lsn, end_lsn, time = _COMMIT.unpack_from(message, 1)
    if flags:
        raise _malformed(message)
    _require_int64(message, commit_lsn, end_lsn, time + _EPOCH_MICROSECONDS)
    return Commit(commit_lsn, end_lsn, time + _EPOCH_MICROSECONDS)


def _origin(message: bytes) -> Origin:
    """`O` Int64 commit LSN at the origin, name."""
    name, at = _string(message, 9)
    if at != len(message):
        raise _malformed(message)
    return Origin(Lsn(int.from_bytes(message[1:9])), name)


def _message(message: bytes) -> Change:
    """`M` Int8 flags (1: transactional), Int64 LSN, prefix, Int32 length, content."""
    flags = message[1]
    prefix, at = _string(message, 10)
    content = message[at + 4 :]
    if flags > 1 or _INT32.unpack_from(message, at)[0] != len(content):
        raise _malformed(message)
    payload = Message(transactional=flags == 1, prefix=prefix, content=content)
    return Change(Operation.MESSAGE, _NO_TABLE, payload=payload)


def parse_tuple(message: bytes, at: int, *, binary: bool = False) -> tuple[list[TextValue], int]:
    """One TupleData as plain values, and the offset after it: slow, for tests and diagnosis.

    Int16 count, then per column `n` (NULL), `u` (unchanged TOAST), or `t` Int32 length and text; if
    `binary`, also `b` Int32 length and the type's send form.
    Raises InternalError (`pgoutput-malformed`).
    """
    values: list[TextValue] = []
    try:
        count = _INT16.unpack_from(message, at)[0]
        at += 2
        for _ in range(count):
            value, at = _value(message, at, binary=binary)
            values.append(value)
    except (IndexError, struct.error):
        raise _malformed(message) from None
    return values, at


def _value(message: bytes, at: int, *, binary: bool) -> tuple[TextValue, int]:
    kind = message[at]
    if kind == _NULL:
        return None, at + 1
    if kind == _UNSENT:
        return UNCHANGED, at + 1
    if kind != _TEXT and not (binary and kind == _BINARY):
        raise _malformed(message)
    start = at + 5
    end = start + _INT32.unpack_from(message, at + 1)[0]
    if end > len(message):
        raise _malformed(message)
    return message[start:end], end


def _check_rows(message: bytes, *, binary: bool) -> None:
    """After an encoder refused a value: raise `pgoutput-malformed` if the message itself is broken."""
    if message[0] not in b"IUD":
        return
    _, at = parse_tuple(message, 6, binary=binary)
    while at < len(message):
        _, at = parse_tuple(message, at + 1, binary=binary)


def _string(message: bytes, start: int) -> tuple[str, int]:
    """A NUL-terminated UTF-8 string, and the offset after its NUL. Raises ValueError."""
    end = message.index(0, start)
    return message[start:end].decode(), end + 1


def _unsent(table: TableSchema, absent: tuple[int, ...]) -> RefusedData:
    """Only an UPDATE that brings a row into a row filter becomes such an INSERT."""
    columns = ", ".join(table.columns[i].name for i in absent)
    full = full_identity_sql((table.schema, table.name))
    return RefusedData(
        f"an UPDATE of {table.qualified_name} brought a row into the publication's row filter, and PostgreSQL"
        f" did not send its unchanged value of {columns}",
        code="row-incomplete",
        hint="The log ends before this row and stays valid. So that it does not happen again:"
        f" {full}; (no column list goes with that). Then {BEGIN_ANEW}.",
    )


def _malformed(message: bytes) -> InternalError:
    kind = chr(message[0])
    return InternalError(
        f"pgoutput message {kind!r} of {len(message)} bytes cannot be read",
        code="pgoutput-malformed",
        hint="Report this with the server's version; the slot still holds the message, so nothing is lost.",
    )


def _refuse_kind(message: bytes) -> NoReturn:
    kind = message[0] if message else None
    name = "an empty message" if kind is None else _NEVER_ASKED_FOR.get(kind, f"kind {chr(kind)!r}")
    raise InternalError(
        f"pgoutput sent what was not asked for: {name}",
        code="pgoutput-unknown",
        hint="Report this with the server's version; the slot still holds the message, so nothing is lost.",
    )


def _refuse_relation(message: bytes, oid: int | None = None) -> NoReturn:
    raise InternalError(
        f"pgoutput sent {chr(message[0])!r} for undescribed relation {oid or _oid_at(message, 1)[0]}",
        code="pgoutput-relation-unknown",
        hint="Restart capture: a new connection begins with all descriptions.",
    )
