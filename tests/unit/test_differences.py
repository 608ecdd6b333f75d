"""Differing rows are found in one pass over both sides, counted all and listed in part."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from connectors.postgres.digest import KeyedRow
from pipeline.verify.differences import find_differences, find_mends, name_columns, name_keys
from pipeline.verify.result import LISTED_KEYS, Difference, DifferingKey

Row = tuple[int, int]


def keyed(rows: list[Row]) -> list[KeyedRow]:
    """(key, value) as they come from a server: in the order of both digests."""
    made = (KeyedRow(bytes([key]), bytes([key, value]), (str(key),)) for key, value in rows)
    return sorted(made, key=lambda row: row[:2])


rows = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=12)


@given(rows, rows)
def test_differences_are_those_of_the_two_multisets(ours: list[Row], theirs: list[Row]) -> None:
    found = Counter((int(row.names[0] or ""), kind) for row, kind in _find(ours, theirs))
    missing, extra = Counter(ours) - Counter(theirs), Counter(theirs) - Counter(ours)
    expected: Counter[tuple[int, Difference]] = Counter()
    for key in range(6):
        lost = sum(count for (k, _), count in missing.items() if k == key)
        more = sum(count for (k, _), count in extra.items() if k == key)
        expected[key, Difference.CHANGED] = min(lost, more)
        expected[key, Difference.MISSING] = lost - min(lost, more)
        expected[key, Difference.EXTRA] = more - min(lost, more)
    assert found == +expected


def _find(ours: list[Row], theirs: list[Row]) -> list[tuple[KeyedRow, Difference]]:
    found = find_differences(keyed(ours), keyed(theirs))
    assert found.count == len(found.listed)
    return found.listed


def test_equal_rows_of_a_table_without_a_key_are_counted() -> None:
    row = KeyedRow(b"a", b"a", ("(0,1)",))
    found = find_differences([row, row, row], [row])
    assert (found.count, [kind for _, kind in found.listed]) == (2, [Difference.MISSING] * 2)


def test_all_differences_are_counted_and_a_hundred_are_kept() -> None:
    ours = (KeyedRow(i.to_bytes(4), i.to_bytes(4), (str(i),)) for i in range(100_000))
    theirs = (KeyedRow(i.to_bytes(4), b"other", (str(i),)) for i in range(50_000))
    found = find_differences(ours, theirs)
    assert found.count == 100_000
    assert len(found.listed) == LISTED_KEYS


def test_keys_are_listed_in_their_own_order_whatever_their_digests_are() -> None:
    ours = [KeyedRow(bytes([9 - i]), b"x", (str(i),)) for i in (9, 5, 2)] + [KeyedRow(b"z", b"x", ("10",))]
    keys = name_keys(find_differences(ours, []), ("id",))
    assert [key.key for key in keys] == [{"id": "2"}, {"id": "5"}, {"id": "9"}, {"id": "10"}]


def test_a_row_without_a_key_is_named_by_its_digest_and_its_place() -> None:
    keys = name_keys(find_differences([], [KeyedRow(b"\xab", b"\xab", ("(3,1)",))]), ())
    assert [key.to_json() for key in keys] == [
        {
            "key": {"row digest": "ab", "ctid": "(3,1)"},
            "difference": "only on the replica",
            "columns": [],
        }
    ]


def test_columns_are_named_where_they_are_known() -> None:
    one, other = (DifferingKey({"id": name}, Difference.CHANGED) for name in "12")
    assert name_columns((one, other), {("2",): ("credit", "name")}) == (
        one,
        DifferingKey({"id": "2"}, Difference.CHANGED, ("credit", "name")),
    )
    assert str(name_columns((one,), {("1",): ("credit",)})[0]) == "id=1: values differ in credit"


@given(rows, rows)
def test_mends_make_one_side_the_other(ours: list[Row], theirs: list[Row]) -> None:
    mine, other = _placed(ours), _placed(theirs)
    found = find_mends(mine, other, limit=1000)
    assert found is not None
    brought = [*found.missing, *(place for place, _ in found.changed)]
    gone = [*found.extra, *(place for _, place in found.changed)]
    by_place = {(side, row.place): row.digest for side, rows in enumerate((mine, other)) for row in rows}
    mended = Counter(row.digest for row in other)
    mended.subtract(by_place[1, place] for place in gone)
    mended.update(by_place[0, place] for place in brought)
    assert +mended == Counter(row.digest for row in mine)
    assert len(set(gone)) == len(gone)
    assert len(set(brought)) == len(brought)


def _placed(rows: list[Row]) -> list[KeyedRow]:
    return [row._replace(place=(0, str(i))) for i, row in enumerate(keyed(rows))]


def test_more_mends_than_the_limit_are_none() -> None:
    row = KeyedRow(b"a", b"a", ("(0,1)",))
    found = find_mends([row] * 3, [], limit=3)
    assert found is not None
    assert found.count == 3
    assert find_mends([row] * 4, [], limit=3) is None
