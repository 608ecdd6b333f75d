"""Where a replica's tables may be other than the source's, and somebody should know: no error comes of it
before a row does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from connectors.postgres.apply.catalog import load_table
from connectors.postgres.catalog.columns import Generated, read_table_columns
from connectors.postgres.catalog.publication import TableName
from connectors.postgres.partitions.bounds import read_bounds
from connectors.postgres.replica.fitting import generating
from connectors.postgres.replica.target import PreparedTable
from connectors.postgres.session import Session
from connectors.postgres.sqlstate import GIVE_BOUNDS
from pipeline.check.findings import Place, losing
from pipeline.check.prepared import SourceFacts
from schemas.finding import Finding
from schemas.identifiers import qualified


class Deviations:
    """Of one replica from what was learned of the source."""

    def __init__(self, session: Session, place: Place, source: SourceFacts) -> None:
        self._session = session
        self._place = place
        self._source = source

    def of(self, tables: Sequence[PreparedTable]) -> Iterator[Finding]:
        """All of these tables of the replica's."""
        oids = [table.oid for table in tables]
        yield from self._generated(oids)
        yield from self._bounds(oids)

    def _generated(self, tables: Sequence[int]) -> Iterator[Finding]:
        for name, theirs in read_table_columns(self._session, tables).items():
            ours = self._source.columns.get(name)
            for column, generated in ours.generated.items() if ours else ():
                there = theirs.generated.get(column)
                if there is not None and _differ(generated, there):
                    yield self._computed(name, column, ours=generated, theirs=there)

    def _computed(self, name: TableName, column: str, *, ours: Generated, theirs: Generated) -> Finding:
        target = load_table(self._session, *name, replica_role=False)
        return self._place.warning(
            "generated-differs",
            qualified(*name),
            f"computes column {column} as {theirs}, the source as {ours}",
            sql=losing("its values", generating(target, target.columns[column], ours)),
        )

    def _bounds(self, tables: Sequence[int]) -> Iterator[Finding]:
        """They may be wider; which rows will come, nobody knows."""
        for name, theirs in read_bounds(self._session, tables).items():
            ours = self._source.bounds.get(name, theirs)
            if ours != theirs:
                yield self._place.warning(
                    "replica-bounds",
                    qualified(*name),
                    f"takes rows {theirs}, the source's {ours}: rows outside of that would be refused",
                    fix=GIVE_BOUNDS,
                )


def _differ(ours: Generated, theirs: Generated) -> bool:
    return None not in (ours.expression, theirs.expression) and ours != theirs
