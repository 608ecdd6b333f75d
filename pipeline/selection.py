"""Which tables are replicated, which are not, and why: one decision for check, capture, copy and verify.

A partitioned table has no rows of its own: its partitions are replicated under their own names, or it is,
with all their rows, where the publication has publish_via_partition_root.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

from connectors.postgres.catalog.publication import Publication, TableName
from connectors.postgres.catalog.tables import Table, TableKind
from connectors.postgres.limits.limit import Limits
from connectors.postgres.limits.sent import ColumnLists
from pipeline.config.model import Keyless, Partitions, Tables
from pipeline.config.values import TablePattern
from pipeline.reports import NotReplicated
from schemas.errors import UsageError
from schemas.identifiers import qualified
from schemas.table import ReplicaIdentity

EXCLUDED = "excluded by source.tables"
UNDECIDED = "undecided: set source.keyless, or give it a key"


@dataclass(frozen=True, slots=True)
class Selection:
    """The decision. `wanted`: to be replicated. `make_full`: of these, those that need REPLICA
    IDENTITY FULL first (`keyless: full`). `undecided`: keyless tables that `keyless: refuse` stops at.
    `limits`: of these, those of which not all is wanted. `unheld`: names with a limit whose rows come under
    the names of other tables, without it."""

    wanted: tuple[Table, ...]
    make_full: tuple[Table, ...]
    undecided: tuple[Table, ...]
    not_replicated: tuple[NotReplicated, ...]
    limits: Limits = field(default_factory=dict)
    unheld: tuple[TableName, ...] = ()

    @property
    def names(self) -> tuple[TableName, ...]:
        """The wanted tables by name."""
        return tuple((table.schema, table.name) for table in self.wanted)

    def lists_of_all_but(self, published: Collection[TableName]) -> ColumnLists:
        """The columns that are wanted of tables that are still to be published with a list."""
        return {
            name: frozenset(limit.columns)
            for name, limit in self.limits.items()
            if limit.columns is not None and name not in published
        }

    def without(self, tables: Collection[str]) -> Selection:
        """But for these, by qualified name."""

        def others(among: tuple[Table, ...]) -> tuple[Table, ...]:
            return tuple(table for table in among if table.qualified_name not in tables)

        left_out = tuple(each for each in self.not_replicated if each.table not in tables)
        kept = {name: limit for name, limit in self.limits.items() if qualified(*name) not in tables}
        return replace(
            self,
            wanted=others(self.wanted),
            make_full=others(self.make_full),
            undecided=others(self.undecided),
            not_replicated=left_out,
            limits=kept,
        )


def parse_tables(texts: Iterable[str]) -> tuple[TablePattern, ...]:
    """What a command line names. Raises UsageError (`table-pattern-invalid`)."""
    return tuple(map(_parse_table, texts))


def _parse_table(text: str) -> TablePattern:
    try:
        return TablePattern.parse(text)
    except ValueError as error:
        raise UsageError(
            f"table {text!r} {error}", code="table-pattern-invalid", hint="For example public.customer."
        ) from error


def is_by_root(publication: Publication | None, partitions: Partitions) -> bool:
    """Whether rows of partitions come under the name of the table at the top. `partitions`: as the
    configuration wants a publication that is still to be made."""
    return partitions is Partitions.ROOT if publication is None else publication.via_partition_root


def mixed_names(publication: Publication, partitions: Partitions) -> Iterator[str]:
    """Why rows of partitions come under no one name, or under another than the configuration wants.
    PostgreSQL sends them under that of the topmost table that is listed."""
    wholes = {table.table_name: table.qualified_name for table in publication.tables if table.partitioned}
    if publication.via_partition_root:
        for table in publication.tables:
            if table.root is not None and table.root not in wholes:
                whole = qualified(*table.root)
                yield f"lists {table.qualified_name}, a partition of {whole}, instead of the whole"
    elif wholes:
        names = ", ".join(sorted(wholes.values()))
        yield f"lists {names}, and sends their rows under the names of their partitions"
    elif partitions is Partitions.ROOT:
        yield "sends rows of partitions under their own names, against source.partitions: root"


def select_tables(tables: Iterable[Table], chosen: Tables, keyless: Keyless, *, by_root: bool) -> Selection:
    """Decide for every table of the source's catalog. `by_root`: `is_by_root`'s."""
    wanted: list[Table] = []
    make_full: list[Table] = []
    undecided: list[Table] = []
    left_out: list[NotReplicated] = []
    elsewhere: set[TableName] = set()
    for table in tables:
        if table.root if by_root else table.kind is TableKind.PARTITIONED:
            elsewhere.add((table.schema, table.name))
            continue
        reason = _exclusion(table, chosen)
        if reason is None and table.identity_problem is not None:
            reason = _keyless_reason(table, keyless)
            if reason is None:
                make_full.append(table)
            elif keyless is Keyless.REFUSE:
                undecided.append(table)
        if reason is None:
            wanted.append(table)
        else:
            left_out.append(NotReplicated(table=table.qualified_name, reason=reason))
    names = {(table.schema, table.name) for table in wanted}
    limits = {name: limit for name, limit in chosen.limits_by_name.items() if name in names}
    unheld = tuple(name for name in chosen.limits_by_name if name in elsewhere)
    return Selection(tuple(wanted), tuple(make_full), tuple(undecided), tuple(left_out), limits, unheld)


def unheld(*, by_root: bool) -> tuple[str, str]:
    """What is wrong with the limit of such a table, and what to do."""
    if by_root:
        return (
            "source.tables.limits names it, and its rows come as a part of the whole, of which all is"
            " published",
            "Take it out of source.tables.limits; or set `source.partitions: leaves`.",
        )
    return (
        "source.tables.limits names it, and a partitioned table has no rows of its own: all of its"
        " partitions' are published",
        "Name its partitions in source.tables.limits.",
    )


def _exclusion(table: Table, chosen: Tables) -> str | None:
    if not chosen.selects(table.schema, table.name):
        return EXCLUDED
    return table.uncarried_reason


def _keyless_reason(table: Table, keyless: Keyless) -> str | None:
    """Why a table without usable replica identity is left out; None if FULL will be set."""
    problem = table.identity_problem
    if keyless is Keyless.EXCLUDE:
        return f"{problem}; excluded by source.keyless"
    if keyless is Keyless.REFUSE:
        return f"{problem}; {UNDECIDED}"
    if table.full_problem is None:
        return None
    if table.replica_identity is ReplicaIdentity.FULL:
        return problem
    return f"{problem}; source.keyless: full does not help, because it has {table.full_problem}"
