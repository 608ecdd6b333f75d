"""When a transaction that the slot has sent is visible in the catalog, too (P18).

A slot sends a transaction once its commit record is flushed. Other sessions see it a little later; much
later where the commit waits for a synchronous standby. Who reads the catalog before sees what was before.
"""

from __future__ import annotations

import time
from typing import Final

from connectors.postgres.session import Session, wrapped
from schemas.errors import RetryLater

_POLL_S: Final = 0.005
_EPOCH: Final = 1 << 32


def wait_until_visible_to(session: Session, xid: int, *, limit_s: float) -> None:
    """Until statements of `session` (in autocommit) see the transaction; `xid` has 32 bits, as in the stream.

    Raises RetryLater (`commit-not-visible`) after `limit_s`.
    """
    deadline = time.monotonic() + limit_s
    with wrapped(f"waiting until transaction {xid} is visible"):
        while not is_visible(_current_snapshot(session), xid):
            if time.monotonic() > deadline:
                raise RetryLater(
                    f"transaction {xid} altered a table; it is committed in WAL but not visible yet",
                    code="commit-not-visible",
                    hint="If commits wait for a synchronous standby, mend it or synchronous_standby_names.",
                )
            time.sleep(_POLL_S)


def is_visible(snapshot: str, xid: int) -> bool:
    """Whether a committed transaction is done in a snapshot (text of pg_snapshot, `xmin:xmax:xip,…`)."""
    _, xmax_text, running = snapshot.split(":")
    xmax = int(xmax_text)
    full = xmax - xmax % _EPOCH + xid
    if abs(full - xmax) > _EPOCH // 2:
        full += _EPOCH if full < xmax else -_EPOCH
    return full < xmax and str(full) not in running.split(",")


def _current_snapshot(session: Session) -> str:
    ((text,),) = session.execute("select pg_catalog.pg_current_snapshot()::text").fetchall()
    return str(text)
