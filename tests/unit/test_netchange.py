"""The net change of a run against a naive model: apply one by one, apply as sets, compare."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.change import UNCHANGED, Change, TextValue
from schemas.netchange import Netting, NotNettable
from schemas.table import Column, ReplicaIdentity, TableSchema
from tests.fix_apply import Rows


def table(identity: ReplicaIdentity = ReplicaIdentity.DEFAULT) -> TableSchema:
    full = identity is ReplicaIdentity.FULL
    columns = (
        Column("part", 23, -1, "integer", key=True),
        Column("name", 25, -1, "text", key=full),
        Column("id", 25, -1, "text", key=True),
        Column("body", 25, -1, "text", key=full),
    )
    return TableSchema("public", "t", identity, columns)


KEY = (0, 2)
Model = dict[tuple[bytes, bytes], tuple[bytes | None, bytes | None]]


class History:
    """A run of changes that a source could have made, and what becomes of a model of its rows."""

    def __init__(self, rows: Rows, there: Sequence[int]) -> None:
        self._rows = rows
        self._full = rows.table.replica_identity is ReplicaIdentity.FULL
        self.model: Model = {(b"1", b"%d" % number): (b"old", b"body") for number in there}
        self.changes: list[Change] = []
        self.lost_sight = False

    def insert(self, number: int, value: str | None) -> None:
        key = (b"1", b"%d" % number)
        if key not in self.model:
            self.model[key] = (value.encode() if value else None, b"new")
            self.changes.append(self._rows.insert("1", value, str(number), "new"))

    def delete(self, number: int) -> None:
        key = (b"1", b"%d" % number)
        if key in self.model:
            self.changes.append(self._rows.delete(*self._old(key)))
            del self.model[key]

    def update(self, number: int, value: str | None, body: str | None, new: int) -> None:
        """`body` None: it stays as it is and does not come."""
        key, new_key = (b"1", b"%d" % number), (b"1", b"%d" % new)
        if key not in self.model or (new_key != key and new_key in self.model):
            return
        old = self._old(key)
        sent: TextValue = UNCHANGED if body is None else body.encode()
        kept = self.model[key][1]
        values: list[str | TextValue] = ["1", value, str(new), sent]
        moved = new_key != key
        key_came = old if moved and not self._full else None
        self.changes.append(self._rows.update(*values, key=key_came, old=old if self._full else None))
        del self.model[key]
        self.model[new_key] = (value.encode() if value else None, kept if body is None else body.encode())
        self.lost_sight |= moved and body is None

    def _old(self, key: tuple[bytes, bytes]) -> list[str | None]:
        name, body = self.model[key]
        return [key[0].decode(), _text(name), key[1].decode(), _text(body)]


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def apply_sets(model: Model, netting: Netting, changes: Sequence[Change]) -> Model:
    net = netting.net(changes)
    result = dict(model)
    for passed in net.passed:
        assert passed not in result
    for key in net.deleted:
        del result[key]  # type: ignore[arg-type]
    for absent, rows in net.updated.items():
        for part, name, number, body in rows:
            assert part is not None
            assert number is not None
            assert absent in ((), (3,))
            result[part, number] = (name, result[part, number][1] if absent else body)
    for part, name, number, body in net.inserted:
        assert part is not None
        assert number is not None
        assert (part, number) not in result
        result[part, number] = (name, body)
    touched = [*net.deleted, *(tuple(row[i] for i in KEY) for rows in net.updated.values() for row in rows)]
    assert len(touched) == len(set(touched))
    return result


NUMBERS = st.integers(1, 4)
VALUES = st.sampled_from(["a", "b", None])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), NUMBERS, VALUES),
        st.tuples(st.just("delete"), NUMBERS),
        st.tuples(st.just("update"), NUMBERS, VALUES, st.sampled_from([None, "x", "y"]), NUMBERS),
    ),
    max_size=12,
)


@pytest.mark.parametrize("identity", [ReplicaIdentity.DEFAULT, ReplicaIdentity.FULL])
@given(there=st.sets(NUMBERS), steps=STEPS)
def test_sets_make_of_any_rows_what_the_changes_make_of_them(
    identity: ReplicaIdentity, there: set[int], steps: list[tuple[object, ...]]
) -> None:
    described = table(identity)
    history = History(Rows(described), sorted(there))
    before = dict(history.model)
    for verb, *arguments in steps:
        getattr(history, str(verb))(*arguments)
    try:
        after = apply_sets(before, Netting(described, KEY), history.changes)
    except NotNettable:
        assert history.lost_sight
    else:
        assert after == history.model


ROWS = Rows(table())
ONE = ("1", "a", "7", "b")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ([ROWS.insert(*ONE), ROWS.insert(*ONE)], "a row is inserted while it is there"),
        ([ROWS.update(*ONE), ROWS.insert(*ONE)], "a row is inserted while it is there"),
        ([ROWS.delete(*ONE), ROWS.delete(*ONE)], "a row is deleted twice"),
        ([ROWS.delete(*ONE), ROWS.update(*ONE)], "a row is updated after it was deleted"),
        ([ROWS.delete(*ONE), ROWS.update("1", "a", "7", UNCHANGED)], "a row is updated after it was deleted"),
        (
            [ROWS.update("1", "a", "8", UNCHANGED, key=ONE)],
            "a row gets another key while a value of it did not come",
        ),
        ([ROWS.update("1", "a", UNCHANGED, "b")], "a column of the key did not come"),
        ([ROWS.insert("1", "a", None, "b")], "a key is NULL"),
    ],
)
def test_a_run_that_cannot_be_netted_is_refused(changes: list[Change], why: str) -> None:
    with pytest.raises(NotNettable, match=f"^{why}$"):
        Netting(table(), KEY).net(changes)


def test_a_value_that_did_not_come_is_taken_from_the_same_run() -> None:
    changes = [
        ROWS.update("1", "a", "7", "large"),
        ROWS.update("1", "b", "8", UNCHANGED, key=ONE),
        ROWS.update("1", "c", "8", UNCHANGED),
    ]
    net = Netting(table(), KEY).net(changes)
    assert net.deleted == [(b"1", b"7")]
    assert net.inserted == [[b"1", b"c", b"8", b"large"]]
    assert net.updated == {}


def test_a_key_is_told_apart_by_all_its_columns() -> None:
    changes = [ROWS.insert("1", "a", "12", "b"), ROWS.delete("11", "a", "2", "b")]
    net = Netting(table(), KEY).net(changes)
    assert net.deleted == [(b"11", b"2")]
    assert net.inserted == [[b"1", b"a", b"12", b"b"]]


def test_an_update_without_old_values_says_nothing_of_a_key_that_is_not_the_replica_identity() -> None:
    identity = TableSchema(
        "public",
        "t",
        ReplicaIdentity.INDEX,
        (Column("id", 25, -1, "text", key=False), Column("code", 25, -1, "text", key=True)),
    )
    change = Rows(identity).update("2", "c")  # perhaps it was row 1 before
    with pytest.raises(NotNettable, match=r"^nothing came of the old row$"):
        Netting(identity, (0,)).net([change])
    assert Netting(identity, (1,)).net([change]).updated == {(): [[b"2", b"c"]]}
