"""An ANCHOR's entries as one value: what alters them does no more, and the log's texts stay as they are."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.capture.ddl.judging import after_message
from pipeline.capture.entries.announcements import JOINS, LEAVES
from pipeline.capture.entries.ended import ENDED
from pipeline.capture.entries.limitednames import LIMITED
from pipeline.capture.entries.names import NAMES, KnownName, catalog_rows
from pipeline.capture.entries.partitions import MEMBERS
from pipeline.capture.entries.shapes import SHAPES, TYPES
from pipeline.capture.entries.told import SCHEMAS, TOLD, TRACKED, TRACKING, UNSEEN, Told
from schemas.ddl.message import SENT, TOO_LARGE, ObjectChange, SchemaMessage
from schemas.entries import Entries, Kind
from schemas.errors import InternalError

WRITTEN: dict[Kind[Any, Any], list[str]] = {
    NAMES: ["table:16384:public.customer", 'table:16385:a:b."c:'],
    SHAPES: ["shape:16384:16390:3:aa:bb:", "shape:16385:16391:7:aa:bb:2,3", "shape:9:0:7:aa:bb::1,2,7"],
    TYPES: ["type:16400:3:0123456789abcdef", "type:16401:16409:aa"],
    MEMBERS: ["part:2:1:s.of an earlier release", "part:3:1p:s.t:1", "part:4:1u:s.t2", "part:1:1p:s.t"],
    LIMITED: ['limited:[9, "s", "t", ["id", "\\u00e9"], false]', 'limited:[0, "s", "t", null, true]'],
    TOLD: [
        'told:[7, "s", "t", "aa", "", false]',
        'told:[8, "s", "u", "bb", "pg_publication_rel:1:2", true, "g"]',
    ],
    LEAVES: [
        'left:["pg_publication_rel:2:100", 101, 7, "s", "t", 0]',
        'left:["r:3:1", 101, 8, "s", "u", 77, "g"]',
    ],
    SCHEMAS: ['schema:[2200, "renamed"]'],
    UNSEEN: ["unseen:801", "unseen:4294967295"],
    ENDED: ['untracked:[1700000000, "an event trigger was \\"disabled\\""]'],
    JOINS: ["join:801"],
    TRACKING: ["ddl:1"],
}
"""As releases wrote them."""

texts = st.lists(
    st.one_of(
        st.sampled_from([text for each in WRITTEN.values() for text in each]),
        st.from_regex(
            r"(pg_publication(_rel|_namespace)?|later|table_of_later):[0-9a-z:]{0,5}", fullmatch=True
        ),
        st.text(max_size=5),
    ),
    max_size=12,
)


def kind_of(text: str) -> str:
    return text.partition(":")[0]


def of_each_kind(texts: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in texts:
        found.setdefault(kind_of(text), []).append(text)
    return found


@given(texts)
def test_all_entries_are_written_as_they_came_those_of_a_kind_together_in_their_order(
    came: list[str],
) -> None:
    entries = Entries.parse(came)
    written = entries.encode()
    assert of_each_kind(written) == of_each_kind(came)
    assert Entries.parse(written).encode() == written
    for kind in WRITTEN:
        entries.of(kind)
    assert entries.encode() == written, "reading alters nothing"


@pytest.mark.parametrize(("kind", "written"), WRITTEN.items(), ids=lambda each: getattr(each, "name", ""))
def test_what_is_read_of_any_release_s_entry_is_written_to_the_letter(
    kind: Kind[Any, Any], written: list[str]
) -> None:
    read = Entries.parse(written).of(kind)
    assert len(read) == len(written)
    assert Entries().put(kind, *read.values()).encode() == tuple(written)


NUMBERED: Kind[int, tuple[int, str]] = Kind(
    "told", "numbers", lambda value: value[0], lambda text: tuple(json.loads(text)), json.dumps
)
steps = st.lists(
    st.tuples(st.sampled_from(["put", "drop"]), st.integers(0, 4), st.text(max_size=2)), max_size=12
)


@given(st.lists(st.integers(0, 4), max_size=5, unique=True), texts, steps)
def test_put_and_drop_do_what_a_filter_of_the_texts_by_their_prefix_does(
    first: list[int], others: list[str], steps: list[tuple[str, int, str]]
) -> None:
    others = [text for text in others if kind_of(text) != "told"]
    naive = [*others, *(f'told:[{oid}, ""]' for oid in first)]
    entries = Entries.parse(naive)
    for step, oid, said in steps:
        before, earlier = entries, entries.encode()
        own = [text for text in naive if text.startswith(f"told:[{oid}, ")]
        naive = [text for text in naive if text not in own]
        if step == "put":
            naive.append(f"told:{json.dumps([oid, said])}")
            entries = entries.put(NUMBERED, (oid, said))
        else:
            entries = entries.drop(NUMBERED, oid)
        assert sorted(entries.encode()) == sorted(naive)
        assert before.encode() == earlier, "it is immutable"
    assert (NUMBERED in entries) == any(kind_of(text) == "told" for text in naive)
    assert sorted(entries.without(NUMBERED).encode()) == sorted(others)
    assert entries.only(NUMBERED).encode() == tuple(
        text for text in entries.encode() if kind_of(text) == "told"
    )
    assert sorted((entries.without(NUMBERED) | entries.only(NUMBERED)).encode()) == sorted(naive)


def test_one_that_is_replaced_keeps_its_place_and_a_new_one_comes_last() -> None:
    entries = Entries.parse(["table:1:s.a", "later:x", "table:2:s.b"])
    entries = entries.put(NAMES, KnownName(3, "s.c"), KnownName(1, "s.d"))
    assert entries.encode() == ("table:1:s.d", "table:2:s.b", "table:3:s.c", "later:x")
    assert entries.drop(NAMES, 4) is entries
    assert entries.drop(NAMES, 1, 2, 3).encode() == ("later:x",)


@pytest.mark.parametrize(
    ("kind", "text", "about"),
    [
        (TOLD, "told:[7]", "a table's schema messages"),
        (TOLD, "told:7", "a table's schema messages"),
        (MEMBERS, "part:1::s.t", "a partition"),
        (NAMES, "table:s.t", "a table's name"),
        (LIMITED, "limited:[", "a table's column list or row filter"),
        (SHAPES, "shape:7:x:1:aa:bb:", "a table"),
        (ENDED, "untracked:1:x", "the end of schema changes' tracking"),
    ],
)
def test_an_entry_that_cannot_be_read_is_one_error_and_carried_until_it_is_asked_for(
    kind: Kind[Any, Any], text: str, about: str
) -> None:
    entries = Entries.parse([text]).put(UNSEEN, 801)
    assert entries.encode() == (text, "unseen:801")
    with pytest.raises(InternalError) as caught:
        entries.of(kind)
    assert caught.value.code == "anchor-malformed"
    assert caught.value.message == f"an ANCHOR's entry about {about} cannot be read"


def table(oid: int, columns: int) -> dict[str, Any]:
    made = [[n, f"c{n}", "700", "23:-1", "", 0, False] for n in range(1, columns + 1)]
    shape = {"filenode": oid, "natts": columns, "columns": made}
    return {
        "schema": "s",
        "name": f"t{oid}",
        "kind": "r",
        "partition_of": None,
        "published": ["p"],
        "shape": shape,
    }


def test_a_message_that_alters_many_tables_reads_each_entry_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Capture took 15 s for a thousand."""
    oids = range(100)
    rows = [f"pg_publication_rel:{oid}:1" for oid in oids]
    known = (
        Entries.parse(rows).put(TRACKING, TRACKED).put(TOLD, *(Told(oid, "s", f"t{oid}", "") for oid in oids))
    )
    entries = Entries.parse(known.put(NAMES, *(KnownName(oid, f"s.t{oid}") for oid in oids)).encode())
    read: list[str] = []
    load = json.loads

    def loads(text: str) -> Any:
        read.append(text)
        return load(text)

    monkeypatch.setattr(json, "loads", loads)
    changes = tuple(ObjectChange("table", oid, table(oid, 1), table(oid, 2)) for oid in oids)
    after = after_message(entries, SchemaMessage("801", 0, changes=changes), "p")
    assert len(read) == len(oids)
    assert after.of(SHAPES).keys() == set(oids)
    assert catalog_rows(after) == set(rows)
    assert UNSEEN in after


@pytest.mark.parametrize("rewritten", [SENT, TOO_LARGE])
def test_a_table_that_one_transaction_rewrites_twice_is_known_by_its_newest_file(rewritten: str) -> None:
    """A column's row is then of the same transaction as before: nothing but its file tells them apart, and a
    partition's unknown file looks like that of a TRUNCATE."""
    first, second = table(7, 1), table(7, 1)
    second["shape"]["filenode"] = 8
    entries = Entries.parse(["pg_publication_rel:7:1"]).put(TRACKING, TRACKED)
    entries = entries.put(NAMES, KnownName(7, "s.t7")).put(TOLD, Told(7, "s", "t7", ""))
    change = ObjectChange("table", 7, first, second, rewritten)
    after = after_message(entries, SchemaMessage("801", 0, changes=(change,)), "p")
    assert after.of(SHAPES)[7].filenode == 8
