"""How a table version is written as sets: which columns, by which key, and its net change as rows for COPY.

Bulk is mostly rows that are inserted or updated once each. Where there is C (docs/decisions/007) those go
from the log's bytes to COPY's text in one step, without an object a value; all else is netted in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from connectors.postgres.apply.catalog import TargetTable
from connectors.postgres.copy.copytext import NotUtf8, encode_rows
from schemas.avro import decoders_of
from schemas.change import Change
from schemas.changecodec import decode_changes
from schemas.compiled import find_compiled
from schemas.netchange import NetChange, Netting, NotNettable, Row
from schemas.table import ReplicaIdentity, TableSchema

encode_apart: Callable[..., tuple[Any, dict[tuple[int, ...], Any]] | None] | None = find_compiled(
    "connectors.postgres.copy._copytext", "encode_apart"
)

_WRITTEN, _KEY = 1, 2  # roles of a column, as _copytext.c has them


@dataclass(frozen=True, slots=True)
class CopyRows:
    """Rows in COPY's text format."""

    text: bytes
    count: int


@dataclass(frozen=True, slots=True)
class SetRows:
    """A NetChange whose rows are ready to be sent; None: there are none of the kind. Rows have the plan's
    columns, without those that did not come; `passed` and `deleted` those of its key."""

    passed: CopyRows | None = None
    deleted: CopyRows | None = None
    updated: Mapping[tuple[int, ...], CopyRows] = field(default_factory=dict)
    inserted: CopyRows | None = None


@dataclass(eq=False)
class SetPlan:
    """How one table version is written with sets."""

    table: TableSchema
    target: TargetTable
    key: tuple[int, ...]
    netting: Netting
    columns: tuple[int, ...]
    """Of the log's row, without those that the replica generates."""
    statements: dict[object, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.table.qualified_name

    def given(self, absent: tuple[int, ...]) -> list[int]:
        """The columns that are written where these did not come."""
        return [i for i in self.columns if i not in absent]

    def rows_of(self, changes: Sequence[Change]) -> SetRows:
        """What changes of this version come to, in source order. Raises NotNettable."""
        net = self.netting.net(changes)
        try:
            return self._encode(net)
        except NotUtf8 as error:
            raise NotNettable("a value is not UTF-8") from error

    def rows_in(self, block: bytes, count: int) -> SetRows:
        """The same of encoded changes of one row each. Raises NotNettable, RefusedData (`frame-format`)."""
        if encode_apart is not None:
            apart = encode_apart(block, *self._coding)
            if apart is not None:
                inserted, updated = apart
                return SetRows(
                    updated={absent: CopyRows(*rows) for absent, rows in updated.items()},
                    inserted=None if inserted is None else CopyRows(*inserted),
                )
        return self.rows_of(decode_changes(block, count))

    @cached_property
    def _coding(self) -> tuple[bytes, tuple[Callable[..., Any], ...], bytes, bool]:
        kinds, decoders = decoders_of(self.table)
        roles = bytes(
            _WRITTEN * (i in self.columns) | _KEY * (i in self.key) for i in range(len(self.table.columns))
        )
        return kinds, decoders, roles, self.netting.key_is_identity

    def _encode(self, net: NetChange) -> SetRows:
        return SetRows(
            passed=_rows(map(list, net.passed)),
            deleted=_rows(map(list, net.deleted)),
            updated={
                absent: CopyRows(encode_rows(self._narrow(self.given(absent), rows)), len(rows))
                for absent, rows in net.updated.items()
            },
            inserted=_rows(self._narrow(self.columns, net.inserted)),
        )

    def _narrow(self, columns: Sequence[int], rows: list[Row]) -> list[Row]:
        """Rows of these columns only."""
        if len(columns) == len(self.table.columns):
            return rows
        return [[row[i] for i in columns] for row in rows]


def make_plan(table: TableSchema, target: TargetTable) -> SetPlan | None:
    """None unless sets are provably equal to single changes there (P15)."""
    names = [column.name for column in table.columns]
    key = _key(table, target)
    columns = tuple(i for i, name in enumerate(names) if name not in target.generated_columns)
    written = {names[i] for i in columns}
    if (
        not key
        or not set(key) <= set(columns)
        or written != set(target.columns) - target.generated_columns
        or target.deferrable_keys
        or target.deferrable_exclusions
        or any(target.columns[names[i]].identity_always for i in columns if i not in key)
    ):
        return None
    return SetPlan(table, target, key, Netting(table, key), columns)


def _key(table: TableSchema, target: TargetTable) -> tuple[int, ...]:
    """Columns that both name a row in the log and are unique, row by row, on the replica."""
    names = [column.name for column in table.columns]
    if table.replica_identity is ReplicaIdentity.FULL:
        known = target.key if set(target.key) <= set(names) else ()
        return tuple(sorted(names.index(name) for name in known))
    identity = table.key_indexes
    return identity if {names[i] for i in identity} == set(target.key) else ()


def _rows(rows: Iterable[Row]) -> CopyRows | None:
    encoded = list(rows)
    return CopyRows(encode_rows(encoded), len(encoded)) if encoded else None
