"""Holding a replica exactly at a position (P16): pause, `--until` and verification.

A hold is three columns of the progress row. The applier's compare-and-set cannot pass it, so it
needs no answer from the applier, on whatever host that runs. `updated_at` is the applier's: by it others see
whether that lives, so a hold does not touch it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any, Final, TypeVar

from connectors.postgres.replica import progress
from connectors.postgres.replica.progress import HoldKind, Progress
from connectors.postgres.session import Session, limit_waits, wrapped
from schemas.errors import OperatorNeeded, RetryLater, Unhealthy
from schemas.lsn import Lsn, format_lsn, parse_lsn

T = TypeVar("T")

# An operator's pause is stronger than a mere destination; nobody ends another's verification, but everybody
# what gives way.
_REPLACES: Final = {
    HoldKind.PAUSE: (HoldKind.PAUSE, HoldKind.UNTIL),
    HoldKind.UNTIL: (HoldKind.UNTIL,),
    HoldKind.VERIFY: (),
}

_HOLD: Final = """
    update keepstream.progress
       set hold_at = coalesce(%(at)s::pg_lsn, position), hold_kind = %(kind)s,
           hold_expires = clock_timestamp() + %(seconds)s::float8 * interval '1 second'
     where name = %(name)s
       and (hold_at is null or hold_kind = any(%(replaces)s) or hold_expires <= clock_timestamp()
            or (hold_kind = 'verify' and %(kind)s <> 'verify'
                and exists (select from pg_catalog.pg_stat_activity
                             where datname = current_database() and application_name = %(giving_way)s)))
       and (%(at)s::pg_lsn is null or %(at)s::pg_lsn >= position)
 returning hold_at::text
"""

_MOVE: Final = """
    update keepstream.progress
       set hold_at = %(at)s::pg_lsn,
           hold_expires = clock_timestamp() + %(seconds)s::float8 * interval '1 second'
     where name = %(name)s and hold_kind = %(kind)s and hold_at = %(held_at)s::pg_lsn
       and hold_expires > clock_timestamp() and %(at)s::pg_lsn >= position
"""

_PROVE: Final = """
    update keepstream.progress
       set hold_expires = clock_timestamp() + %(seconds)s::float8 * interval '1 second'
     where name = %(name)s and stream = %(stream)s and state = 'streaming'
       and position = %(at)s::pg_lsn and hold_at = %(at)s::pg_lsn and hold_kind = %(kind)s
"""

_RELEASE: Final = """
    update keepstream.progress
       set hold_at = null, hold_kind = null, hold_expires = null
     where name = %(name)s and hold_at is not null and hold_kind = any(%(kinds)s)
   and (%(held_at)s::pg_lsn is null or hold_at = %(held_at)s::pg_lsn)
"""


def between_transactions(
    conn: Session, act: Callable[[], T], *, limit_s: float, on_wait: Callable[[], None]
) -> T:
    """What `act` (`hold`, `release`) returns, as soon as the applier's open transaction has ended, which has
    the row locked. Tried again and again, for a second each: what was given up, or killed, must not act
    later.

    Calls `on_wait` once, if it must wait. Raises Unhealthy (`replica-busy`) after `limit_s`, and what `act`
    raises.
    """
    limit_waits(conn)
    deadline = time.monotonic() + limit_s
    waited = False
    while True:
        try:
            return act()
        except RetryLater as error:
            if error.code != "lock-timeout":
                raise
            if time.monotonic() > deadline:
                raise Unhealthy(
                    f"the applier's open transaction did not end within {limit_s:g} s; nothing was changed",
                    code="replica-busy",
                    hint="It waits for the rest of a large transaction, or for a lock: see what `keepstream"
                    " status` says of capture and the log. Or wait longer, with --timeout SECONDS.",
                ) from error
            if not waited:
                on_wait()
            waited = True


def hold(
    conn: Session,
    name: str,
    kind: HoldKind,
    *,
    at: Lsn | None = None,
    expires_s: float | None = None,
    replica: str,
) -> Lsn:
    """Let the replica come to `at` (None: where it stands now) and no further; returns that LSN.
    `replica`: its name in the configuration, for the hint.

    Waits for the target transaction that is running, which may still be committed. Raises
    HistoryBroken (`progress-missing`) and OperatorNeeded: `replica-held` if somebody else holds it,
    `hold-passed` if it is past `at` already.
    """
    values: dict[str, Any] = {
        "name": name,
        "kind": kind.value,
        "replaces": [replaced.value for replaced in _REPLACES[kind]],
        "at": None if at is None else format_lsn(at),
        "seconds": expires_s,
        "giving_way": _giving_way(name),
    }
    progress.require(conn, name)
    with wrapped("holding the replica"):
        row = conn.execute(_HOLD, values).fetchone()
    if row is None:
        raise _refusal(progress.require(conn, name), at, replica)
    return parse_lsn(row[0])


def give_way(conn: Session, name: str) -> None:
    """As long as this session lasts a hold of verification is one that ends for a pause. It says so by its
    application_name, which every role may read of every session."""
    with wrapped("preparing to hold the replica"):
        conn.execute("select set_config('application_name', %s, false)", [_giving_way(name)])


def _giving_way(name: str) -> str:
    return f"keepstream:{name}:copy-awaited"


def _refusal(found: Progress, at: Lsn | None, replica: str) -> OperatorNeeded:
    if at is not None and found.position.lsn > at:
        return OperatorNeeded(
            f"the replica is at {found.position}, past {format_lsn(at)}",
            code="hold-passed",
            hint="Name a later position: a replica does not go back.",
        )
    seen = "" if found.hold is None else f" at {format_lsn(found.hold.at)} ({found.hold.kind.value})"
    return OperatorNeeded(
        f"the replica is held already{seen}",
        code="replica-held",
        hint=f"Wait until that has ended, or release it with `keepstream resume {replica}`.",
    )


def move_hold(conn: Session, name: str, kind: HoldKind, *, held_at: Lsn, at: Lsn, expires_s: float) -> bool:
    """Move or prolong a hold of one's own with an expiry; False if it is not held there any more."""
    values = {
        "name": name,
        "kind": kind.value,
        "held_at": format_lsn(held_at),
        "at": format_lsn(at),
        "seconds": expires_s,
    }
    with wrapped("moving the hold"):
        return conn.execute(_MOVE, values).rowcount == 1


def prove_standing(conn: Session, found: Progress, kind: HoldKind, *, expires_s: float) -> bool:
    """Whether the replica still stands where `found` was read, under one's own hold there; if so nobody moves
    it before the caller's transaction has ended, and the hold lasts on behind that.

    An expired hold counts, too: what is proven is the position, which never goes back.
    """
    values = {
        "name": found.name,
        "stream": uuid.UUID(bytes=found.stream),
        "at": format_lsn(found.position.lsn),
        "kind": kind.value,
        "seconds": expires_s,
    }
    with wrapped("proving where the replica stands"):
        return conn.execute(_PROVE, values).rowcount == 1


def release(conn: Session, name: str, *kinds: HoldKind, held_at: Lsn | None = None) -> bool:
    """End the hold if it is of one of these kinds (none given: any), and there if `held_at` says where:
    elsewhere it is another's by now; returns whether there was one."""
    values = {
        "name": name,
        "kinds": [kind.value for kind in kinds or tuple(HoldKind)],
        "held_at": None if held_at is None else format_lsn(held_at),
    }
    with wrapped("releasing the replica"):
        return conn.execute(_RELEASE, values).rowcount == 1
