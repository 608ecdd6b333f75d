"""Mending the rows that differ: those of the replica are deleted where they stand, the source's put in their
place. A row is named by its ctid on either side, so neither a key nor an operator of a type is needed.

All that goes is gone before anything comes: unique values that moved between rows are never there twice. What
only the replica has in a row that both sides have is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

from psycopg import sql

from connectors.postgres.apply import statements
from connectors.postgres.apply.catalog import TargetTable
from connectors.postgres.binary.wide_copy import Aside, copy_wide
from connectors.postgres.catalog.publication import TableName
from connectors.postgres.copy.copystream import Tick, run_query
from connectors.postgres.copy.snapshot_tables import SnapshotTable
from connectors.postgres.digest import Place
from connectors.postgres.mend.bringing import Copying, bring
from connectors.postgres.mend.fit import own_columns
from connectors.postgres.session import Session, wrapped
from schemas.errors import RetryLater

_AT_ONCE: Final = 1000
_KEPT: Final = sql.Identifier("pg_temp", "keepstream_kept")
_FRESH: Final = sql.Identifier("pg_temp", "keepstream_fresh")
_PLACE_NAME: Final = "keepstream place"
_PLACE: Final = sql.Identifier(_PLACE_NAME)

T = TypeVar("T")
N = TypeVar("N")


@dataclass(slots=True)
class Mends:
    """What is to be done to the replica's rows. missing: places on the source of rows that it lacks. extra:
    places of its own rows that are to go. changed: both, of rows that are there under the same key."""

    missing: list[Place] = field(default_factory=list)
    extra: list[Place] = field(default_factory=list)
    changed: list[tuple[Place, Place]] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.missing) + len(self.extra) + len(self.changed)


class RowMender:
    """Of one table, inside of the replica's open transaction. `source` is in the snapshot in which the rows
    were found, with the table locked. leaves: the tables that hold the replica's rows, in the order in which
    places count them."""

    def __init__(
        self,
        source: Session,
        replica: Session,
        *,
        table: SnapshotTable,
        target: TargetTable,
        leaves: Sequence[TableName],
        binary: bool,
        tick: Tick,
    ) -> None:
        self._source = source
        self._replica = replica
        self._table = table
        self._target = target
        self._leaves = leaves
        self._binary = binary
        self._tick = tick
        self._own = [sql.Identifier(name) for name in own_columns(table, target)]

    def mend(self, found: Mends) -> None:
        """Raises RetryLater (`rows-moved`) if somebody else wrote to one of the rows meanwhile."""
        if self._own and found.changed:
            self._keep(found.changed)
        self._delete([*found.extra, *(there for _, there in found.changed)])
        self._bring(found.missing)
        changed = [ours for ours, _ in found.changed]
        if self._own and changed:
            self._bring_aside(changed)
            self._join_kept(len(changed))
        else:
            self._bring(changed)

    def _delete(self, places: Iterable[Place]) -> None:
        for leaf, ctids in _by_table(self._leaves, places):
            for some in _slices(ctids):
                deleting = sql.SQL("delete from only {} where ctid = any({}::tid[])").format(
                    sql.Identifier(*leaf), sql.Literal(some)
                )
                self._run("deleting rows", deleting, touches=len(some))

    def _keep(self, changed: Iterable[tuple[Place, Place]]) -> None:
        """Set aside what only the replica has, beside the place of the source's row."""
        self._make("keepstream_kept", self._own)
        for leaf, both in _by_table(
            self._leaves, ((index, (_text_of(ours), ctid)) for ours, (index, ctid) in changed)
        ):
            for some in _slices(both):
                ours, theirs = zip(*some, strict=True)
                keeping = sql.SQL(
                    "insert into {} select v.ours, {} from only {} t"
                    " join unnest({}::text[], {}::tid[]) as v (ours, theirs) on t.ctid = v.theirs"
                    " where t.ctid = any({}::tid[])"
                ).format(
                    _KEPT,
                    self._listed(sql.SQL("t.") + name for name in self._own),
                    sql.Identifier(*leaf),
                    sql.Literal(list(ours)),
                    sql.Literal(list(theirs)),
                    sql.Literal(list(theirs)),
                )
                self._run("setting values aside", keeping, touches=len(some))

    def _make(self, name: str, columns: Iterable[sql.Composable]) -> None:
        """A temporary table with some of the columns, and the source's place."""
        making = sql.SQL(
            "create temp table {} on commit drop as select null::text as {}, {} from {} limit 0"
        ).format(sql.Identifier(name), _PLACE, self._listed(columns), statements.relation(self._target))
        self._run("setting values aside", making)

    def _bring(self, places: Iterable[Place]) -> None:
        """Copy the source's rows into the table."""
        columns = [sql.Identifier(name) for name in self._table.columns]
        self._copy(places, columns, columns)

    def _bring_aside(self, places: Iterable[Place]) -> None:
        """Copy them into a temporary table, each with its place."""
        columns = [sql.Identifier(name) for name in self._table.columns]
        self._make("keepstream_fresh", columns)
        self._copy(places, columns, [_PLACE, *columns], is_aside=True)

    def _copy(
        self,
        places: Iterable[Place],
        ours: Sequence[sql.Composable],
        theirs: Sequence[sql.Composable],
        *,
        is_aside: bool = False,
    ) -> None:
        """`is_aside`: not into the table, and with the place of each row before its columns."""
        into = _FRESH if is_aside else sql.Identifier(self._target.schema, self._target.name)
        form = sql.SQL("binary" if self._binary else "text")
        named = sql.SQL(" ({})").format(self._listed(theirs)) if theirs else sql.SQL("")
        write = sql.SQL("copy {}{} from stdin (format {})").format(into, named, form).as_string()
        reading = sql.SQL("copy (select {} from only {}{}) to stdout (format {})")
        stored = [(index, table.table_name) for index, table in enumerate(self._table.stored)]
        for (index, name), ctids in _by_table(stored, places):
            place = sql.SQL("{} || ctid::text").format(sql.Literal(str(index)))
            aside = Aside(_FRESH, _PLACE_NAME, place) if is_aside else None
            listed = self._listed([place, *ours] if is_aside else ours)
            for some in _slices(ctids):
                where = sql.SQL(" where ctid = any({}::tid[])").format(sql.Literal(some))
                read = reading.format(listed, sql.Identifier(*name), where, form).as_string()
                came = bring(
                    self._source,
                    self._replica,
                    Copying(read, write, self._binary),
                    table=self._table.qualified_name,
                    wide=partial(self._bring_wide, name, where, aside),
                    tick=self._tick,
                )
                self._require(came, len(some))

    def _bring_wide(self, table: TableName, where: sql.Composed, aside: Aside | None) -> int:
        return copy_wide(
            self._source,
            self._replica,
            table=table,
            target=(self._target.schema, self._target.name),
            columns=self._table.columns,
            where=where,
            tick=self._tick,
            in_chunks=True,
            aside=aside,
        )

    def _join_kept(self, count: int) -> None:
        columns = [sql.Identifier(name) for name in self._table.columns]
        joining = sql.SQL(
            "insert into {} ({}) overriding system value select {} from {} f join {} k using ({})"
        ).format(
            sql.Identifier(self._target.schema, self._target.name),
            self._listed([*columns, *self._own]),
            self._listed(
                [*(sql.SQL("f.") + name for name in columns), *(sql.SQL("k.") + name for name in self._own)]
            ),
            _FRESH,
            _KEPT,
            _PLACE,
        )
        self._run("bringing rows", joining, touches=count)

    def _listed(self, names: Iterable[sql.Composable]) -> sql.Composed:
        return sql.SQL(", ").join(names)

    def _run(self, doing: str, statement: sql.Composed, *, touches: int | None = None) -> None:
        with wrapped(f"{doing} of {self._target.qualified_name}"):
            results = run_query(self._replica, statement.as_string(), self._tick)
        if touches is not None:
            self._require(sum(each.command_tuples or 0 for each in results), touches)

    def _require(self, touched: int, wanted: int) -> None:
        if touched != wanted:
            raise RetryLater(
                f"{touched} of {wanted} rows of {self._table.qualified_name} are where they were found",
                code="rows-moved",
                hint="Somebody else writes to this table of the replica: end that, and start again.",
            )


def _by_table(tables: Sequence[N], items: Iterable[tuple[int, T]]) -> Iterator[tuple[N, list[T]]]:
    """Each of the tables with its items, whose index says which it is."""
    found: dict[int, list[T]] = {}
    for index, value in items:
        found.setdefault(index, []).append(value)
    return ((tables[index], values) for index, values in found.items())


def _text_of(place: Place) -> str:
    """A place among several tables."""
    return f"{place[0]}{place[1]}"


def _slices(items: Sequence[T]) -> Iterator[list[T]]:
    return (list(items[i : i + _AT_ONCE]) for i in range(0, len(items), _AT_ONCE))
