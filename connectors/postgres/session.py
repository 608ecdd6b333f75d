"""The one place that opens sessions to PostgreSQL, so that every session is set the same way.

Settings that change the text of values, that hide rows, or that end long work are pinned, whatever
the server, the database or the role says. `sql_error` is here too, for everyone who runs SQL.
"""

from __future__ import annotations

import contextlib
import re
from difflib import get_close_matches
from typing import Any, Final

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from connectors.postgres.sqlstate import conninfo_error, login_error, sql_error, wrapped
from schemas.errors import ConfigError

__all__ = [
    "Session",
    "connect",
    "connect_replication",
    "describe",
    "limit_waits",
    "notice_lost_client",
    "parse_conninfo",
    "sql_error",
    "unknown_keyword",
    "wrapped",
]

Session = psycopg.Connection[tuple[Any, ...]]

# name, value, first major version that has it
_PINNED: Final[tuple[tuple[str, str, int], ...]] = (
    # the text that values are sent and read in
    ("client_encoding", "UTF8", 0),
    ("DateStyle", "ISO, MDY", 0),
    ("IntervalStyle", "postgres", 0),
    ("TimeZone", "UTC", 0),
    ("extra_float_digits", "1", 0),
    ("bytea_output", "hex", 0),
    ("xmloption", "content", 0),
    ("lc_monetary", "C", 0),  # money's text depends on it; with C on both sides its int64 arrives
    ("array_nulls", "on", 0),
    ("standard_conforming_strings", "on", 0),
    ("quote_all_identifiers", "off", 0),  # format_type() and pg_get_expr() obey it
    ("search_path", "", 0),
    # a policy raises instead of hiding rows
    ("row_security", "off", 0),
    ("default_transaction_isolation", "read committed", 0),
    ("default_transaction_read_only", "off", 0),
    ("default_transaction_deferrable", "off", 0),
    ("lock_timeout", "0", 0),
    ("statement_timeout", "0", 0),
    ("idle_in_transaction_session_timeout", "0", 0),
    ("idle_session_timeout", "0", 14),  # older servers answer, too: `check` says that they are too old
    ("transaction_timeout", "0", 17),
)

# Only where the connection string does not say otherwise.
_DEFAULTS: Final[dict[str, str]] = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}


def connect(conninfo: str, *, purpose: str, autocommit: bool = True) -> Session:
    """A session with everything pinned and application_name `keepstream:<purpose>`.

    `conninfo` is any libpq connection string (URI, key=value, service, several hosts). Raises
    RetryLater (`server-unreachable`), LoginRefused (`login-refused`), ConfigError (`conninfo-invalid`).
    """
    session = _open(conninfo, purpose, autocommit=autocommit)
    _pin(session, conninfo)
    return session


def connect_replication(conninfo: str, *, purpose: str) -> Session:
    """The same for a walsender connection (`replication=database`), which also takes plain SQL,
    but only without parameters (psycopg.ClientCursor) and never after START_REPLICATION."""
    session = _open(conninfo, purpose, autocommit=True, replication="database")
    _pin(session, conninfo)
    return session


def notice_lost_client(session: Session, *, within_s: int) -> None:
    """Let the server look for its client while it works or waits, and end what nobody waits for any more:
    where it can, from PostgreSQL 14 on and not on every platform. Call it outside of a transaction."""
    with contextlib.suppress(psycopg.Error):
        session.execute(f"set client_connection_check_interval = '{within_s:d}s'".encode())


def limit_waits(session: Session, *, lock_s: int = 1) -> None:
    """For what an operator may end at any moment: it waits for a lock no longer than that (RetryLater,
    `lock-timeout`), and does nothing after its client is gone."""
    with wrapped("preparing a session of an operator's"):
        session.execute(f"set lock_timeout = '{lock_s:d}s'".encode())
    notice_lost_client(session, within_s=1)


def describe(conninfo: str) -> str:
    """`host:port/database` of a connection string, for messages; never a password or user."""
    given = parse_conninfo(conninfo)
    if "service" in given and "host" not in given:
        database = f"/{given['dbname']}" if "dbname" in given else ""
        return f"service {given['service']}{database}"
    defaults = {o.keyword.decode(): (o.val or b"").decode() for o in pq.Conninfo.get_defaults()}
    value = {**defaults, **given}
    hosts = (value.get("host") or value.get("hostaddr") or "localhost").split(",")
    ports = (value.get("port") or "5432").split(",")
    if len(ports) != len(hosts):
        ports = ports[:1] * len(hosts)
    servers = ",".join(f"{host}:{port}" for host, port in zip(hosts, ports, strict=True))
    return f"{servers}/{value.get('dbname') or value.get('user') or ''}"


