"""A session of its own for what must not end capture's, nor outlive it by much."""

from __future__ import annotations

from connectors.postgres.catalog.publication import WRITERS_WAIT_MS
from connectors.postgres.session import Session, connect, wrapped
from pipeline.capture.options import CaptureOptions
from schemas.errors import KeepstreamError

IDLE_MS = 5_000
"""The server ends a transaction of ours that has fallen silent: we may be frozen, or cut off."""


def begin(options: CaptureOptions, *, isolation: str = "read committed") -> Session:
    """A transaction that the server ends if we fall silent. Closing the session rolls it back."""
    session = connect(options.source, purpose=f"{options.name}:join", autocommit=False)
    try:
        with wrapped("beginning a transaction of its own"):
            session.execute(f"set transaction isolation level {isolation}")
            session.execute(f"set local idle_in_transaction_session_timeout = {IDLE_MS}")
            session.execute(f"set local lock_timeout = {WRITERS_WAIT_MS}")
    except KeepstreamError:
        session.close()
        raise
    return session
