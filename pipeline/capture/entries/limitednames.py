"""Names under which the publication has, or had, only some columns or rows of a table (decision 015). Pure.

An ANCHOR keeps them, so that no other table gets into the log in full under such a name: a table that is
built anew and renamed is the same to who chose the columns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from connectors.postgres.catalog.publication import PublishedTable, TableName
from connectors.postgres.catalog.tables import Table, TableKind
from pipeline.capture.entries.partitions import known_partitions, new_partitions
from pipeline.capture.entries.told import TOLD
from pipeline.config.model import Tables
from pipeline.config.values import TablePattern, in_yaml
from schemas.entries import Entries, Kind
from schemas.errors import BEGIN_ANEW, RefusedData
from schemas.identifiers import qualified

_DROPPED: Final = 0
_PLAIN: Final = re.compile(r"[a-z_]\w*\.\w+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class LimitedName:
    """oid: of the table that had the limit; 0: it was dropped. columns: its list as it was first seen; None:
    all."""

    oid: int
    schema: str
    table: str
    columns: tuple[str, ...] | None
    is_filtered: bool

    @property
    def name(self) -> TableName:
        return self.schema, self.table

    def to_text(self) -> str:
        return json.dumps([self.oid, self.schema, self.table, self.columns, self.is_filtered])

    @classmethod
    def from_text(cls, text: str) -> LimitedName:
        """Raises ValueError or TypeError."""
        oid, schema, table, columns, is_filtered = json.loads(text)
        return cls(oid, schema, table, None if columns is None else tuple(columns), is_filtered)


LIMITED: Final[Kind[LimitedName, LimitedName]] = Kind(
    "limited",
    "a table's column list or row filter",
    lambda limit: limit,
    LimitedName.from_text,
    LimitedName.to_text,
)
"""In the order in which they came. A table that was renamed has one of each of its names."""


def limited_now(
    entries: Entries, tables: Iterable[PublishedTable], names: Mapping[int, TableName]
) -> Entries:
    """Of this kind alone: those, and of tables that have got a list or filter. `names`: by OID, as of the
    stream."""
    known = _limited_oids(entries)
    limited = (table for table in tables if table.columns is not None or table.is_filtered)
    new = (
        LimitedName(
            table.oid,
            *names.get(table.oid, (table.schema, table.name)),
            table.columns,
            table.is_filtered,
        )
        for table in limited
        if table.oid not in known
    )
    return entries.only(LIMITED).put(LIMITED, *new)


def _limited_oids(entries: Entries) -> set[int]:
    """Of tables that are there."""
    return {each.oid for each in entries.of(LIMITED)} - {_DROPPED}


def with_limited_name(entries: Entries, oid: int, name: TableName) -> Entries:
    """The entries in which a table with a list or filter has this name, too."""
    own = [each for each in entries.of(LIMITED) if each.oid == oid]
    if not own or any(each.name == name for each in own):
        return entries
    return entries.put(LIMITED, replace(own[0], schema=name[0], table=name[1]))


def without_limited_oid(entries: Entries, oid: int) -> Entries:
    """The entries once it was dropped: its names stay, and its OID may become another table's."""
    own = [each for each in entries.of(LIMITED) if each.oid == oid]
    return entries.drop(LIMITED, *own).put(LIMITED, *(replace(each, oid=_DROPPED) for each in own))


def limit_before(entries: Entries, name: TableName, tables: Tables) -> LimitedName | None:
    """The limit that a table of this name has, or had, and that source.tables.limits does not say."""
    if tables.limit_of(*name) is not None:
        return None
    return next((each for each in entries.of(LIMITED) if each.name == name), None)


def limit_to_say(limit: LimitedName) -> str:
    """Why a table of this name does not join, and what lets it."""
    columns = ", ".join(map(in_yaml, limit.columns or ()))
    name = TablePattern.naming(*limit.name).text
    name = name if _PLAIN.fullmatch(name) else in_yaml(name)
    entry = ", ".join([*([f"columns: [{columns}]"] if columns else []), *["where: …"] * limit.is_filtered])
    return (
        "the publication has, or had, only some columns or rows of a table of this name, and this one would"
        " join with all: stop, say in keepstream.yaml what it shall have, as in `source.tables.limits:"
        f" {{{name}: {{{entry}}}}}` (`columns` may name all of them), or exclude it"
        " (source.tables.exclude), and start"
    )


