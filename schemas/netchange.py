"""What a run of changes makes of one table, key by key: the arithmetic of set-based apply (P15).

Every key has at most one life in a run: it was there before or not, and is there after or not.

    was there   is there      then it is
    no          yes           inserted
    yes         yes           updated, or, if it was deleted in between, deleted and inserted
    yes         no            deleted
    no          no            passed: nothing is written, but no row may have had it

What cannot be told without the rows before (a row that gets another key while a large value of it did not
come), or cannot happen in a true history, is refused: such a run is applied change by change.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from schemas.avro import key_decoder, row_decoder
from schemas.change import Change, Operation
from schemas.table import TableSchema

Key = tuple[bytes | None, ...]
"""PostgreSQL's texts of the key's columns. Two rows that are there at once never have equal texts."""

Row = list[bytes | None]
"""PostgreSQL's texts of all columns."""


class NotNettable(Exception):
    """The run has to be applied change by change; the text says why."""


@dataclass(frozen=True, slots=True)
class NetChange:
    """Sets of one table, to be applied in this order. No key is twice in one of them; one that is both in
    `deleted` and `inserted` was replaced.

    passed: keys that no row had before and none has after. updated: rows by the columns that did not come,
    which keep their values; the key is in the row.
    """

    passed: list[Key] = field(default_factory=list)
    deleted: list[Key] = field(default_factory=list)
    updated: dict[tuple[int, ...], list[Row]] = field(default_factory=dict)
    inserted: list[Row] = field(default_factory=list)


@dataclass(slots=True)
class _Life:
    """One key. `row`: as it is now, None if it is gone. `absent`: columns of it that are as before."""

    was_there: bool
    row: Row | None = None
    absent: tuple[int, ...] = ()
    replaced: bool = False


class Netting:
    """Nets runs of one table version. `key`: columns that name a row, of which no two are alike.
    key_is_identity: they are the replica identity, so that an UPDATE without an old row keeps them."""

    def __init__(self, table: TableSchema, key: Sequence[int]) -> None:
        self._decode_row = row_decoder(table)
        self._decode_key = key_decoder(table)
        self.key_is_identity = tuple(key) == table.key_indexes
        self._key = tuple(key)
        self._key_set = frozenset(self._key)
        self._key_of = _picker(self._key)
        self._name_of = itemgetter(*self._key)  # of one column its value, of several a tuple

    def net(self, changes: Sequence[Change]) -> NetChange:
        """The sets of a run in source order. Raises NotNettable."""
        decode = self._decode_row
        rows = [None if change.row is None else decode(change.row, 0) for change in changes]
        apart = self._net_apart(changes, rows)
        if apart is not None:
            return apart
        lives: dict[Key, _Life] = {}
        for change, row in zip(changes, rows, strict=True):
            if change.operation is Operation.INSERT:
                assert row is not None
                _insert(lives, self._key_of(row), row)
            elif change.operation is Operation.UPDATE:
                assert row is not None
                self._update(lives, change, row)
            elif change.operation is Operation.DELETE:
                _take(lives, self._old_key(change))
            else:
                raise NotNettable(f"a {change.operation.name.lower()} is not one row")
        return _collect(lives)

    def _net_apart(self, changes: Sequence[Change], rows: Sequence[Row | None]) -> NetChange | None:
        """The same for what is most common in bulk: rows that are inserted or updated once each and keep
        their keys. None if it is not that."""
        stays = self.key_is_identity
        inserted: list[Row] = []
        updated: dict[tuple[int, ...], list[Row]] = {}
        for (operation, _, old_key, old_row, _, absent, _), row in zip(changes, rows, strict=True):
            if row is None or old_key is not None or old_row is not None:
                return None
            if operation is Operation.INSERT:
                inserted.append(row)
            elif stays:
                updated.setdefault(absent, []).append(row)
            else:
                return None
        if any(not self._key_set.isdisjoint(absent) for absent in updated):
            return None
        names: set[object] = set()
        for images in (inserted, *updated.values()):
            names.update(map(self._name_of, images))
        if len(names) < len(changes) or self._has_null(names):
            return None
        return NetChange(inserted=inserted, updated=updated)

    def _has_null(self, names: Collection[Any]) -> bool:
        if len(self._key) == 1:
            return None in names
        return any(None in name for name in names)

    def _update(self, lives: dict[Key, _Life], change: Change, row: Row) -> None:
        absent = change.absent
        if absent and not set(absent).isdisjoint(self._key):
            raise NotNettable("a column of the key did not come")
        key = self._key_of(row)
        stays = self.key_is_identity and change.old_key is None and change.old_row is None
        old = key if stays else self._old_key(change)
        life = lives.get(old)
        if life is not None and absent:
            absent = _fill(row, absent, life)
        if old != key:
            if absent:
                raise NotNettable("a row gets another key while a value of it did not come")
            _take(lives, old)
            _insert(lives, key, row)
        elif life is None:
            lives[key] = _Life(was_there=True, row=row, absent=absent)
        elif life.row is None:
            raise NotNettable("a row is updated after it was deleted")
        else:
            life.row, life.absent = row, absent

    def _old_key(self, change: Change) -> Key:
        if change.old_key is not None:
            if not self.key_is_identity:
                raise NotNettable("the old row came by another key")
            return tuple(self._decode_key(change.old_key, 0))
        if change.old_row is None:
            raise NotNettable("nothing came of the old row")
        return self._key_of(self._decode_row(change.old_row, 0))


def _picker(indexes: tuple[int, ...]) -> Callable[[Row], Key]:
    if len(indexes) == 1:
        (only,) = indexes
        return lambda row: (row[only],)
    return lambda row: tuple([row[index] for index in indexes])


def _fill(row: Row, absent: tuple[int, ...], life: _Life) -> tuple[int, ...]:
    """Take what did not come from the row as it was in this run; returns what is missing there, too."""
    if life.row is None:
        raise NotNettable("a row is updated after it was deleted")
    for index in absent:
        row[index] = life.row[index]
    return tuple(index for index in absent if index in life.absent)


def _insert(lives: dict[Key, _Life], key: Key, row: Row) -> None:
    life = lives.get(key)
    if life is None:
        lives[key] = _Life(was_there=False, row=row)
    elif life.row is None:
        life.row, life.absent, life.replaced = row, (), life.was_there
    else:
        raise NotNettable("a row is inserted while it is there")


def _take(lives: dict[Key, _Life], key: Key) -> None:
    life = lives.get(key)
    if life is None:
        lives[key] = _Life(was_there=True)
    elif life.row is None:
        raise NotNettable("a row is deleted twice")
    else:
        life.row = None


def _collect(lives: dict[Key, _Life]) -> NetChange:
    net = NetChange()
    for key, life in lives.items():
        if None in key:
            raise NotNettable("a key is NULL")
        if life.row is None:
            (net.deleted if life.was_there else net.passed).append(key)
        elif life.was_there and not life.replaced:
            net.updated.setdefault(life.absent, []).append(life.row)
        else:
            if life.replaced:
                net.deleted.append(key)
            net.inserted.append(life.row)
    return net
