"""What PostgreSQL's and libpq's errors mean to us: who must act, and what mends it.

`sql_error` wraps an error of a session that stood; `login_error` one of a session that did not
come to be. libpq gives no SQLSTATE for the latter, so its English text is read; a text that is
not recognised counts as `server-unreachable`, which is retried and shown, as `server-busy` is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import psycopg
from psycopg import pq, sql

from schemas.errors import (
    ConfigError,
    InternalError,
    KeepstreamError,
    LoginRefused,
    OperatorNeeded,
    RefusedData,
    RetryLater,
)
from schemas.identifiers import qualified

_Rule = tuple[type[KeepstreamError], str, str]

NOT_THERE: Final = ("42P01", "42704", "42883", "3F000")
"""What a statement names does not exist."""

# Longest prefix of the SQLSTATE wins.
_BY_SQLSTATE: Final[dict[str, _Rule]] = {
    "08": (RetryLater, "connection-lost", ""),
    "57P": (RetryLater, "connection-lost", ""),
    "57P04": (OperatorNeeded, "database-dropped", "Point the configuration at a database that exists."),
    "25P03": (RetryLater, "connection-lost", ""),  # idle_in_transaction_session_timeout ended it
    "57014": (RetryLater, "query-canceled", ""),
    "53": (RetryLater, "server-exhausted", "Free the resource that the server names."),
    "53100": (RetryLater, "disk-full", "Free disk space on the server."),
    "53300": (RetryLater, "server-busy", "Raise max_connections or close other sessions."),
    "53400": (
        OperatorNeeded,
        "server-limit",
        "Raise the setting that the server names; of most, and of max_replication_slots, it takes a restart.",
    ),
    "58": (RetryLater, "server-failed", "Look into the server's log."),
    "40": (RetryLater, "transaction-conflict", ""),
    "55P03": (
        RetryLater,
        "lock-timeout",
        "End the transactions that hold the lock, prepared ones (pg_prepared_xacts), too: `select pid, state,"
        " query from pg_stat_activity where pid in (select unnest(pg_blocking_pids(pid))"
        " from pg_stat_activity)`.",
    ),
    "55006": (RetryLater, "object-in-use", ""),
    "25006": (RetryLater, "server-read-only", "Connect to the primary: add target_session_attrs=read-write."),
    "42501": (
        OperatorNeeded,
        "privilege-missing",
        "Grant our role what `keepstream init --grants` prints, or the one privilege that is named here.",
    ),
    "XX": (
        OperatorNeeded,
        "server-corrupted",
        "Look into the server's log; the server reports an inner fault.",
    ),
    "22": (
        RefusedData,
        "value-refused",
        "Mend the type, cast or expression that does not take a value; that server's log has the statement.",
    ),
    "23": (
        RefusedData,
        "row-refused",
        "Let that constraint take what the source has, or drop it there, and start again.",
    ),
}
_ANY_OTHER: Final[_Rule] = (
    OperatorNeeded,
    "sql-refused",
    "Mend what PostgreSQL names and start again; that server's log has the whole statement.",
)

ROW_SECURITY: Final = "row-security-hides-rows"
"""`row_security` is off in our sessions, so that a policy raises instead of hiding rows."""
_EXEMPT: Final = (
    "Run on that server as a superuser: alter role … bypassrls; Or, if our role owns the table there:"
    " alter table … no force row level security;"
)
_NOT_NULL: Final = "23502"
_OF_PARTITIONS: Final = ("ExecFindPartition", "ExecPartitionCheckEmitError")
"""Functions of PostgreSQL that refuse a row for the bounds of partitions: only a constraint has a name."""
GIVE_BOUNDS: Final = (
    "Give the replica's partitions the bounds of the source's: alter table PARENT detach partition NAME; of"
    " each whose bounds differ, then alter table PARENT attach partition NAME for values …;"
)

_NAMED_BY_A_VALUE: Final = (
    "A value names it (as regclass, regrole, aclitem, …), and the replica lacks it. Make it there, as with a"
    " role, and start again. If it is something that the copy leaves out: empty the replica's database, make"
    " the schema yourself (pg_dump --schema-only) and set `initial: data`; or exclude the table under"
    " source.tables.exclude."
)

# Classes whose message text PostgreSQL makes from names and settings only, never from row values.
_TELLING: Final = (
    "08",
    "0A",
    "25",
    "26",
    "28",
    "34",
    "3D",
    "3F",
    "40",
    "42",
    "53",
    "54",
    "55",
    "57",
    "58",
    "XX",
)

# What libpq says when a server answered and refused, and what mends it. `{}` is the match's first group.
_REFUSALS: Final[tuple[tuple[str, str], ...]] = (
    (
        r"(?:password|GSSAPI|LDAP|PAM|RADIUS|SCRAM|certificate|OAuth) authentication failed",
        "Correct user and password in the connection string, in PGPASSWORD or in ~/.pgpass.",
    ),
    (
        r"no password supplied|password is needed|empty password",
        "Give the password in the connection string as ${VAR} or ${file:…}, in PGPASSWORD or in ~/.pgpass.",
    ),
    (
        r'role "(.*?)" does not exist',
        'Create the role "{}" with the SQL that `keepstream init --grants` prints.',
    ),
    (r'role "(.*?)" is not permitted to log in', 'Run: alter role "{}" login;'),
    (r'database "(.*?)" does not exist', 'Correct the database name, or run: create database "{}";'),
    (
        r'database "(.*?)" is not currently accepting connections',
        'Run as a superuser: alter database "{}" allow_connections true;',
    ),
    (r'permission denied for database "(.*?)"', 'Run: grant connect on database "{}" to our role;'),
    (
        r"no pg_hba\.conf entry|pg_hba\.conf rejects",
        "Add a line for this user, database and address to the server's pg_hba.conf and reload it; "
        "if it says no encryption, a hostssl line may want sslmode=require.",
    ),
    (
        r"(?:Peer|Ident|peer|ident) authentication failed",
        "Connect as that system user, or change the method in the server's pg_hba.conf to scram-sha-256.",
    ),
    (
        r"permission denied to start WAL sender|must be superuser or replication role",
        "Run as a superuser: alter role … replication; (on RDS: grant rds_replication to …;).",
    ),
    (
        r"server does not support SSL",
        "Turn on ssl on the server, or lower sslmode in the connection string.",
    ),
    (
        r"certificate verify failed|root certificate file|does not match host name|SSL error|certificate file"
        r"|private key file|could not (?:load|read) .*certificate",
        "Correct sslmode, sslrootcert, sslcert or sslkey in the connection string, or mend the server's "
        "certificate.",
    ),
    (
        r"channel binding (?:is )?required|authentication method requirement",
        "Correct channel_binding or require_auth in the connection string, or the server's authentication.",
    ),
    (
        r"unsupported frontend protocol|authentication method \S+ not supported",
        "Use a server of PostgreSQL 15 or later with scram-sha-256.",
    ),
)

# What a server says that has no room for another session, and which room that is.
_FULL: Final[tuple[tuple[str, str], ...]] = (
    (
        r"exceeds \"?max_wal_senders",
        "Capture takes one, and each copy, verification and snapshot until it has its snapshot: wait for"
        " others, or raise max_wal_senders and restart the server, standbys of it first.",
    ),
    (r'too many connections for role "(.*?)"', 'Run: alter role "{}" connection limit -1;'),
    (r'too many connections for database "(.*?)"', 'Run: alter database "{}" connection limit -1;'),
    (
        r"too many clients already|remaining connection slots are reserved",
        "Close other sessions, or raise max_connections and restart the server.",
    ),
)

_NO_SERVICE = re.compile(r"definition of service|service file .* not found")
_BAD_SETTING = re.compile(r"invalid (?:\S+ )?value|invalid (?:port|integer)|could not match \d+")
_SETTING = re.compile(r'(?:invalid (?=[a-z_]+ value)|for connection option ")([a-z_]+)')
_ATTEMPT = re.compile(
    r"^- host: (.*?), port: (.*?), hostaddr: .*?: (.*?)(?=^- host: |\Z)", re.DOTALL | re.MULTILINE
)


def sql_error(exc: psycopg.Error, doing: str) -> KeepstreamError:
    """The error that a failed statement means; `doing` says in lower case what was tried.

    Raise it `from exc`. PostgreSQL's own text is shown only where it cannot hold row values.
    """
    state = exc.sqlstate
    if state is None:
        return _without_sqlstate(exc, doing)
    kind, code, hint = _rule(state)
    if exc.diag.source_function == "check_enable_rls":  # the message is in the server's language
        code, hint = ROW_SECURITY, _EXEMPT
    special = letting_in(exc) or missed_in_function(exc)
    if special is None and _is_named_by_a_value(exc):
        code, special = "replica-schema", _NAMED_BY_A_VALUE
    hint = special or hint
    return kind(f"{doing}: {_seen(exc, state)}", code=code, hint=hint)


def letting_in(exc: psycopg.Error) -> str | None:
    """The hint where the replica is stricter than the source, and refused a row."""
    return allowing_null(exc) or fitting_bounds(exc)


def fitting_bounds(exc: psycopg.Error) -> str | None:
    """The hint where no partition takes a row, or not the one that it went to."""
    if exc.diag.source_function not in _OF_PARTITIONS:
        return None
    return (
        "No partition of the replica takes it; `keepstream check` names bounds that differ. Make one that it"
        f" lacks as the source has it. {GIVE_BOUNDS}"
    )


def allowing_null(exc: psycopg.Error) -> str | None:
    """The hint where NOT NULL of a column or a domain refused a row."""
    diag = exc.diag
    if exc.sqlstate != _NOT_NULL:
        return None
    if diag.schema_name and diag.table_name and diag.column_name:
        table, column = (
            sql.Identifier(*names) for names in ((diag.schema_name, diag.table_name), (diag.column_name,))
        )
        statement = sql.SQL("alter table {} alter column {} drop not null;").format(table, column)
    elif diag.schema_name and diag.datatype_name:
        domain = sql.Identifier(diag.schema_name, diag.datatype_name)
        statement = sql.SQL("alter domain {} drop not null;").format(domain)
    else:
        return None
    return f"If the source has such rows, let the replica take them and start again: {statement.as_string()}"


def _is_named_by_a_value(exc: psycopg.Error) -> bool:
    return exc.sqlstate in NOT_THERE and (exc.diag.context or "").startswith("COPY ")


def missed_in_function(exc: psycopg.Error) -> str | None:
    """The hint for a function, of a CHECK or a trigger, that names something without its schema."""
    if exc.sqlstate not in NOT_THERE or "function" not in (exc.diag.context or ""):
        return None
    return (
        "A function names it without its schema, and sessions that replicate have an empty search_path, as"
        " those of PostgreSQL's own replication and pg_restore have: `alter function NAME(TYPES) set"
        " search_path = SCHEMA;` on source and replica, then start again. PostgreSQL says where: "
        + _one_line(exc.diag.context or "")[:200]
    )


@contextmanager
def wrapped(doing: str) -> Iterator[None]:
    """Errors of the driver that are raised inside become ours (`sql_error`)."""
    try:
        yield
    except psycopg.Error as exc:
        raise sql_error(exc, doing) from exc


def _without_sqlstate(exc: psycopg.Error, doing: str) -> KeepstreamError:
    # a result that libpq itself made, because the connection ended, is a plain DatabaseError
    if isinstance(exc, psycopg.OperationalError) or type(exc) is psycopg.DatabaseError:
        return RetryLater(f"{doing}: {_one_line(str(exc)) or 'connection lost'}", code="connection-lost")
    return InternalError(f"{doing}: {type(exc).__name__} in the database driver", code="driver-misused")


def _rule(state: str) -> _Rule:
    for length in (5, 3, 2):
        rule = _BY_SQLSTATE.get(state[:length])
        if rule is not None:
            return rule
    return _ANY_OTHER


def _seen(exc: psycopg.Error, state: str) -> str:
    diag = exc.diag
    if state[:2] in _TELLING:
        return _one_line(diag.message_primary or str(exc))
    names = (
        ("table", qualified(diag.schema_name or "", diag.table_name) if diag.table_name else None),
        ("column", diag.column_name),
        ("constraint", diag.constraint_name),
    )
    where = ", ".join(f"{what} {name}" for what, name in names if name)
    return f"{type(exc).__name__} ({state})" + (f" at {where}" if where else "")


def login_error(exc: psycopg.OperationalError, where: str) -> KeepstreamError:
    """The error that a failed connect to `where` (host, port and database, no secrets) means.

    LoginRefused only if a server refused and no other *host* of the list may yet let us in.
    """
    text = str(exc)
    if _NO_SERVICE.search(text):
        return ConfigError(
            f"{where} is not defined",
            code="service-unknown",
            hint="Define it in ~/.pg_service.conf or in the file that PGSERVICEFILE names.",
        )
    if _BAD_SETTING.search(text):
        # libpq quotes the wrong part, which in a mistyped URL can be a piece of the password
        keywords = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
        return conninfo_error(next((name for name in _SETTING.findall(text) if name in keywords), ""))
    attempts = _ATTEMPT.findall(text)
    hosts = {host for host, _, _ in attempts}
    refusals = [found for *_, said in attempts if (found := _explained(said, _REFUSALS))]
    if len(hosts) > 1 and len(refusals) < len(attempts):
        return _unreachable(text, where)
    found = refusals[0] if refusals else _explained(text, _REFUSALS)
    if found is None:
        return _unreachable(text, where)
    said, hint = found
    return LoginRefused(f"{where} refused our login: {said}", code="login-refused", hint=hint)


def conninfo_error(setting: str = "", *, unknown: str = "") -> ConfigError:
    """A connection string that libpq cannot read, or of which it refuses the value of `setting`, or what
    `unknown_keyword` says. Its text is not shown: a part may be the password."""
    if unknown:
        return ConfigError(
            f"a connection string has {unknown}",
            code="conninfo-invalid",
            hint="Correct it; PostgreSQL's documentation of libpq lists the keywords that there are.",
        )
    if setting:
        return ConfigError(
            f"a connection string gives {setting} a value that libpq does not know",
            code="conninfo-invalid",
            hint=f"Correct {setting}; PostgreSQL's documentation of libpq lists the values that it may have.",
        )
    return ConfigError(
        "a connection string cannot be read",
        code="conninfo-invalid",
        hint="Write it as postgresql://user@host:5432/database, with :/?#[]@% in user or password "
        "percent-encoded (%3A %2F %3F %23 %5B %5D %40 %25), or as key=value pairs that libpq knows.",
    )


def _explained(text: str, known: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    """Why there is no session, and what mends that, if it is one of the known reasons."""
    for pattern, hint in known:
        match = re.search(pattern, text)
        if match is not None:
            return _reason(text), hint.format(*match.groups()) if match.groups() else hint
    return None


def _unreachable(text: str, where: str) -> KeepstreamError:
    attempts = _ATTEMPT.findall(text)
    reasons = {f"{host}:{port}".replace("'", ""): _reason(said) for host, port, said in attempts}
    reason = _reason(text)
    if len(set(reasons.values())) > 1:
        reason = "; ".join(f"{host}: {said}" for host, said in reasons.items())
    full = [_explained(said, _FULL) for *_, said in attempts] or [_explained(text, _FULL)]
    if full[0] is not None and all(full):
        _, hint = full[0]
        return RetryLater(f"no connection to {where}: {reason}", code="server-busy", hint=hint)
    return RetryLater(
        f"cannot connect to {where}: {reason}",
        code="server-unreachable",
        hint="Check that the server runs, that host and port are right, and that no firewall is between.",
    )


def _reason(text: str) -> str:
    """libpq's own reason: its first line without the preamble that repeats host and port."""
    first = _one_line(text.split("\n", 1)[0])
    first = re.sub(r"^connection (?:failed|is bad): ", "", first)
    return re.sub(r"^connection to server .*? failed: (?:FATAL:\s+)?", "", first)


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")
