"""What differs between two tables' rows, found in one pass over both in the same order. Pure.

Memory does not depend on how much differs: all differences are counted, the first ones are kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from connectors.postgres.digest import KeyedRow
from connectors.postgres.mend.differing import Mends
from pipeline.verify.result import LISTED_KEYS, Difference, DifferingKey

ROW_DIGEST: Final = "row digest"
CTID: Final = "ctid"


@dataclass(slots=True)
class Differences:
    """`count`: of all. `listed`: at most LISTED_KEYS of them, with the key's text as it was read."""

    count: int = 0
    listed: list[tuple[KeyedRow, Difference]] = field(default_factory=list)

    def add(self, rows: Iterable[KeyedRow], count: int, difference: Difference) -> None:
        """`rows`: the first of `count` rows."""
        self.count += count
        room = LISTED_KEYS - len(self.listed)
        self.listed += ((row, difference) for row in itertools.islice(rows, min(room, count)))


@dataclass(slots=True)
class _Unmatched:
    """Rows of one key that only one side has: how many, and the first of them."""

    keep: int = LISTED_KEYS
    count: int = 0
    rows: list[KeyedRow] = field(default_factory=list)

    def add(self, row: KeyedRow) -> None:
        self.count += 1
        if len(self.rows) < self.keep:
            self.rows.append(row)


def find_differences(ours: Iterable[KeyedRow], theirs: Iterable[KeyedRow]) -> Differences:
    """Compare the source's rows with the replica's, both ordered by key digest and digest.

    Rows of one key that differ are paired and count once; the rest is missing or extra. Equal rows of
    one key, which a table without a key may have, are counted, too.
    """
    found = Differences()
    for missing, extra in _by_key(ours, theirs):
        changed = min(missing.count, extra.count)
        found.add(missing.rows, changed, Difference.CHANGED)
        found.add(missing.rows[changed:], missing.count - changed, Difference.MISSING)
        found.add(extra.rows[changed:], extra.count - changed, Difference.EXTRA)
    return found


def find_mends(ours: Iterable[KeyedRow], theirs: Iterable[KeyedRow], *, limit: int) -> Mends | None:
    """As `find_differences`, but all of them; None as soon as there are more than `limit`."""
    found = Mends()
    for missing, extra in _by_key(ours, theirs, keep=limit + 1):
        both = min(len(missing.rows), len(extra.rows))
        pairs = zip(missing.rows[:both], extra.rows[:both], strict=True)
        found.changed += ((row.place, there.place) for row, there in pairs)
        found.missing += (row.place for row in missing.rows[both:])
        found.extra += (row.place for row in extra.rows[both:])
        if found.count > limit:
            return None
    return found


def _by_key(
    ours: Iterable[KeyedRow], theirs: Iterable[KeyedRow], *, keep: int = LISTED_KEYS
) -> Iterator[tuple[_Unmatched, _Unmatched]]:
    """The unmatched rows of both sides, key by key."""
    key: bytes | None = None
    missing, extra = _Unmatched(keep), _Unmatched(keep)
    for row, is_ours in _unmatched(iter(ours), iter(theirs)):
        if row.key_digest != key:
            yield missing, extra
            key, missing, extra = row.key_digest, _Unmatched(keep), _Unmatched(keep)
        (missing if is_ours else extra).add(row)
    yield missing, extra


def _unmatched(ours: Iterator[KeyedRow], theirs: Iterator[KeyedRow]) -> Iterator[tuple[KeyedRow, bool]]:
    """In order, what is left when equal rows cancel each other; True: it is the source's."""
    mine, other = next(ours, None), next(theirs, None)
    while mine is not None and other is not None:
        if mine[:2] == other[:2]:
            mine, other = next(ours, None), next(theirs, None)
        elif mine[:2] < other[:2]:
            yield mine, True
            mine = next(ours, None)
        else:
            yield other, False
            other = next(theirs, None)
    while mine is not None:
        yield mine, True
        mine = next(ours, None)
    while other is not None:
        yield other, False
        other = next(theirs, None)


def name_keys(found: Differences, key: tuple[str, ...]) -> tuple[DifferingKey, ...]:
    """The listed differences by their keys' columns, in the keys' order; a row without a key is named by
    its digest, and by its ctid on the side that has it."""
    listed = sorted(found.listed, key=lambda item: _sort_key(item[0].names))
    return tuple(DifferingKey(_named(row, key), difference) for row, difference in listed)


def _named(row: KeyedRow, key: tuple[str, ...]) -> dict[str, str | None]:
    if key:
        return dict(zip(key, row.names, strict=True))
    return {ROW_DIGEST: row.digest.hex(), CTID: row.names[0]}


def _sort_key(names: tuple[str | None, ...]) -> tuple[tuple[int, str], ...]:
    return tuple((len(name or ""), name or "") for name in names)


def name_columns(
    keys: tuple[DifferingKey, ...], columns: dict[tuple[str | None, ...], tuple[str, ...]]
) -> tuple[DifferingKey, ...]:
    """The same with the columns that differ, for the keys of which they are known."""
    return tuple(replace(key, columns=columns.get(tuple(key.key.values()), ())) for key in keys)
