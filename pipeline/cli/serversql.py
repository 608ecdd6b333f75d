"""SQL for source and replicas: that of one server, made to be piped into psql, or all of it, for reading.

What mends one server may ruin another (`truncate`, `alter database … owner`), and psql knows no comments that
say where it is. So all of it begins with lines by which psql runs nothing, and ends with exit code 3, even if
only one of several servers needs SQL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.config import Config
from schemas.errors import UsageError

SERVER_HELP: Final = "Only the SQL of this server, to be piped into psql there."
SERVER_METAVAR: Final = "source|REPLICA"
_SOURCE: Final = "source"
_REPLICA: Final = "replica "


@dataclass(frozen=True, slots=True)
class ServerSql:
    """`where`: `source` or `replica NAME`, as in a Finding."""

    where: str
    text: str


def choose(parts: Sequence[ServerSql], where: str | None, config: Config, *, verb: str) -> str:
    """The part of that place, or all of them, guarded where there are several servers. `verb`: what prints
    it."""
    if where is not None:
        return "\n".join(part.text for part in parts if part.where == where)
    text = "\n\n".join(part.text for part in parts)
    if not text or not config.replicas:
        return text
    return f"{_guard([part.where for part in parts], verb)}\n\n{text}"


def options(wheres: Sequence[str]) -> list[str]:
    """`--for …` of each place."""
    names = {where: where.removeprefix(_REPLICA) for where in wheres} | {
        _REPLICA + _SOURCE: '"replica source"'
    }
    return [f"--for {names[where]}" for where in wheres]


def require_sql(server: str | None, *, option: str, given: bool) -> None:
    """Raises UsageError where --for comes without the option that prints SQL."""
    if server is not None and not given:
        raise UsageError(
            f"--for chooses among the SQL that {option} prints",
            code="for-without-sql",
            hint=f"Add {option}, or leave --for {server} out.",
        )


def place_of(server: str | None, config: Config) -> str | None:
    """What --for names, as `where` of a ServerSql; None without it. A replica may be called `source`: then it
    is asked for as `replica source`. Raises UsageError (`server-unknown`)."""
    if server is None:
        return None
    known = [_SOURCE, *(_REPLICA + name for name in config.replicas)]
    for where in (server, _REPLICA + server):
        if where in known:
            return where
    raise UsageError(
        f"--for {server} names no server of this pipeline",
        code="server-unknown",
        hint=f"Give one of: {', '.join(options(known))}",
    )


# Without \endif psql ends with an error, and with exit code 3, whatever -v ON_ERROR_STOP said. \quit would
# end with 0, and hand the rest of what is pasted to the shell.
_GUARD: Final = r"""\warn 'Nothing was run: there are several servers. Print the SQL of one: {verb} {options}'
\set ON_ERROR_STOP on
\if false"""


def _guard(wheres: Sequence[str], verb: str) -> str:
    return _GUARD.format(verb=verb, options=" or ".join(options(wheres)))
