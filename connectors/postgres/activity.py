"""What pg_stat_activity tells of other processes of ours: how long one may be silent, and how people see what
a session waits for."""

from __future__ import annotations

from typing import Final

SILENCE_LIMIT_S: Final = 30.0
"""How long the process that owns a slot or replica may say nothing there before a waiting one takes over by
itself (P4)."""

SEE_WAITS: Final = (
    "See what its session waits for: select pid, wait_event_type, wait_event, state, query from"
    " pg_stat_activity where application_name like 'keepstream:%';"
)
"""Sentences of a hint, behind the name of the server to ask."""
