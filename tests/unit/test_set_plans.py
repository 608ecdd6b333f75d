"""Changes to rows for COPY: straight from the log's bytes in C, and by netting in Python, it is the same."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.postgres.apply import set_plans
from connectors.postgres.apply.catalog import TargetColumn, TargetTable
from connectors.postgres.apply.keys import Exclusion, UniqueKey
from connectors.postgres.apply.set_plans import CopyRows, SetPlan, SetRows, make_plan
from connectors.postgres.catalog.held_types import HeldType
from connectors.postgres.copy.copytext import NotUtf8
from schemas import changecodec
from schemas.avro import decoders_of
from schemas.change import UNCHANGED, Change, TextValue
from schemas.changecodec import decode_changes, encode_change
from schemas.errors import InternalError, RefusedData
from schemas.netchange import NotNettable
from schemas.table import Column, ReplicaIdentity, TableSchema
from tests.damage import edited
from tests.fix_apply import Rows

in_c = pytest.mark.skipif(
    set_plans.encode_apart is None and not os.environ.get("CI"), reason="no C compiler was found"
)

OIDS = {"tenant": 23, "id": 20, "body": 25, "at": 1114, "on": 1082, "done": 16, "sum": 25}
KEY = ("tenant", "id")
texts = st.sampled_from([b"", b"a", b"tab\t", b"\\N", b"line\nbreak\r", "é".encode()])
VALUES = {
    "tenant": st.sampled_from([b"1", b"-1", b"11"]),
    "id": st.sampled_from([b"1", b"2", b"12", b"-9223372036854775808"]),
    "body": texts | st.none() | st.just(UNCHANGED),
    "at": st.sampled_from([b"2026-01-01 00:00:00", b"1969-12-31 23:59:59.999999", b"infinity", None]),
    "on": st.sampled_from([b"2024-02-29", b"0044-03-15 BC", None]),
    "done": st.sampled_from([b"t", b"f", None]),
    "sum": texts | st.none() | st.just(UNCHANGED),
}
rows = st.tuples(*VALUES.values())


def plan_of(
    *, generated: Sequence[str] = (), identity: ReplicaIdentity = ReplicaIdentity.DEFAULT, table: str = "t"
) -> SetPlan:
    full = identity is ReplicaIdentity.FULL
    columns = [Column(name, oid, -1, str(oid), key=full or name in KEY) for name, oid in OIDS.items()]
    plan = make_plan(TableSchema("public", table, identity, tuple(columns)), target_of(table, generated))
    assert plan is not None
    return plan


def target_of(table: str = "t", generated: Sequence[str] = ()) -> TargetTable:
    there = {
        name: TargetColumn(name, str(oid), name in generated, False, HeldType(oid, -1, str(oid), "b"))
        for name, oid in OIDS.items()
    }
    return TargetTable("public", table, "r", there, KEY, (), ())


def test_p15_there_is_no_plan_where_sets_might_not_be_equal() -> None:
    version, fits = PLANS[0].table, target_of()

    def with_column(name: str, **changed: object) -> TargetTable:
        column = replace(fits.columns["body"], **({"name": name} | changed))  # type: ignore[arg-type]
        return replace(fits, columns={**fits.columns, name: column})

    assert make_plan(version, with_column("id", identity_always=True)) is not None  # no UPDATE sets it
    assert make_plan(version, with_column("own", generated=True)) is not None
    for target in (
        with_column("body", identity_always=True),
        with_column("own"),
        with_column("id", generated=True),
        replace(fits, columns={name: fits.columns[name] for name in OIDS if name != "sum"}),
        replace(fits, deferrable_keys=(UniqueKey(("body",)),)),
        replace(fits, deferrable_exclusions=(Exclusion("apart", ("body",), ("=",), "true"),)),
        replace(fits, key=()),
        replace(fits, key=("id",)),
    ):
        assert make_plan(version, target) is None


PLANS = [plan_of(), plan_of(generated=["sum", "on"]), plan_of(identity=ReplicaIdentity.FULL)]


def known(row: Sequence[TextValue]) -> list[TextValue]:
    return [None if value is UNCHANGED else value for value in row]


def change_of(plan: SetPlan, kind: str, row: Sequence[TextValue], old: Sequence[TextValue]) -> Change:
    made = Rows(plan.table)
    if kind == "insert":
        return made.insert(*known(row))  # type: ignore[arg-type]
    if kind == "delete":
        return made.delete(*known(row))  # type: ignore[arg-type]
    full = plan.table.replica_identity is ReplicaIdentity.FULL
    if full:
        return made.update(*known(row), old=known(old))  # type: ignore[arg-type]
    return made.update(*row, key=known(old) if kind == "rekey" else None)  # type: ignore[arg-type]


def runs(plan: SetPlan) -> st.SearchStrategy[list[Change]]:
    """Mostly such as bulk has."""
    plain = st.tuples(st.sampled_from(["insert", "update", "update"]), rows, rows)
    odd = st.tuples(st.sampled_from(["insert", "update", "rekey", "delete"]), rows, rows)
    some = st.lists(plain, min_size=1, max_size=6, unique_by=lambda c: c[1][:2]) | st.lists(odd, max_size=6)
    return some.map(lambda made: [change_of(plan, *each) for each in made])


def outcome(make: Callable[[], SetRows]) -> SetRows | str:
    try:
        return make()
    except (NotNettable, InternalError, RefusedData, AssertionError) as error:
        return type(error).__name__


@in_c
@pytest.mark.parametrize("plan", PLANS, ids=["plain", "generated", "full"])
@given(st.data())
def test_encoded_and_decoded_changes_come_to_the_same_rows(plan: SetPlan, data: st.DataObject) -> None:
    changes = data.draw(runs(plan))
    block = b"".join(map(encode_change, changes))
    assert outcome(lambda: plan.rows_in(block, len(changes))) == outcome(lambda: plan.rows_of(changes))


@in_c
def test_rows_of_their_own_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = PLANS[1]
    made = Rows(plan.table)
    changes = [
        made.insert("1", "1", "a\tb", None, None, "t", None),
        made.update("1", "2", UNCHANGED, "2026-01-01 00:00:00", "2026-01-02", "f", None),
        made.update("1", "3", "x", None, None, None, None),
        made.update("1", "4", UNCHANGED, None, None, None, None),
    ]
    monkeypatch.setattr(set_plans, "decode_changes", None)
    assert plan.rows_in(b"".join(map(encode_change, changes)), 4) == SetRows(
        inserted=CopyRows(b"1\t1\ta\\tb\t\\N\tt\n", 1),
        updated={
            (2,): CopyRows(b"1\t2\t2026-01-01 00:00:00\tf\n1\t4\t\\N\t\\N\n", 2),
            (): CopyRows(b"1\t3\tx\t\\N\t\\N\n", 1),
        },
    )


@in_c
@pytest.mark.parametrize("again", ["insert", "update"])
def test_a_key_that_comes_twice_is_netted(again: str) -> None:
    plan = PLANS[0]
    made = Rows(plan.table)
    first = made.insert("1", "12", "old", None, None, None, None)
    second = getattr(made, again)("1", "12", "new", None, None, None, None)
    block = encode_change(first) + encode_change(second)
    if again == "insert":
        with pytest.raises(NotNettable):
            plan.rows_in(block, 2)
    else:
        assert plan.rows_in(block, 2) == SetRows(inserted=CopyRows(b"1\t12\tnew" + b"\t\\N" * 4 + b"\n", 1))
    apart = made.insert("11", "2", "other", None, None, None, None)  # the same digits, another key
    assert plan.rows_in(encode_change(first) + encode_change(apart), 2).inserted is not None


@in_c
@pytest.mark.parametrize("plan", PLANS[:2], ids=["plain", "generated"])
@given(st.data())
def test_damaged_rows_are_the_same_or_refused_as_by_the_python(plan: SetPlan, data: st.DataObject) -> None:
    changes = data.draw(runs(plan))
    block = data.draw(edited(b"".join(map(encode_change, changes))))

    def decoded() -> SetRows:
        return plan.rows_of(decode_changes(block, len(changes)))

    by_c = outcome(lambda: plan.rows_in(block, len(changes)))
    if isinstance(by_c, SetRows) and sum(map(_count, _all(by_c))) != len(changes):
        return  # as many changes as were counted: `Slice` has counted them
    assert by_c == outcome(decoded)


def _all(sets: SetRows) -> list[CopyRows | None]:
    return [sets.inserted, *sets.updated.values()]


def _count(rows_: CopyRows | None) -> int:
    return 0 if rows_ is None else rows_.count


@in_c
@given(st.data())
def test_what_is_not_one_row_is_seen_without_decoding(data: st.DataObject) -> None:
    assert changecodec.are_rows is not None
    changes = data.draw(runs(PLANS[0]))
    block = b"".join(map(encode_change, changes))
    if data.draw(st.booleans()):
        block = data.draw(edited(block))
    count = data.draw(st.sampled_from([len(changes), len(changes) + 1]))
    try:
        plain = all(change.payload is None for change in decode_changes(block, count))
    except RefusedData:
        plain = False
    assert changecodec.are_rows(block, count) is plain


@in_c
@given(st.lists(st.sampled_from("abcdefghij"), max_size=40), st.data())
def test_changes_are_parted_by_their_tables_in_their_order(names: list[str], data: st.DataObject) -> None:
    assert changecodec.split_by_table is not None
    plans = {name: plan_of(table=name) for name in set(names)}
    changes = [change_of(plans[name], "insert", data.draw(rows), ()) for name in names]
    blocks: list[bytes] = []
    for change in changes:
        joined: bool = data.draw(st.booleans())
        if blocks and joined:
            blocks[-1] += encode_change(change)
        else:
            blocks.append(encode_change(change))
    split = changecodec.split_by_table(blocks)
    assert list(split) == list(dict.fromkeys(change.table for change in changes))
    for table, (count, block, widest) in split.items():
        own = [change for change in changes if change.table == table]
        assert decode_changes(block, count) == own
        assert widest == max(len(encode_change(change)) for change in own)


@in_c
def test_what_is_no_block_of_rows_is_refused() -> None:
    assert changecodec.split_by_table is not None
    assert set_plans.encode_apart is not None
    with pytest.raises(ValueError, match="not a change"):
        changecodec.split_by_table([b"\0" * 12, b"junk"])
    with pytest.raises(TypeError):
        changecodec.split_by_table([b"", "text"])  # type: ignore[list-item]
    kinds, decoders = decoders_of(PLANS[0].table)
    with pytest.raises(TypeError):
        set_plans.encode_apart(b"", kinds, decoders[1:], b"\1" * len(kinds), True)


def test_a_value_that_copy_cannot_carry_is_not_netted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(found: object) -> bytes:
        raise NotUtf8

    monkeypatch.setattr(set_plans, "encode_rows", refuse)
    with pytest.raises(NotNettable):
        PLANS[0].rows_of([change_of(PLANS[0], "insert", [b"1", b"1", None, None, None, None, None], ())])
