"""The publication of a log that begins: made, or found as somebody has made it."""

from __future__ import annotations

import logging

from connectors.failpoints import failpoint
from connectors.postgres.catalog import publication as publications
from connectors.postgres.catalog.publication import Publication
from connectors.postgres.catalog.replica_identity import set_full_identity
from connectors.postgres.catalog.tables import Table, list_tables
from connectors.postgres.limits.harmless import require_harmless
from connectors.postgres.limits.unfit import require_fit_columns
from connectors.postgres.session import Session
from pipeline.capture.options import CaptureOptions
from pipeline.capture.startup.attempt import Attempt
from pipeline.config import Partitions
from pipeline.selection import Selection, is_by_root, mixed_names, select_tables, unheld
from schemas.errors import OperatorNeeded, RetryLater
from schemas.identifiers import qualified

logger = logging.getLogger("keepstream.capture")

_AGAIN_S = 1.0


def selected(sql: Session, options: CaptureOptions, published: Publication | None) -> Selection:
    """Which tables are to be replicated, and which are not, and why."""
    tables = list_tables(sql, publication=options.publication)
    by_root = is_by_root(published, options.partitions)
    selection = select_tables(tables, options.tables, options.keyless, by_root=by_root)
    if selection.undecided:
        names = ", ".join(table.qualified_name for table in selection.undecided)
        logger.warning("tables left out", extra={"tables": names, "reason": "no usable replica identity"})
    return selection


class Publishing:
    """Sees to it in one attempt, and its session."""

    def __init__(self, attempt: Attempt, sql: Session) -> None:
        self._attempt = attempt
        self._options = attempt.options
        self._sql = sql

    def ensure(self, published: Publication | None, selection: Selection) -> None:
        """`published`: as it is; None: it is made. Raises OperatorNeeded (`limit-unused`,
        `publication-unfit`), and what its tables are refused for."""
        options, sql = self._options, self._sql
        for name in selection.unheld:
            seen, hint = unheld(by_root=is_by_root(published, options.partitions))
            raise OperatorNeeded(f"{qualified(*name)}: {seen}", code="limit-unused", hint=hint)
        if published is not None:
            _require_fit(published, options.partitions)
            require_fit_columns(sql, options.publication)
            self._identify(published, selection)
            return
        if selection.make_full and selection.limits:
            with sql.transaction(force_rollback=True):  # what is refused is so before a table is altered
                self._create(selection)
        for table in selection.make_full:
            self._set_full_identity(table)
        with sql.transaction():
            self._create(selection)
        failpoint("capture.publication_created")
        logger.info(
            "publication created",
            extra={"publication": options.publication, "tables": len(selection.names)},
        )

    def _identify(self, published: Publication, selection: Selection) -> None:
        """Before the first row: PostgreSQL lets the application write to a table whose key replicas cannot
        use, such as one with a generated column."""
        listed = {table.oid for table in published.tables}
        for table in selection.make_full:
            if table.oid in listed and table.owned and table.full_problem is None:
                self._set_full_identity(table)

    def _create(self, selection: Selection) -> None:
        name, by_root = self._options.publication, self._options.partitions is Partitions.ROOT
        publications.create_publication(
            self._sql, name, selection.names, by_root=by_root, limits=selection.limits
        )
        full = {(table.schema, table.name) for table in selection.make_full}
        require_harmless(self._sql, name, selection.limits, make_full=full)

    def _set_full_identity(self, table: Table) -> None:
        while True:
            try:
                set_full_identity(self._sql, table)
            except RetryLater as error:
                if error.code != "lock-timeout" or self._attempt.stop.is_set():
                    raise
                self._attempt.waits.begin(
                    f"a pause in the use of {table.qualified_name}, to set its replica identity"
                )
                self._attempt.stop.wait(_AGAIN_S)
            else:
                return


def _require_fit(publication: Publication, partitions: Partitions) -> None:
    """Raises OperatorNeeded (`publication-unfit`)."""
    for problem in (*mixed_names(publication, partitions), *publication.problems):
        raise OperatorNeeded(
            f"publication {publication.name} {problem}",
            code="publication-unfit",
            hint="Run `keepstream check`: it says how to mend it, or to make it anew.",
        )