def limited_trees(entries: Entries, seen: Iterable[Table], tables: Tables) -> dict[int, str]:
    """By OID of each partition below it, at any depth, the name of a partitioned table that stands for some
    columns or rows. It has no rows of its own: what it stands for are those of the partitions."""
    names = _limited(entries, tables)
    by_oid = {table.oid: table for table in seen}
    limited = {
        oid: table.qualified_name
        for oid, table in by_oid.items()
        if table.kind is TableKind.PARTITIONED and (table.schema, table.name) in names
    }
    above = {oid: list(_above(table, by_oid)) for oid, table in by_oid.items()} if limited else {}
    return {oid: limited[each.oid] for oid, uppers in above.items() for each in uppers if each.oid in limited}


def _above(table: Table, by_oid: Mapping[int, Table]) -> Iterator[Table]:
    """Those that it is a partition of, from the top down."""
    parent = by_oid.get(table.parent)
    if parent is not None:
        yield from _above(parent, by_oid)
        yield parent


def tree_to_say(tree: str) -> str:
    """Why a partition below such a table does not join, and what lets it."""
    return (
        f"it belongs to {tree}, under which name only some columns or rows are replicated, and would join"
        " with all: stop, say in keepstream.yaml what it shall have itself, in source.tables.limits"
        " (`columns` may name all of them), or exclude it (source.tables.exclude), and start"
    )


def _limited(entries: Entries, tables: Tables) -> set[TableName]:
    """Names that stand for some columns or rows."""
    return {*(each.name for each in entries.of(LIMITED)), *tables.limits_by_name}


def require_no_more(entries: Entries, oid: int, old: str, name: TableName, tables: Tables) -> None:
    """Of a table in the log that was called `old`, and of the entries of then. Raises RefusedData
    (`limit-differs`) if its rows would come in full, or with other columns, under a name that stands for some
    columns or rows. Of two filters the text is not compared."""
    known, limit = entries.of(LIMITED), tables.limit_of(*name)
    own = [each for each in known if each.oid == oid]
    if not own:
        differs = limit is not None or any(each.name == name for each in known)
    elif limit is None or any(each.name == name for each in own):
        differs = False
    else:
        columns = [None if each is None else set(each) for each in (own[0].columns, limit.columns)]
        differs = columns[0] != columns[1] or own[0].is_filtered != (limit.where is not None)
    if differs:
        raise more_than_limited(f"table {old} was renamed to {qualified(*name)}")


def require_none_below(entries: Entries, partitions: Mapping[int, str], tables: Tables) -> None:
    """`partitions`: by OID, qualified names of those whose rows come, or are about to, under the name of the
    whole: all of them. `entries`: of before. Raises RefusedData (`limit-differs`) if one has a limit, or its
    name stands for one."""
    oids, names = _limited_oids(entries), {qualified(*name) for name in _limited(entries, tables)}
    for oid, name in partitions.items():
        if oid in oids or name in names:
            raise RefusedData(
                f"table {name} is a partition of one that is replicated as a whole, and only some columns or"
                " rows are replicated under its name",
                code="limit-differs",
                hint="Nothing of it is in the log since it is one. Let it be no partition of that, or take it"
                f" out of source.tables.limits, and {BEGIN_ANEW}.",
            )


def require_limits_kept(before: Entries, after: Entries, tables: Tables) -> None:
    """The entries before a schema message and behind it. Raises RefusedData (`limit-differs`) if a table took
    the name of one with a list or filter, or became a part of a whole without."""
    require_none_below(before, new_partitions(before, after), tables)
    then, parts = before.of(TOLD), known_partitions(after)
    for oid, told in after.of(TOLD).items():
        if oid not in parts and oid in then and then[oid].name != told.name:
            require_no_more(before, oid, then[oid].qualified_name, told.name, tables)


def require_known_limit(entries: Entries, name: TableName, tables: Tables) -> None:
    """Of a table that joins under this name. Raises RefusedData (`limit-differs`) if that stands for some
    columns or rows, and the publication has no list or filter of the table."""
    limited = {each.oid for each in entries.of(LIMITED)}
    joining = [oid for oid, told in entries.of(TOLD).items() if told.joining and told.name == name]
    if limit_before(entries, name, tables) and limited.isdisjoint(joining):
        raise more_than_limited(f"table {qualified(*name)} joins with all of it")


def more_than_limited(seen: str) -> RefusedData:
    """Rows would come under a name that stands for some columns or rows."""
    return RefusedData(
        f"{seen}, under which name only some columns or rows are replicated; of this table it is others",
        code="limit-differs",
        hint="Nothing of it is in the log under that name. Give a table that is to take another one's place"
        " an entry in source.tables.limits under the name that it is made with, too, or make and rename it in"
        f" one transaction. To go on with the table as it is, {BEGIN_ANEW}.",
    )
