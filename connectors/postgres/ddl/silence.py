"""Triggers and rules that would act on our writes are kept still, and FORCE ROW LEVEL SECURITY does not bind
us: as the first copy does it. What was wanted is kept in keepstream.deferred_ddl."""

from __future__ import annotations

from typing import Final

from connectors.postgres.replica import deferred
from connectors.postgres.replica.deferred import Deferred
from connectors.postgres.replica.firing import FOREIGN_KEY, Firing, read_firing
from connectors.postgres.session import Session
from schemas.identifiers import qualified

ROW_SECURITY: Final = "row security"
_ACTS: Final = "it would act on rows that are replicated"
_FORCED: Final = "FORCE would apply the policies to our role, which owns the table here"


def silence(conn: Session, pipeline: str, table: tuple[str, str], *, replica_role: bool) -> None:
    """In the session's open transaction, after triggers or rules of the table were made or enabled."""
    found = conn.execute("select to_regclass(format('%%I.%%I', %s::text, %s::text))::oid", table).fetchone()
    if found is None or found[0] is None:
        return
    for each in read_firing(conn, replica_role=replica_role, tables=[found[0]]):
        if each.kind != FOREIGN_KEY:
            conn.execute(each.silencing().encode())
            _keep(conn, pipeline, each)


def _keep(conn: Session, pipeline: str, each: Firing) -> None:
    shown = qualified(each.schema, each.table, each.name)
    deferred.take_back(conn, pipeline, each.kind, shown)
    deferred.keep(conn, pipeline, Deferred(each.kind, shown, _ACTS, each.restoring()))


def keep_forced(conn: Session, pipeline: str, table: tuple[str, ...], statement: str) -> None:
    deferred.keep(conn, pipeline, Deferred(ROW_SECURITY, qualified(*table), _FORCED, statement))


def forget_forced(conn: Session, pipeline: str, table: tuple[str, ...]) -> None:
    deferred.take_back(conn, pipeline, ROW_SECURITY, qualified(*table))
