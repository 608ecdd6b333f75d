"""What libpq's texts of failed logins mean, for servers that a test cannot easily be."""

from __future__ import annotations

import psycopg
import pytest

from connectors.postgres.sqlstate import login_error, sql_error
from schemas.errors import InternalError, LoginRefused, RetryLater

PREFIX = 'connection failed: connection to server at "10.0.0.1", port 5432 failed: '

REFUSALS = [
    ('FATAL:  role "keepstream" does not exist', 'Create the role "keepstream"'),
    ('FATAL:  role "keepstream" is not permitted to log in', 'Run: alter role "keepstream" login;'),
    ('FATAL:  permission denied for database "crm"', 'grant connect on database "crm"'),
    (
        'FATAL:  no pg_hba.conf entry for host "10.0.0.2", user "k", database "crm", no encryption',
        "pg_hba.conf",
    ),
    ('FATAL:  Peer authentication failed for user "keepstream"', "scram-sha-256"),
    ("SSL error: certificate verify failed", "sslrootcert"),
    ('server certificate for "db" does not match host name "10.0.0.1"', "sslrootcert"),
    ('root certificate file "/root/.postgresql/root.crt" does not exist', "sslrootcert"),
    ("channel binding required, but server authenticated client without channel binding", "channel_binding"),
    ("FATAL:  must be superuser or replication role to start walsender", "alter role … replication"),
]

OUTAGES = [
    "Connection refused",
    "timeout expired",
    "server closed the connection unexpectedly",
    "FATAL:  the database system is starting up",
    "FATAL:  the database system is shutting down",
    "session is read-only",
    "ВАЖНО:  пользователь не прошёл проверку подлинности",  # not recognised: tried again, and shown
]

FULL = [
    ("sorry, too many clients already", "raise max_connections and restart"),
    ("remaining connection slots are reserved for roles with the SUPERUSER attribute", "max_connections"),
    ('too many connections for role "keepstream"', 'Run: alter role "keepstream" connection limit -1;'),
    ('too many connections for database "crm"', 'Run: alter database "crm" connection limit -1;'),
    ('number of requested standby connections exceeds "max_wal_senders" (currently 2)', "max_wal_senders"),
    ("number of requested standby connections exceeds max_wal_senders (currently 2)", "max_wal_senders"),
]


@pytest.mark.parametrize(("said", "hint"), REFUSALS)
def test_a_refusal_is_final_and_says_what_to_mend(said: str, hint: str) -> None:
    error = login_error(psycopg.OperationalError(PREFIX + said), "10.0.0.1:5432/crm")
    assert (type(error), error.code, error.exit_code) == (LoginRefused, "login-refused", 5)
    assert error.message == f"10.0.0.1:5432/crm refused our login: {said.removeprefix('FATAL:  ')}"
    assert hint in error.hint


@pytest.mark.parametrize("said", OUTAGES)
def test_an_outage_is_tried_again(said: str) -> None:
    error = login_error(psycopg.OperationalError(PREFIX + said), "10.0.0.1:5432/crm")
    assert (type(error), error.code, error.exit_code) == (RetryLater, "server-unreachable", 5)


@pytest.mark.parametrize(("said", "hint"), FULL)
def test_a_server_without_room_for_a_session_is_tried_again_and_says_which_room(said: str, hint: str) -> None:
    """Until another session ends; of several hosts only if none answers otherwise."""
    error = login_error(psycopg.OperationalError(f"{PREFIX}FATAL:  {said}"), "10.0.0.1:5432/crm")
    assert (type(error), error.code) == (RetryLater, "server-busy")
    assert error.message == f"no connection to 10.0.0.1:5432/crm: {said}"
    assert hint in error.hint
    for other, code in (("Connection refused", "server-unreachable"), (f"FATAL:  {said}", "server-busy")):
        attempts = "\n".join(
            f"- host: '{host}', port: '5432', hostaddr: '10.0.0.1': {PREFIX}{why}"
            for host, why in (("a", f"FATAL:  {said}"), ("b", other))
        )
        assert login_error(psycopg.OperationalError(f"{PREFIX}{other}\n{attempts}"), "a,b").code == code


def test_of_several_hosts_each_says_why() -> None:
    """As psycopg tells of them: the last one first, then all."""
    tried = [("a", "server is in hot standby mode"), ("b", "Connection refused")]
    failures = "\n".join(
        f"- host: '{host}', port: '5432', hostaddr: '10.0.0.1': {PREFIX}{said}\n\tIs it?"
        for host, said in tried
    )
    text = f"{PREFIX}Connection refused\n\tIs it?\nMultiple connection attempts failed. All failures were:\n"
    error = login_error(psycopg.OperationalError(text + failures), "a:5432,b:5432/crm")
    assert (error.code, error.message) == (
        "server-unreachable",
        "cannot connect to a:5432,b:5432/crm: a:5432: server is in hot standby mode;"
        " b:5432: Connection refused",
    )


def test_a_lost_connection_is_tried_again_and_a_misused_driver_is_our_bug() -> None:
    lost = sql_error(psycopg.OperationalError("server closed the connection\n\tunexpectedly."), "reading")
    assert (type(lost), lost.message) == (RetryLater, "reading: server closed the connection unexpectedly")
    made_by_libpq = sql_error(psycopg.DatabaseError("no connection to the server"), "reading")
    assert (type(made_by_libpq), made_by_libpq.code) == (RetryLater, "connection-lost")
    assert isinstance(sql_error(psycopg.InterfaceError("cursor already closed"), "reading"), InternalError)
