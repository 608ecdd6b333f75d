"""SQL for several servers in one output: only one server's part can be run.

The servers' databases often have one name, and what mends a replica (another owner, an emptied table)
destroys a source. So a whole that is piped into psql stops there before its first statement.
"""

from __future__ import annotations

from collections.abc import Mapping

from schemas.errors import UsageError

SOURCE = "source"
_GUARD = """\
\\warn 'Nothing was run: this is SQL for several servers. Print that of one: --for source, or a replica'
\\quit"""


def replica_place(name: str) -> str:
    """The key of a replica's part; a finding's `where`."""
    return f"replica {name}"


def script_of(parts: Mapping[str, str], server: str | None) -> str:
    """What is printed of the parts: that of `server`, as `--for` names it, or all, which psql does not run
    where there are several."""
    if server is not None:
        return parts.get(SOURCE if server == SOURCE else replica_place(server), "")
    guard = [_GUARD] if len(parts) > 1 else []
    return "\n".join([*guard, *parts.values()])


def require_known(server: str | None, replicas: Mapping[str, object]) -> None:
    """Raises UsageError (`server-unknown`)."""
    known = [SOURCE, *replicas]
    if server is not None and server not in known:
        raise UsageError(
            f"--for {server}: there is no such server in the configuration",
            code="server-unknown",
            hint=f"It is one of: {', '.join(known)}.",
        )
