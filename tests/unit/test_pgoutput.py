"""The decoder on messages that a real server sent: whole, cut at every byte, with bytes to spare, mutated."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from schemas.avro import RowCodec
from schemas.change import UNCHANGED, Change, Message, Operation, TextValue, Truncate
from schemas.errors import InternalError, KeepstreamError, RefusedData
from schemas.lsn import Lsn
from schemas.table import ReplicaIdentity, TableSchema

RECORDED = tuple(
    bytes.fromhex(line)
    for line in Path(__file__).with_name("recorded_pgoutput.txt").read_text().splitlines()
    if not line.startswith("#")
)
NOTES = b"n" * 2100


def decoder_before(index: int) -> Decoder:
    """A decoder that was fed all messages before this one."""
    decoder = Decoder()
    for message in RECORDED[:index]:
        decoder.decode(message)
    return decoder


def decoded() -> list[Decoded]:
    decoder = Decoder()
    return [decoder.decode(message) for message in RECORDED]


def tables() -> dict[bytes, TableSchema]:
    return {value.table.id: value.table for value in decoded() if isinstance(value, RelationChanged)}


def changes(name: str) -> list[Change]:
    """The rows' changes of one table, in order."""
    found = tables()
    return [
        value
        for value in decoded()
        if isinstance(value, Change) and value.table in found and found[value.table].name == name
    ]


def row_of(change: Change) -> list[bytes | None]:
    assert change.row is not None
    return RowCodec(tables()[change.table]).decode_row(change.row)


def old_row_of(change: Change) -> list[bytes | None]:
    assert change.old_row is not None
    return RowCodec(tables()[change.table]).decode_row(change.old_row)


def key_of(change: Change) -> list[bytes | None]:
    assert change.old_key is not None
    return RowCodec(tables()[change.table]).decode_key(change.old_key)


def ids(message: bytes) -> str:
    return f"{chr(message[0])}{len(message)}"


def test_every_transaction_is_one_begin_its_changes_and_the_commit_that_begin_announced() -> None:
    opened: Begin | None = None
    closed = 0
    for value in decoded():
        if isinstance(value, Begin):
            assert opened is None
            opened = value
        elif isinstance(value, Commit):
            assert opened is not None
            assert value.commit_lsn == opened.commit_lsn
            assert value.commit_time == opened.commit_time
            assert value.end_lsn > value.commit_lsn
            opened = None
            closed += 1
    assert opened is None
    assert closed == 10


def test_commit_times_are_microseconds_since_1970() -> None:
    stamped = next(value for value in decoded() if isinstance(value, Origin))
    assert stamped == Origin(Lsn(0xAB_000000CD), "upstream")
    begin = decoded()[decoded().index(stamped) - 1]
    assert isinstance(begin, Begin)
    assert begin.commit_time == 1_704_067_200_000_000  # 2024-01-01T00:00:00Z


def test_a_relation_gives_names_types_and_the_key_of_each_replica_identity() -> None:
    by_name = {table.name: table for table in tables().values() if table.name != "nothing"}
    party = by_name["party"]
    assert (party.schema, party.replica_identity, party.key_indexes) == (
        "public",
        ReplicaIdentity.DEFAULT,
        (0,),
    )
    assert [column.type_name for column in party.columns] == [
        "integer",
        "character varying(40)",
        "numeric(12,2)",
        '"public"."mood"',
        '"pg_catalog"."text"',  # a domain is named by its base type
        "text",
        '"public"."_mood"',
        "timestamp with time zone",
    ]
    assert by_name["full_identity"].replica_identity is ReplicaIdentity.FULL
    assert by_name["full_identity"].key_indexes == (0, 1, 2)
    line = by_name["Order Line"]
    assert (line.schema, line.replica_identity, line.key_indexes) == (
        "Sales Dept",
        ReplicaIdentity.INDEX,
        (0, 1),
    )


