"""What a source says of the event triggers that put DDL into its stream, and of the key that proves them."""

from __future__ import annotations

from typing import Any, Final

from connectors.postgres.session import Session, wrapped

TRIGGERS: Final = ("keepstream_ddl", "keepstream_drop", "keepstream_rewrite")
_XIDS: Final = 1 << 32

_ALWAYS: Final = """
    select count(*)
      from pg_catalog.pg_event_trigger t
      join pg_catalog.pg_proc f on f.oid = t.evtfoid
      join pg_catalog.pg_namespace n on n.oid = f.pronamespace
     where t.evtname = any (%s) and t.evtenabled = 'A' and n.nspname = 'keepstream'
"""
_HAS_KEY: Final = """
    select exists (
        select from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
         where n.nspname = 'keepstream' and c.relname = 'schema_key')
"""


def triggers_act(session: Session) -> bool:
    """Whether all of them are there and fire always, in the session's snapshot."""
    with wrapped("looking for the event triggers of schema changes"):
        return bool(_value(session, _ALWAYS, [list(TRIGGERS)]) == len(TRIGGERS))


def read_key(session: Session) -> bytes | None:
    """The key of now; None where there is none. OperatorNeeded: `privilege-missing`."""
    with wrapped("reading the key of schema changes (keepstream.schema_key)"):
        if not _value(session, _HAS_KEY, []):
            return None
        row = session.execute("select key from keepstream.schema_key").fetchone()
    return None if row is None or row[0] is None else bytes(row[0])


def whole_xid(session: Session, xid: int) -> int:
    """The 64 bits of a transaction's number whose lower 32 are `xid`: it ended not long ago."""
    with wrapped("reading the newest transaction's number"):
        now = int(_value(session, "select pg_snapshot_xmax(pg_current_snapshot())::text", []))
    return now + ((xid - now + _XIDS // 2) % _XIDS) - _XIDS // 2


def emit_look(session: Session, prefix: str) -> int:
    """Commit an empty message: all that the session has seen stands before the LSN that is returned."""
    with wrapped("writing a message into the source's WAL"):
        query = "select pg_logical_emit_message(true, %s::text, ''::text) - '0/0'::pg_lsn"
        return int(_value(session, query, [prefix]))


def _value(session: Session, query: str, values: list[Any]) -> Any:
    row = session.execute(query, values).fetchone()
    assert row is not None
    return row[0]
