"""What the configured replicas say of a table that is to join: the log must not hold what one of them could
not follow. And where they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import psycopg
from psycopg.conninfo import make_conninfo

from connectors.postgres.apply.joined_table import Place, kind_of, rehearse
from connectors.postgres.catalog.columns import TableColumns
from connectors.postgres.catalog.dependencies import Dependency, missing
from connectors.postgres.catalog.tables import Table
from connectors.postgres.copy.run import may_switch_triggers_off
from connectors.postgres.replica import progress
from connectors.postgres.replica.progress import Progress
from connectors.postgres.session import Session, connect, wrapped
from pipeline.capture.options import CaptureOptions, FollowingReplica
from schemas.errors import KeepstreamError
from schemas.join import Join
from schemas.table import TableSchema

ANSWERS_S: Final = 3
"""Other tables wait while a replica is asked."""

_MAKE_THERE: Final = "Make that there as on the source; of a schema our role needs USAGE and CREATE"
SOON: Final = "tried again within a minute"
_BUSY: Final = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.QueryCanceled,
    psycopg.errors.DeadlockDetected,
)


class Replicas:
    """Of one capture. One whose first copy is not made yet has nothing to say: that brings everything."""

    def __init__(self, options: CaptureOptions) -> None:
        self._options = options

    def lacking(self, table: Table, needed: tuple[Dependency, ...]) -> str | None:
        """Which replica lacks what the table needs beside itself; None if it can be made on all of them. One
        that has a table of this name was prepared for it, perhaps with types of its own."""
        if not needed:
            return None

        def ask(replica: Session, name: str) -> str | None:
            if kind_of(replica, table.schema, table.name) is not None:
                return None
            lacks = ", ".join(each.shown for each in missing(replica, needed))
            return f"replica {name} lacks what it needs: {lacks}. {_MAKE_THERE}; {SOON}" if lacks else None

        return self._ask_all(ask)

    def refusing(self, join: Join, version: TableSchema, source: TableColumns) -> str | None:
        """Which replica could not make it, or has another table of its name; None if all can take it in."""

        def ask(replica: Session, name: str) -> str | None:
            at = Place(self._options.name, name, may_switch_triggers_off(replica))
            replica.execute(f"set lock_timeout = '1s'; set statement_timeout = '{ANSWERS_S}s'")
            try:
                rehearse(replica, join, version, at=at, source=source)
            except _BUSY:
                return None  # apply waits longer
            except psycopg.Error as error:
                seen = error.diag.message_primary or type(error).__name__
                return f"replica {name} cannot make it: {seen}; {SOON}"
            except KeepstreamError as error:
                return f"replica {name} cannot take it: {error.message}. {error.hint} ({SOON})"
            return None

        return self._ask_all(ask)

    def rows(self) -> Mapping[str, Progress | KeepstreamError | None]:
        """Their progress rows, or why they cannot be read; None: the first copy has not begun."""
        found: dict[str, Progress | KeepstreamError | None] = {}
        for name, replica in self._options.replicas.items():
            try:
                with self._session(name, replica, "left") as session:
                    found[name] = progress.read(session, self._options.name)
            except KeepstreamError as error:
                found[name] = error
        return found

    def _ask_all(self, ask: Callable[[Session, str], str | None]) -> str | None:
        for name, replica in self._options.replicas.items():
            try:
                with self._session(name, replica, "join") as session:
                    if progress.read(session, self._options.name) is None:
                        continue
                    refused = ask(session, name)
            except KeepstreamError as error:
                return f"replica {name} did not say whether it can take it ({error.code}); {SOON}"
            if refused is not None:
                return refused
        return None

    @contextmanager
    def _session(self, name: str, replica: FollowingReplica, purpose: str) -> Iterator[Session]:
        soon = make_conninfo(replica.conninfo, connect_timeout=ANSWERS_S)
        with (
            connect(soon, purpose=f"{self._options.name}:{purpose}") as session,
            wrapped(f"asking replica {name}"),
        ):
            yield session
