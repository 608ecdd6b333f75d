"""No UPDATE or DELETE of the application fails for long because its table is published.

PostgreSQL refuses them once a published table has lost its replica identity: its key was dropped, or, under
REPLICA IDENTITY FULL, a virtual generated column was added. Nothing can keep an application from doing that,
so every look at the catalog searches for such tables. One gets REPLICA IDENTITY FULL if that helps and we
may; else it leaves the publication (docs/decisions/010), if that is ours to alter; else it is shouted about.

An ANCHOR names a table that leaves before it does (P11): a capture that is killed in between knows the
publication's change for ours, and the table's last rows, which may still come, for what they are. Replicas
keep the rows as they were. The table joins again like a new one, once it has a key.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from connectors.failpoints import failpoint
from connectors.postgres import publication as publications
from connectors.postgres.catalog import Table
from connectors.postgres.instance import has_role
from connectors.postgres.publication import Publication
from pipeline.capture.announcements import left_tables, left_token
from pipeline.capture.history import check_published, named_tables
from pipeline.capture.options import CaptureOptions
from pipeline.capture.packer import FramePacker
from pipeline.capture.startup import OpenCapture
from pipeline.reports import Endangered
from schemas.errors import KeepstreamError

logger = logging.getLogger("keepstream.capture")

_LATER: Final = frozenset({"lock-timeout", "transaction-conflict", "log-slow", "privilege-missing"})
"""Why it does not come off this time, but may the next."""


@dataclass(frozen=True, slots=True)
class Protected:
    """endangered: published tables whose writes fail. left: those that are not published any more."""

    endangered: tuple[Endangered, ...] = ()
    left: tuple[Endangered, ...] = ()


class Protection:
    """Of one capture's published tables."""

    def __init__(self, capture: OpenCapture, options: CaptureOptions) -> None:
        self._capture = capture
        self._options = options
        self._told: frozenset[Endangered] = frozenset()

    def look(self, tables: Collection[Table], publication: Publication, packer: FramePacker) -> Protected:
        """`tables`: all of the source. Raises what `check_published` does."""
        listed = {table.oid for table in publication.tables}
        failing = [table for table in tables if table.oid in listed and table.identity_problem is not None]
        endangered = [
            self._endangered(table) for table in failing if not self._mended(table, publication, packer)
        ]
        for each in endangered:
            if each not in self._told:
                logger.error(
                    "updates and deletes of a published table fail in the application",
                    extra={"table": each.table, "seen": each.seen, "fix": each.fix},
                )
        self._told = frozenset(endangered)
        return Protected(tuple(endangered), tuple(self._left(tables)))

    def set_full(self, table: Table) -> None:
        """In a transaction of its own. RetryLater: `lock-timeout`; OperatorNeeded: `privilege-missing`."""
        publications.set_full_identity(self._capture.sql, (table.schema, table.name))
        logger.warning("replica identity set to full", extra={"table": table.qualified_name})

    def _mended(self, table: Table, publication: Publication, packer: FramePacker) -> bool:
        try:
            if table.owned and table.full_problem is None:
                self.set_full(table)
            elif packer.holds_transactions or not has_role(self._capture.sql, publication.owner):
                return False
            else:
                self._take_out(table, packer)
        except KeepstreamError as error:
            if error.code not in _LATER:
                raise
            logger.warning(
                "a published table's writes still fail",
                extra={"table": table.qualified_name, "code": error.code},
            )
            return False
        return True

    def _take_out(self, table: Table, packer: FramePacker) -> None:
        session, name, chain = self._capture.sql, self._options.publication, self._capture.chain
        entry = publications.table_entry(session, name, table.oid)
        if entry is None:
            return
        token = left_token(entry, table.oid, table.qualified_name)
        if token not in chain.publication:
            chain.publication_is((*chain.publication, token))
            chain.anchor(packer.live_tables)
        chain.require_durable()
        failpoint("capture.after_leave_announced")
        publications.drop_table(session, name, (table.schema, table.name))
        failpoint("capture.after_leave")
        chain.publication_is(check_published(session, name, chain.publication))
        logger.error(
            "table taken out of the publication: its updates and deletes failed in the application",
            extra={"table": table.qualified_name, "seen": table.identity_problem},
        )

    def _endangered(self, table: Table) -> Endangered:
        fix = publications.identity_remedy(table, self._options.publication)
        return Endangered(table=table.qualified_name, seen=table.identity_problem or "", fix=fix)

    def _left(self, tables: Collection[Table]) -> list[Endangered]:
        entries = self._capture.chain.publication
        listed = named_tables(entries)
        left = {oid for oid in left_tables(entries) if oid not in listed}
        return [_gone(table) for table in tables if table.oid in left]


def _gone(table: Table) -> Endangered:
    name = sql.Identifier(table.schema, table.name).as_string()
    there = f"On every replica: drop table {name}; (or empty it and give it the source's key)."
    again = "it joins again by itself, within ten seconds."
    problem = table.identity_problem
    if problem is None:
        return Endangered(
            table=table.qualified_name, seen="it can be replicated again", fix=f"{there} Then {again}"
        )
    key = f"On the source: alter table {name} add primary key (…); then"
    return Endangered(table=table.qualified_name, seen=problem, fix=f"{there} {key} {again}")
