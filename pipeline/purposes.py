"""What the sessions of `run` and its stages are for, from the first one that each opens: by the
application_name that `session.connect` makes of it, they are found before they hold slot, replica or log."""

from __future__ import annotations

import hashlib


def run(pipeline: str) -> str:
    """On the source, from the preflight to the end."""
    return f"{pipeline}:run"


def capture(pipeline: str) -> str:
    """On the source."""
    return f"{pipeline}:capture"


def apply(pipeline: str, replica: str) -> str:
    """On the replica."""
    return f"apply:{pipeline}:{replica}"


def copy(pipeline: str, replica: str) -> str:
    """On both. Another start of the same copy finds them by it, so it says which replica is meant;
    application_name has room for a digest of the name only."""
    return f"copy:{pipeline}:{hashlib.sha256(replica.encode()).hexdigest()[:8]}"
