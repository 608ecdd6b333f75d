"""Waiting until what is committed in WAL is committed for everybody (P18).

Slots go by the WAL: a transaction is sent, and counts as done in an exported snapshot, once its commit
record is flushed. Other sessions see it a little later; much later where the commit waits for a
synchronous standby. Who reads tables or the catalog before that sees what was before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from connectors.postgres.session import Session, connect, wrapped
from schemas.errors import RetryLater

_SNAPSHOT_POLL_S: Final = 0.02
_TRANSACTION_POLL_S: Final = 0.005
_EPOCH: Final = 1 << 32
_HINT: Final = "If commits wait for a synchronous standby, mend it or synchronous_standby_names."


def wait_until_visible(
    importer: Session, conninfo: str, *, purpose: str, limit_s: float, tick: Callable[[], None]
) -> None:
    """Wait until all that the imported snapshot counts as committed is committed for everybody.

    A row read earlier would be taken for aborted, and marked so. `importer` is in the transaction
    that imported the snapshot and has read nothing yet. `tick` may raise to give up. Raises RetryLater
    (`snapshot-not-visible`) after `limit_s`.
    """
    started = time.monotonic()
    with connect(conninfo, purpose=purpose) as fresh, wrapped("waiting for the snapshot to be visible"):
        imported = _current_snapshot(importer)
        while missing := not_yet_visible(imported, _current_snapshot(fresh)):
            tick()
            if time.monotonic() - started > limit_s:
                raise RetryLater(
                    f"{len(missing)} transactions of the snapshot are committed in WAL but not yet visible",
                    code="snapshot-not-visible",
                    hint=_HINT,
                )
            time.sleep(_SNAPSHOT_POLL_S)


def wait_until_transaction_visible(session: Session, xid: int, *, limit_s: float) -> None:
    """Wait until statements of `session`, which is in autocommit, see a committed transaction.

    `xid`: its 32 bits, as the stream has it. Raises RetryLater (`commit-not-visible`) after `limit_s`.
    """
    started = time.monotonic()
    with wrapped(f"waiting until transaction {xid} is visible"):
        while not is_visible(_current_snapshot(session), xid):
            if time.monotonic() - started > limit_s:
                raise RetryLater(
                    f"transaction {xid} altered a table; it is committed in WAL but not visible yet",
                    code="commit-not-visible",
                    hint=_HINT,
                )
            time.sleep(_TRANSACTION_POLL_S)


def _current_snapshot(session: Session) -> str:
    ((text,),) = session.execute("select pg_catalog.pg_current_snapshot()::text").fetchall()
    return str(text)


def not_yet_visible(imported: str, fresh: str) -> set[int]:
    """Transactions that count as done in snapshot `imported` and as running in `fresh`.

    Both are text of pg_snapshot, `xmin:xmax:xip,…`: done is what is below xmin, and what is below
    xmax and not listed.
    """
    _, imported_xmax, imported_running = _parse_snapshot(imported)
    _, fresh_xmax, fresh_running = _parse_snapshot(fresh)
    unfinished = fresh_running | set(range(fresh_xmax, imported_xmax))
    return {xid for xid in unfinished if xid < imported_xmax} - imported_running


def is_visible(snapshot: str, xid: int) -> bool:
    """Whether a committed transaction (32 bits) is done in a snapshot (text of pg_snapshot)."""
    _, xmax, running = _parse_snapshot(snapshot)
    full = xmax - xmax % _EPOCH + xid
    if abs(full - xmax) > _EPOCH // 2:
        full += _EPOCH if full < xmax else -_EPOCH
    return full < xmax and full not in running


def _parse_snapshot(text: str) -> tuple[int, int, set[int]]:
    xmin, xmax, running = text.split(":")
    return int(xmin), int(xmax), {int(xid) for xid in running.split(",") if xid}