def test_an_unchanged_version_of_a_table_is_the_same_object() -> None:
    versions = [
        value for value in decoded() if isinstance(value, RelationChanged) and value.table.name == "nothing"
    ]
    first, again, after_commit, widened = versions
    assert again.table is after_commit.table is first.table
    assert [column.name for column in widened.table.columns] == ["a", "b"]


def test_types_are_named_before_the_relation_that_uses_them() -> None:
    named = [value for value in decoded() if isinstance(value, TypeNamed)]
    assert [(value.namespace, value.name) for value in named[:3]] == [
        ("public", "mood"),
        ("pg_catalog", "text"),
        ("public", "_mood"),
    ]


def test_an_insert_holds_every_value_and_null() -> None:
    anna, zoe = changes("party")[:2]
    assert row_of(anna) == [
        b"1", b"Anna", b"12.50", b"so so", b"a@b.c", NOTES, b"{sad,NULL}", b"2024-02-29 10:34:56.789+00",
    ]  # fmt: skip
    assert row_of(zoe) == [b"2", "Zoë 🐘".encode(), None, None, None, None, None, None]
    assert anna.absent == zoe.absent == ()


def test_an_unchanged_toast_value_is_absent_and_not_null() -> None:
    update = changes("party")[2]
    assert update.operation is Operation.UPDATE
    assert update.absent == (5,)
    assert (update.old_key, update.old_row) == (None, None)
    assert row_of(update)[2] == b"-0.01"


def test_a_key_change_holds_the_old_key_alone() -> None:
    update = changes("party")[3]
    assert key_of(update) == [b"1"]
    assert update.old_row is None
    assert row_of(update)[0] == b"3"
    assert update.absent == (5,)


def test_a_delete_holds_the_key() -> None:
    delete = changes("party")[4]
    assert delete.operation is Operation.DELETE
    assert (key_of(delete), delete.row, delete.old_row) == ([b"2"], None, None)


def test_replica_identity_full_holds_the_whole_old_row_toast_included() -> None:
    first, _, widened, _, delete = changes("full_identity")
    assert row_of(first) == [b"1", None, b"c" * 2100]
    assert old_row_of(widened) == [b"1", None, b"c" * 2100]
    assert widened.absent == (2,)
    assert row_of(widened)[:2] == [b"1", b"b"]
    assert old_row_of(delete) == [b"1", b"b", b"x"]
    assert delete.old_key is None


def test_an_index_as_replica_identity_gives_its_columns_as_key() -> None:
    _, key_changed, key_kept, delete = changes("Order Line")
    assert key_of(key_changed) == [b"1", b"b"]
    assert key_kept.old_key is None
    assert key_of(delete) == [b"1", b"B"]


def test_a_key_in_toast_is_sent_whole() -> None:
    _, value_changed, key_changed = changes("kt")
    assert key_of(value_changed) == [b"k" * 1500]
    assert value_changed.absent == (0,)
    assert key_of(key_changed) == [b"k" * 1500]
    assert row_of(key_changed) == [b"new", b"short"]


def test_a_truncate_names_all_its_tables_and_its_options() -> None:
    found = tables()
    payloads = [
        value.payload
        for value in decoded()
        if isinstance(value, Change) and isinstance(value.payload, Truncate)
    ]
    cascade, plain = payloads
    assert [found[table].name for table in cascade.tables] == ["party", "child"]
    assert (cascade.cascade, cascade.restart_identity) == (True, True)
    assert [found[table].name for table in plain.tables] == ["full_identity", "nothing"]
    assert (plain.cascade, plain.restart_identity) == (False, False)


def test_a_message_says_whether_it_belongs_to_its_transaction() -> None:
    messages = [
        value.payload
        for value in decoded()
        if isinstance(value, Change) and isinstance(value.payload, Message)
    ]
    assert messages == [
        Message(transactional=True, prefix="keepstream.join", content=b"{}"),
        Message(transactional=False, prefix="outside", content=b"\x00\xff"),
    ]


