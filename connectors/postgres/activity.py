"""What pg_stat_activity tells of other processes of ours: which have a session, how long one may be silent,
and how people see what a session waits for."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from connectors.postgres.session import Session, wrapped

APPLICATION_NAME_BYTES: Final = 63
"""NAMEDATALEN - 1; the server cuts what is longer."""

SILENCE_LIMIT_S: Final = 30.0
"""How long the process that owns a slot or replica may say nothing there before a waiting one takes over by
itself (P4)."""

SEE_WAITS: Final = (
    "See what its session waits for: select pid, wait_event_type, wait_event, state, query from"
    " pg_stat_activity where application_name like 'keepstream:%';"
)
"""Sentences of a hint, behind the name of the server to ask."""

_SESSIONS: Final = """
    select application_name, pid from pg_catalog.pg_stat_activity
     where application_name = any (%s) and datname = current_database()
     order by pid
"""


def read_sessions(session: Session, purposes: Collection[str]) -> list[tuple[str, int]]:
    """application_name and process of each session in this database that has one of these purposes
    (`session.connect`). A role sees its own without any right."""
    names = [f"keepstream:{purpose}"[:APPLICATION_NAME_BYTES] for purpose in purposes]
    with wrapped("looking for sessions of this pipeline"):
        return session.execute(_SESSIONS, [names]).fetchall()
