"""Sessions: what every one of them has, and what a connection that does not come to be is called."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from connectors.postgres.session import connect, connect_replication, describe, sql_error
from schemas.errors import ConfigError, KeepstreamError, LoginRefused, OperatorNeeded, RefusedData, RetryLater
from tests.fix_postgres import Database
from tests.postgres_releases import release

PINNED = {
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "client_encoding": "UTF8",
    "lc_monetary": "C",
    "search_path": '""',
    "row_security": "off",
    "quote_all_identifiers": "off",
    "lock_timeout": "0",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "application_name": "keepstream:test",
}
if release("source") < 17:
    del PINNED["transaction_timeout"]


def unpin(source: Database) -> None:
    """Give the database every setting that would change values or end our work."""
    for setting in (
        "DateStyle = 'SQL, DMY'",
        "IntervalStyle = 'iso_8601'",
        "TimeZone = 'Asia/Kathmandu'",
        "extra_float_digits = -3",
        "bytea_output = 'escape'",
        "search_path = 'public'",
        "quote_all_identifiers = on",
        "statement_timeout = '1h'",
        "default_transaction_read_only = on",
    ):
        source.execute_as_admin(f"alter database {source.name} set {setting}")


@pytest.mark.parametrize("autocommit", [True, False])
def test_a_session_is_pinned_whatever_the_database_says(source: Database, autocommit: bool) -> None:
    unpin(source)
    with connect(source.dsn, purpose="test", autocommit=autocommit) as session:
        session.rollback()
        for name, value in PINNED.items():
            assert session.execute("select current_setting(%s)", [name]).fetchone() == (value,), name


def test_a_walsender_session_is_pinned_too(source: Database) -> None:
    unpin(source)
    session = connect_replication(source.dsn, purpose="test")
    for name, value in PINNED.items():
        assert session.pgconn.exec_(f"show {name}".encode()).get_value(0, 0) == value.encode(), name
    session.close()


def changed(source: Database, **parameters: str) -> str:
    return make_conninfo(source.dsn, **parameters)


def refused(conninfo: str) -> KeepstreamError:
    with pytest.raises(KeepstreamError) as caught:
        connect(conninfo, purpose="test")
    error = caught.value
    assert error.exit_code in (3, 5)
    return error


def test_a_wrong_password_is_refused_and_not_shown(source: Database) -> None:
    error = refused(changed(source, password="sesame-opens"))
    assert isinstance(error, LoginRefused)
    assert error.message == (
        f"127.0.0.1:{source.server.port}/{source.name} refused our login: "
        'password authentication failed for user "keepstream"'
    )
    assert error.hint == "Correct user and password in the connection string, in PGPASSWORD or in ~/.pgpass."
    assert "sesame" not in f"{error} {error.hint} {error.__cause__!r}"


@pytest.mark.parametrize("setting", ["sslmode", "target_session_attrs", "keepalives"])
def test_a_value_that_libpq_does_not_know_is_said_to_be_that(setting: str) -> None:
    error = refused(f"postgresql://crm:sesame@127.0.0.1:1/crm?{setting}=open")
    assert (error.code, error.exit_code) == ("conninfo-invalid", 3)
    assert error.message == f"a connection string gives {setting} a value that libpq does not know"


def test_a_keyword_that_libpq_does_not_know_is_named() -> None:
    error = refused("host=127.0.0.1 port=1 usr=crm password=sesame")
    assert (error.code, error.exit_code) == ("conninfo-invalid", 3)
    assert error.message == "a connection string has an unknown keyword `usr`; did you mean `user`?"


@pytest.mark.parametrize(
    ("parameters", "hint"),
    [
        ({"password": ""}, "Give the password in the connection string"),
        ({"dbname": "no_such"}, 'Correct the database name, or run: create database "no_such";'),
        ({"sslmode": "require"}, "Turn on ssl on the server, or lower sslmode in the connection string."),
    ],
)
def test_a_login_that_is_refused_says_what_to_mend(
    source: Database, parameters: dict[str, str], hint: str
) -> None:
    error = refused(changed(source, **parameters))
    assert isinstance(error, LoginRefused)
    assert error.code == "login-refused"
    assert hint in error.hint


def test_a_role_without_replication_is_told_how_to_get_it(source: Database) -> None:
    with pytest.raises(LoginRefused) as caught:
        connect_replication(source.owner_dsn, purpose="test")
    assert "alter role … replication" in caught.value.hint


def test_a_host_that_does_not_answer_is_tried_again(source: Database) -> None:
    error = refused(changed(source, port="1"))
    assert isinstance(error, RetryLater)
    assert error.code == "server-unreachable"
    assert error.message.startswith(f"cannot connect to 127.0.0.1:1/{source.name}: Connection refused")


def test_a_host_name_that_does_not_resolve_is_tried_again(source: Database) -> None:
    error = refused(changed(source, host="no-such-host.invalid"))
    assert (type(error), error.code) == (RetryLater, "server-unreachable")


def test_a_refusal_is_final_only_if_no_other_host_may_let_us_in(source: Database) -> None:
    port = source.server.port
    wrong = {"password": "wrong", "host": "127.0.0.1,localhost"}
    assert isinstance(refused(changed(source, **wrong, port=f"{port},1")), RetryLater)
    assert isinstance(refused(changed(source, **wrong, port=f"{port},{port}")), LoginRefused)


def test_the_first_host_that_answers_is_taken(source: Database) -> None:
    port = source.server.port
    with connect(changed(source, host="127.0.0.1,127.0.0.1", port=f"1,{port}"), purpose="test") as session:
        assert session.info.port == port


def test_a_service_file_is_libpqs_business(
    source: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = tmp_path / "services.conf"
    services.write_text(
        f"[crm]\nhost=127.0.0.1\nport={source.server.port}\ndbname={source.name}\n"
        f"user=keepstream\npassword={source.password}\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    with connect("service=crm", purpose="test") as session:
        assert session.info.dbname == source.name
    assert describe("service=crm") == "service crm"
    error = refused("service=none")
    assert (type(error), error.code) == (ConfigError, "service-unknown")


@pytest.mark.parametrize(
    "conninfo",
    [
        "postgresql://crm:open/sesame@127.0.0.1:1/crm",
        "postgresql://crm:open@sesame@127.0.0.1/crm",
        "postgresql://crm:/sesame@127.0.0.1:1/crm",
        "postgresql://crm:12/sesame@127.0.0.1:1/crm",
        "host=127.0.0.1 port=1 dbname='postgresql://crm:sesame@127.0.0.1/crm'",
        "host=127.0.0.1 port=1 dbname='host=h password=sesame'",
        "host=postgresql://crm:sesame/crm",
        "host=127.0.0.1 password=open sesame",
        "postgresql://crm:open%zzsesame@127.0.0.1/crm",
        "host=127.0.0.1 sslmode=sesame",
    ],
)
def test_a_mistyped_connection_string_never_shows_a_piece_of_the_password(conninfo: str) -> None:
    error = refused(conninfo)
    assert (type(error), error.code, error.exit_code) == (ConfigError, "conninfo-invalid", 3)
    assert "sesame" not in f"{error} {error.hint} {error.__cause__!r}"


@pytest.mark.parametrize(
    ("conninfo", "described"),
    [
        ("postgresql://crm:sesame@db/crm", "db:5432/crm"),
        ("postgresql://crm:sesame@a:1,b:2/crm?sslmode=require", "a:1,b:2/crm"),
        ("host=a,b port=6 dbname=crm password=sesame", "a:6,b:6/crm"),
        ("host=/run/postgresql dbname=crm", "/run/postgresql:5432/crm"),
        ("host=@abstract dbname=crm", "@abstract:5432/crm"),
        ("hostaddr=10.0.0.1 user=crm", "10.0.0.1:5432/crm"),
    ],
)
def test_a_description_names_server_and_database_only(conninfo: str, described: str) -> None:
    assert describe(conninfo) == described


def test_a_policy_raises_instead_of_hiding_rows(source: Database) -> None:
    source.execute(
        "create table t (a int); insert into t values (1); alter table t enable row level security"
    )
    with connect(source.dsn, purpose="test") as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
        session.execute("select * from public.t")


def test_money_keeps_its_cents_under_any_locale(source: Database) -> None:
    with connect(source.dsn, purpose="test") as session:
        assert session.execute("select 123456789.01::numeric::money::text").fetchone() == ("$123,456,789.01",)


def wrapped(source: Database, statement: str) -> KeepstreamError:
    with connect(source.dsn, purpose="test") as session, pytest.raises(psycopg.Error) as caught:
        session.execute(statement.encode())
    return sql_error(caught.value, "trying")


def test_an_error_is_classed_by_who_must_act_and_never_shows_a_value(source: Database) -> None:
    source.execute("create table t (a int primary key)")
    refusal = wrapped(source, "insert into public.t values (1)")
    assert (type(refusal), refusal.code) == (OperatorNeeded, "privilege-missing")
    assert refusal.message == "trying: permission denied for table t"
    value = wrapped(source, "select 'sesame'::int")
    assert (type(value), value.code) == (RefusedData, "value-refused")
    assert value.message == "trying: InvalidTextRepresentation (22P02)"
    assert value.hint == (
        "Mend the type, cast or expression that does not take a value; that server's log has the statement."
    )
    other = wrapped(source, "select from missing")
    assert (type(other), other.code) == (OperatorNeeded, "sql-refused")
    assert other.message == 'trying: relation "missing" does not exist'
    assert other.hint == (
        "Mend what PostgreSQL names and start again; that server's log has the whole statement."
    )
    lost = wrapped(source, "select pg_terminate_backend(pg_backend_pid())")
    assert (type(lost), lost.code) == (RetryLater, "connection-lost")
    canceled = wrapped(source, "set statement_timeout = 1; select pg_sleep(5)")
    assert (type(canceled), canceled.code) == (RetryLater, "query-canceled")


def test_a_broken_rule_names_table_and_constraint_only(source: Database) -> None:
    source.execute("create table t (a text primary key); insert into t values ('sesame')")
    with source.connect() as connection, pytest.raises(psycopg.Error) as caught:
        connection.execute("insert into t values ('sesame')")
    error = sql_error(caught.value, "inserting")
    assert error.code == "row-refused"
    assert error.message == "inserting: UniqueViolation (23505) at table public.t, constraint t_pkey"
    assert error.hint == "Let that constraint take what the source has, or drop it there, and start again."
