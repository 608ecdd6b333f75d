"""The servers that a connection string names: libpq tries one after the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from psycopg.conninfo import make_conninfo

from connectors.postgres.session import Session, describe, parse_conninfo

_ATTRIBUTES: Final = "target_session_attrs"
_PER_HOST: Final = ("host", "hostaddr", "port")


@dataclass(frozen=True, slots=True)
class Host:
    """One of them. `name`: host and port, for messages. `conninfo` leads to it alone, whatever it is."""

    name: str
    conninfo: str = field(repr=False)


def hosts(conninfo: str) -> tuple[Host, ...]:
    """In the order in which libpq tries them. A service's are not looked into: it counts as one."""
    given = parse_conninfo(conninfo)
    named = {key: given[key].split(",") for key in _PER_HOST if key in given}
    count = max((len(named.get(key, [""])) for key in ("host", "hostaddr")), default=1)
    found = []
    for index in range(count):
        own = {key: values[index if len(values) == count else 0] for key, values in named.items()}
        one = make_conninfo("", **(given | own | {_ATTRIBUTES: "any"}))
        described = describe(one)
        found.append(Host(described.rpartition("/")[0] or described, one))
    return tuple(found)


def to_primary(conninfo: str) -> str:
    """The same connection string; of several hosts the primary is meant, unless it says otherwise."""
    if len(hosts(conninfo)) == 1 or _ATTRIBUTES in parse_conninfo(conninfo):
        return conninfo
    return make_conninfo(conninfo, **{_ATTRIBUTES: "primary"})


def at_server(conninfo: str, session: Session) -> str:
    """The same connection string for the one host that the session is on: its next sessions must not come to
    another server, which may say that it is the primary, too."""
    place = f"{session.info.host}:{session.info.port}"
    return next((host.conninfo for host in hosts(conninfo) if host.name == place), conninfo)