@pytest.mark.parametrize("index", range(len(RECORDED)), ids=lambda index: f"{index}-{ids(RECORDED[index])}")
def test_a_message_cut_at_any_byte_is_refused(index: int) -> None:
    decoder = decoder_before(index)
    message = RECORDED[index]
    for length in range(len(message)):
        with pytest.raises(InternalError) as caught:
            decoder.decode(message[:length])
        assert caught.value.code == ("pgoutput-malformed" if length else "pgoutput-unknown")
    decoder.decode(message)


@pytest.mark.parametrize("index", range(len(RECORDED)), ids=lambda index: f"{index}-{ids(RECORDED[index])}")
@pytest.mark.parametrize("junk", [b"\0", b"n", b"N\0\0", b"t\0\0\0\1x", bytes(64)])
def test_bytes_to_spare_are_refused(index: int, junk: bytes) -> None:
    decoder = decoder_before(index)
    with pytest.raises(InternalError) as caught:
        decoder.decode(RECORDED[index] + junk)
    assert caught.value.code == "pgoutput-malformed"


@pytest.mark.parametrize(
    "message",
    [
        struct.pack(">cQqI", b"B", 1 << 63, 0, 7),
        struct.pack(">cQqI", b"B", 8, (1 << 63) - 1, 7),
        struct.pack(">cBQQq", b"C", 0, 8, 1 << 63, 0),
    ],
)
def test_numbers_that_the_log_cannot_hold_are_refused(message: bytes) -> None:
    with pytest.raises(InternalError) as caught:
        Decoder().decode(message)
    assert caught.value.code == "pgoutput-malformed"


@pytest.mark.parametrize("kind", [kind for kind in range(256) if kind not in b"BCIUDTRYMO"])
def test_a_kind_that_was_not_asked_for_is_refused(kind: int) -> None:
    with pytest.raises(InternalError) as caught:
        Decoder().decode(bytes((kind,)) + bytes(40))
    assert caught.value.code == "pgoutput-unknown"


def test_a_refused_stream_message_is_named() -> None:
    with pytest.raises(InternalError) as caught:
        Decoder().decode(b"S" + bytes(5))
    assert caught.value.message == "pgoutput sent what was not asked for: Stream Start"


@pytest.mark.parametrize("kind", ["I", "U", "D", "T"])
def test_a_row_before_its_relation_is_refused(kind: str) -> None:
    message = next(message for message in RECORDED if message[0] == ord(kind))
    with pytest.raises(InternalError) as caught:
        Decoder().decode(message)
    assert caught.value.code == "pgoutput-relation-unknown"


def test_no_error_holds_a_value() -> None:
    index = next(i for i, message in enumerate(RECORDED) if message[0] == ord("I"))
    message = RECORDED[index]
    broken = [
        message[:-3],
        message + b"x",
        message.replace(b"12.50", b"12.x0"),
        message.replace(b"Anna", b"\xffnna"),
    ]
    for bad in broken:
        try:
            decoder_before(index).decode(bad)
        except KeepstreamError as exc:
            text = f"{exc} {exc.hint} {exc.__cause__}"
            assert "nna" not in text
            assert "12." not in text


@pytest.mark.parametrize("flags", [2, 3, 255])
def test_unknown_flags_of_a_message_are_refused(flags: int) -> None:
    message = next(message for message in RECORDED if message[0] == ord("M"))
    with pytest.raises(InternalError, match="cannot be read"):
        Decoder().decode(bytes((message[0], flags)) + message[2:])


def column(name: bytes, *, key: bool) -> bytes:
    return bytes((key,)) + name + b"\0" + struct.pack(">Ii", 25, -1)


def text_decoder(width: int) -> Decoder:
    """Knows relation 7, a table of `width` text columns, the first of them its key."""
    decoder = Decoder()
    head = b"R" + struct.pack(">I", 7) + b"public\0t\0d" + struct.pack(">H", width)
    decoder.decode(head + b"".join(column(b"c%d" % i, key=i == 0) for i in range(width)))
    return decoder