def parse_conninfo(conninfo: str) -> dict[str, str]:
    """What a connection string gives, by keyword. Raises ConfigError (`conninfo-invalid`)."""
    try:
        options = pq.Conninfo.parse(conninfo.encode())
    except (psycopg.Error, UnicodeError):
        # libpq's text may quote the password
        raise conninfo_error(unknown=unknown_keyword(conninfo)) from None
    given = {o.keyword.decode(): o.val.decode() for o in options if o.val is not None}
    _refuse_misread_password(conninfo, given)
    return given


_UNKNOWN: Final = re.compile(r'invalid (?:connection option|URI query parameter:) "(\w+)"')


def unknown_keyword(conninfo: str) -> str:
    """`an unknown keyword …; did you mean …?` of a connection string that libpq refuses for that; else ""."""
    try:
        pq.Conninfo.parse(conninfo.encode())
        return ""
    except (psycopg.Error, UnicodeError) as exc:
        refused = _UNKNOWN.search(str(exc))
    if refused is None:
        return ""
    known = [option.keyword.decode() for option in pq.Conninfo.get_defaults()]
    named = "" if _may_be_secret(refused[1], conninfo) else f" `{refused[1]}`"
    near = "".join(f"; did you mean `{name}`?" for name in get_close_matches(refused[1], known, n=1))
    return f"an unknown keyword{named}{near}" if named or near else ""


def _may_be_secret(keyword: str, conninfo: str) -> bool:
    """What an unquoted space or a raw slash cuts off a password looks like a keyword, too."""
    before, found, behind = conninfo.rpartition(keyword)
    secrets = [o.keyword.decode() for o in pq.Conninfo.get_defaults() if o.dispchar == b"*"]
    behind_one = any(secret in before for secret in secrets) or ("://" in before and "@" in behind)
    return behind_one or not found


_NAMES: Final = ("host", "hostaddr", "dbname", "service", "user")
_CONNINFO: Final = re.compile(r":/|\bpassword\s*=", re.IGNORECASE)
_URI: Final = re.compile(r"postgres(?:ql)?://(?P<place>[^?]*)")


def _refuse_misread_password(conninfo: str, given: dict[str, str]) -> None:
    """`//u:p@ss@host` makes libpq take `ss@host` for the host, `//u:pa/ss@host` `pa` for the port,
    `//u:1/ss@host` `ss@host` for the database, and `//u:p@ss/word@host` `ss` for the host: later errors, made
    by libpq, would print that piece. In a URI an @ stands once, behind user and password and before the first
    slash. Nor is a name a connection string."""
    ports = given.get("port", "").split(",")
    uri = _URI.match(conninfo)
    _, _, behind_host = uri["place"].partition("/") if uri else ("", "", "")
    misread = (
        (uri is not None and uri["place"].count("@") > 1)
        or "@" in behind_host
        or any("@" in host[1:] for host in given.get("host", "").split(","))
        or any(_CONNINFO.search(given.get(name, "")) for name in _NAMES)
        or not all(port.isdigit() or not port for port in ports)
    )
    if misread:
        raise conninfo_error()


def _open(conninfo: str, purpose: str, *, autocommit: bool, **more: str) -> Session:
    given = parse_conninfo(conninfo)
    ours = {name: value for name, value in _DEFAULTS.items() if name not in given} | more
    ours |= {"application_name": f"keepstream:{purpose}", "client_encoding": "UTF8"}
    try:
        # Else psycopg prepares what comes often, and after an ALTER sends DEALLOCATE ALL, which takes the
        # applier's own statements away.
        return psycopg.connect(make_conninfo(conninfo, **ours), autocommit=autocommit, prepare_threshold=None)
    except psycopg.OperationalError as exc:
        error = login_error(exc, describe(conninfo))
        raise error from (None if isinstance(error, ConfigError) else exc)  # libpq quotes bad settings
    except psycopg.ProgrammingError:
        raise conninfo_error() from None


def _pin(session: Session, conninfo: str) -> None:
    major = session.info.server_version // 10000
    statements = "; ".join(f"set {name} = '{value}'" for name, value, since in _PINNED if major >= since)
    try:
        _exec_simple(session, statements)
    except psycopg.Error as exc:
        session.close()
        raise sql_error(exc, f"preparing a session on {describe(conninfo)}") from exc


def _exec_simple(session: Session, statements: str) -> None:
    """Run as one simple query outside psycopg's transaction handling: a SET must not be rolled back
    with the first transaction of a session that is not in autocommit."""
    result = session.pgconn.exec_(statements.encode())
    if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
        raise psycopg.errors.error_from_result(result)
