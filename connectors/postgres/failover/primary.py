"""Whether a session is on the primary, and which server that is."""

from __future__ import annotations

from typing import Final

from connectors.postgres.replication.walsender import Walsender
from connectors.postgres.session import Session, wrapped
from schemas.errors import ConfigError, RetryLater

FAILOVER_SINCE: Final = 17
"""The first major version whose slots standbys can have a copy of."""
_STARTED: Final = "select extract(epoch from pg_postmaster_start_time())::text"


def require_primary(session: Session) -> None:
    """Raises RetryLater (`source-is-standby`): it may be promoted, or another host of the connection string
    is the primary by the next try."""
    with wrapped("asking whether the source is in recovery"):
        row = session.execute("select pg_is_in_recovery()").fetchone()
    if row is not None and row[0]:
        raise RetryLater(
            "the source is a standby that was not promoted: nothing can be captured there yet",
            code="source-is-standby",
            hint="It is tried again until it is the primary. If another server is, name that one in"
            " source.url: host=a,b target_session_attrs=primary finds it among several.",
        )


def require_failover_slots(version: int) -> None:
    """`version`: as libpq gives it, 170006. Raises ConfigError (`failover-unsupported`)."""
    if version // 10000 < FAILOVER_SINCE:
        raise ConfigError(
            f"source.failover is true, and the source is PostgreSQL {version // 10000}, whose slots do not"
            " survive a failover",
            code="failover-unsupported",
            hint=f"Upgrade the source to PostgreSQL {FAILOVER_SINCE} or later, or set `failover: false` under"
            " source in keepstream.yaml: then a failover means to begin anew.",
        )


def require_same_server(session: Session, walsender: Walsender) -> None:
    """Of two sessions of one connection string: while the source fails over, they may come to stand on two
    servers, and what one says proves nothing of the other. Raises RetryLater (`source-changed`)."""
    if walsender.query(_STARTED) != [(started_at(session),)]:
        raise RetryLater(
            "two sessions of source.url came to two servers",
            code="source-changed",
            hint="It fails over just now, or two of its hosts say that they are the primary: stop the one"
            " that is not to be written to any more.",
        )


def started_at(session: Session) -> str:
    """When the server was started, which names this run of it."""
    with wrapped("asking the source when it was started"):
        row = session.execute(_STARTED).fetchone()
    assert row is not None
    return str(row[0])