def encode_tuple(values: list[TextValue]) -> bytes:
    pieces = [struct.pack(">H", len(values))]
    for value in values:
        if value is None:
            pieces.append(b"n")
        elif value is UNCHANGED:
            pieces.append(b"u")
        else:
            pieces += (b"t", struct.pack(">I", len(value)), value)
    return b"".join(pieces)


texts = st.one_of(
    st.none(), st.text(max_size=40).map(str.encode), st.integers(0, 5000).map(lambda n: b"x" * n)
)
rows = st.lists(texts, min_size=1, max_size=6)


@given(rows, st.data())
def test_the_compiled_path_and_the_plain_parser_agree(row: list[bytes | None], data: st.DataObject) -> None:
    decoder = text_decoder(len(row))
    absent = data.draw(st.sets(st.integers(0, len(row) - 1)))
    new: list[TextValue] = [UNCHANGED if i in absent else value for i, value in enumerate(row)]
    old: list[TextValue] = [b"key", *([None] * (len(row) - 1))]
    message = b"U" + struct.pack(">I", 7) + b"K" + encode_tuple(old) + b"N" + encode_tuple(new)
    change = decoder.decode(message)
    values, at = parse_tuple(message, 6)
    assert values == old
    values, end = parse_tuple(message, at + 1)
    assert (values, end) == (new, len(message))
    table = decoder.table(7)
    assert isinstance(change, Change)
    assert table is not None
    codec = RowCodec(table)
    assert (change.row, change.absent) == codec.encode_row(values)
    assert change.old_key == codec.encode_key(old)


def test_an_old_tuple_or_an_insert_with_a_missing_value_is_refused() -> None:
    decoder = text_decoder(2)
    head = struct.pack(">I", 7)
    missing = encode_tuple([b"a", UNCHANGED])
    with pytest.raises(InternalError) as caught:
        decoder.decode(b"D" + head + b"O" + missing)
    assert caught.value.code == "pgoutput-malformed"
    with pytest.raises(RefusedData) as refused:
        decoder.decode(b"I" + head + b"N" + missing)
    assert refused.value.code == "row-incomplete"
    assert 'alter table only "public"."t" replica identity full;' in refused.value.hint


def test_a_binary_column_is_refused() -> None:
    binary = struct.pack(">H", 1) + b"b" + struct.pack(">I", 1) + b"x"
    with pytest.raises(InternalError) as caught:
        text_decoder(1).decode(b"I" + struct.pack(">I", 7) + b"N" + binary)
    assert caught.value.code == "pgoutput-malformed"


def mutations() -> Iterator[Callable[[bytes, int, int], bytes]]:
    yield lambda message, at, byte: message[:at] + bytes((byte,)) + message[at + 1 :]
    yield lambda message, at, byte: message[:at] + message[at + 1 :]
    yield lambda message, at, byte: message[:at] + bytes((byte,)) + message[at:]


@given(
    st.integers(0, len(RECORDED) - 1),
    st.sampled_from(list(mutations())),
    st.integers(0, 200),
    st.integers(0, 255),
)
def test_a_damaged_message_is_decoded_whole_or_refused_by_name(
    index: int, mutate: Callable[[bytes, int, int], bytes], at: int, byte: int
) -> None:
    message = mutate(RECORDED[index], at % len(RECORDED[index]), byte)
    try:
        decoder_before(index).decode(message)
    except KeepstreamError as exc:
        assert exc.code  # noqa: PT017 - anything else is an error of the test


@given(st.binary(max_size=200))
def test_noise_is_never_a_crash(noise: bytes) -> None:
    try:
        decoder_before(len(RECORDED)).decode(noise)
    except KeepstreamError as exc:
        assert exc.code  # noqa: PT017
