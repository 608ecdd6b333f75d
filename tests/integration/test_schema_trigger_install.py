"""Installing the event triggers, finding out about them, removing them; and what a dump carries elsewhere."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from connectors.postgres.ddl.install import EVENT_TRIGGERS, VERSION, install, install_sql, uninstall_sql
from connectors.postgres.ddl.installed import installed_version, read_installed
from connectors.postgres.session import Session, connect
from pipeline.check.schema_trigger import check_schema_trigger
from pipeline.dev.process import require
from schemas.errors import OperatorNeeded, RetryLater
from schemas.finding import Severity
from tests.copying import copy
from tests.fix_ddl import pg_dump
from tests.fix_pipeline import Pipeline
from tests.fix_postgres import OWNER, PRODUCT, Database, Server, psql
from tests.schema_messages import Tracked

LEFT = """
    select count(*) from pg_namespace n full join pg_event_trigger e on e.evtname = n.nspname
     where n.nspname = 'keepstream' or e.evtname like 'keepstream%%'
"""


@pytest.fixture
def tracked(source: Database) -> Tracked:
    return Tracked(source)


@pytest.fixture
def capture(source: Database) -> Iterator[Session]:
    """The product's own role, which is no superuser."""
    with closing(connect(source.dsn, purpose="test")) as session:
        yield session


@pytest.fixture
def admin(source: Database) -> Iterator[Session]:
    with closing(connect(source.admin_dsn, purpose="test")) as session:
        yield session


def test_an_install_says_so_last_and_can_be_repeated(tracked: Tracked) -> None:
    ((key,),) = tracked.database.execute_as_admin("select key from keepstream.schema_key")
    tracked.install()
    (message,) = tracked.messages()
    assert message | {"snapshot": ""} == {
        "v": 1, "xid": message["xid"], "n": 0, "installed": True, "snapshot": "", "changes": [],
    }  # fmt: skip
    assert tracked.database.execute_as_admin("select key from keepstream.schema_key") == [(key,)]


def test_another_install_takes_in_what_was_missed_and_keeps_the_settings(tracked: Tracked) -> None:
    tracked.database.execute_as_admin("update keepstream.schema_settings set max_rows_bytes = 5, version = 0")
    tracked.database.execute_as_admin("alter event trigger keepstream_ddl disable")
    tracked.database.execute("create table t (id int)")
    tracked.install()
    tracked.messages()
    change = tracked.change("alter table t add c int")
    assert change["before"]["name"] == "t"
    assert tracked.database.execute_as_admin(
        "select max_rows_bytes, version from keepstream.schema_settings"
    ) == [(5, VERSION)]


def test_what_was_there_before_has_a_state_from_the_beginning(source: Database) -> None:
    source.execute(
        "create table t (id int primary key); create type e as enum ('a'); create view w as select 1 as x"
    )
    tracked = Tracked(source)
    assert [c["before"] is None for c in tracked.changes("alter table t add c e", "drop view w")] == [
        False
    ] * 2


def test_an_uninstall_says_so_and_leaves_nothing(tracked: Tracked) -> None:
    tracked.messages()
    ((key,),) = tracked.database.execute_as_admin("select key from keepstream.schema_key")
    tracked.uninstall()
    (told,) = tracked.told()
    assert json.loads(told.content[64:])["removed"] is True
    assert tracked.database.execute_as_admin(LEFT) == [(0,)]
    tracked.uninstall()
    tracked.database.execute("create table t (id int)")
    assert tracked.told() == []
    tracked.install()
    assert tracked.database.execute_as_admin("select key from keepstream.schema_key") != [(key,)]


def test_what_else_is_in_the_schema_stays(tracked: Tracked) -> None:
    tracked.database.execute_as_admin("create table keepstream.progress (x int)")
    tracked.uninstall()
    assert tracked.database.execute_as_admin("select count(*) from keepstream.progress") == [(0,)]


def test_a_database_of_another_encoding_takes_it(source: Database) -> None:
    name = f"{source.name}_latin"
    source.execute_as_admin(f"create database {name} encoding latin1 template template0 locale 'C'")
    try:
        with closing(connect(source.server.dsn(name), purpose="test")) as session:
            install(session, capture_role=PRODUCT)
            assert installed_version(session) == VERSION
    finally:
        source.execute_as_admin(f"drop database {name}")


def test_psql_runs_what_is_printed_which_holds_no_secret(source: Database) -> None:
    ran = psql(source, install_sql(PRODUCT), "-v", "ON_ERROR_STOP=1")
    assert (ran.returncode, ran.stderr) == (0, "")
    with closing(connect(source.dsn, purpose="test")) as session:
        found = read_installed(session)
        assert found is not None
        assert found.works
    ((key,),) = source.execute_as_admin("select encode(key, 'hex') from keepstream.schema_key")
    assert key not in install_sql(PRODUCT)
    assert psql(source, uninstall_sql(), "-v", "ON_ERROR_STOP=1").returncode == 0
    assert source.execute_as_admin(LEFT) == [(0,)]


def test_a_role_that_may_not_create_event_triggers_is_told_what_follows(
    source: Database, capture: Session
) -> None:
    """Also where the schema could be made: PostgreSQL's own hint knows no way but a superuser."""
    source.grant_ownership()
    with pytest.raises(OperatorNeeded) as refused:
        install(capture, capture_role=PRODUCT)
    assert refused.value.code == "schema-trigger-refused"
    assert "keepstream schema install --print | psql" in (refused.value.hint or "")
    assert read_installed(capture) is None


def test_a_schema_that_another_role_owns_is_refused(source: Database, admin: Session) -> None:
    source.execute_as_admin(f"create schema keepstream authorization {OWNER}")
    with pytest.raises(OperatorNeeded, match="belongs to another role") as refused:
        install(admin, capture_role=PRODUCT)
    assert "alter schema keepstream owner to" in (refused.value.hint or "")


def test_default_privileges_give_nobody_the_key(source: Database, admin: Session) -> None:
    source.execute_as_admin("alter default privileges grant all on tables to public")
    source.execute_as_admin(f"alter default privileges grant all on functions to {OWNER}")
    install(admin, capture_role=PRODUCT)
    source.execute_as_admin(f"grant usage on schema keepstream to {OWNER}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        source.execute("select * from keepstream.schema_key")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        source.execute("select keepstream.emit('{}')")


def test_an_install_waits_for_who_alters_without_the_trigger(source: Database, admin: Session) -> None:
    source.execute("create table t (id int)")
    with closing(source.connect(autocommit=False)) as earlier:
        earlier.execute("alter table t add c int")
        done = threading.Thread(target=install, args=(admin,), kwargs={"capture_role": PRODUCT})
        done.start()
        require(lambda: bool(source.execute_as_admin(LEFT)[0][0]), 20, what="the first part of the install")
        earlier.execute("alter table t add d int")
        earlier.commit()
        done.join(20)
    assert source.execute_as_admin(
        "select jsonb_array_length(state -> 'columns') from keepstream.schema_state"
        " where class = 'table' and state ->> 'name' = 't'"
    ) == [(3,)]


def test_an_install_names_who_does_not_end(source: Database, admin: Session) -> None:
    source.execute("begin; create table t (id int); prepare transaction 'stays'")
    with pytest.raises(RetryLater, match="prepared transaction 'stays'") as error:
        install(admin, capture_role=PRODUCT, settle_s=0.1)
    assert error.value.code == "schema-trigger-unsettled"


def test_check_says_what_is_there_and_its_sql_mends_it(
    source: Database, capture: Session, admin: Session
) -> None:
    finding = check_schema_trigger(capture)
    assert (finding.severity, finding.code) == (Severity.NOTE, "schema-trigger-absent")
    assert "keepstream schema install" in finding.fix
    install(admin, capture_role=PRODUCT)
    assert check_schema_trigger(capture).severity is Severity.OK
    for broken, code in (
        ("alter event trigger keepstream_drop disable", "schema-trigger-disabled"),
        ("alter event trigger keepstream_drop enable", "schema-trigger-disabled"),
        (f"revoke select on keepstream.schema_key from {PRODUCT}; revoke pg_read_all_data from {PRODUCT}",
         "schema-trigger-unreadable"),
    ):  # fmt: skip
        source.execute_as_admin(broken)
        finding = check_schema_trigger(capture)
        assert (finding.severity, finding.code, finding.blocks) == (Severity.ERROR, code, False)
        source.execute_as_admin(finding.fix)
        assert check_schema_trigger(capture).severity is Severity.OK
    source.execute_as_admin(f"grant pg_read_all_data to {PRODUCT}")


@pytest.mark.parametrize(
    ("broken", "seen"),
    [
        ("update keepstream.schema_settings set version = 0", "are of version 0, this release has"),
        ("drop event trigger keepstream_rewrite", "are missing: keepstream_rewrite"),
        ("update keepstream.schema_settings set home = '14 1 2'", "came with a restored dump"),
    ],
)
def test_an_outdated_install_is_an_error_that_another_install_mends(
    tracked: Tracked, capture: Session, broken: str, seen: str
) -> None:
    tracked.database.execute_as_admin(broken)
    finding = check_schema_trigger(capture)
    assert (finding.severity, finding.code) == (Severity.ERROR, "schema-trigger-outdated")
    assert seen in finding.message
    tracked.install()
    assert check_schema_trigger(capture).severity is Severity.OK
    assert installed_version(capture) == VERSION


def test_a_dump_of_the_source_restores_and_what_came_with_it_is_no_install(
    tracked: Tracked, source_server: Server
) -> None:
    tracked.database.execute("create table t (id int primary key); insert into t values (1)")
    restored = source_server.new_database()
    try:
        dumped = pg_dump(tracked.database)
        dumped = dumped.replace("SET transaction_timeout = 0;", "")  # of 18, to servers that do not know it
        ran = psql(restored, dumped, "-v", "ON_ERROR_STOP=1")
        assert (ran.returncode, ran.stderr) == (0, "")
        with closing(connect(restored.admin_dsn, purpose="test")) as session:
            finding = check_schema_trigger(session)
        assert "came with a restored dump" in finding.message
        restored.execute("alter table t add c int; drop table t")
    finally:
        restored.drop()


def test_a_first_copy_carries_nothing_of_it_to_the_replica(tracked: Tracked, replica: Database) -> None:
    tracked.database.execute("create table t (id int primary key); insert into t values (1)")
    _, told = copy(tracked.database, replica)
    assert replica.execute("select count(*) from t") == [(1,)]
    made = "select relname from pg_class where relname like 'schema%%' and relkind = 'r'"
    assert replica.execute_as_admin(made) == []
    assert replica.execute_as_admin("select evtname from pg_event_trigger") == []
    assert "EVENT TRIGGER" not in repr(told)


def test_the_verbs_install_show_and_remove(pipeline: Pipeline) -> None:
    source = pipeline.source
    assert json.loads(pipeline.run("schema", "status", "--json").stdout)["installed"] is False
    refused = pipeline.run("schema", "install")
    assert refused.code == 4
    assert "error[schema-trigger-refused]" in refused.stderr
    printed = pipeline.run("schema", "install", "--print")
    assert psql(source, printed.stdout, "-v", "ON_ERROR_STOP=1").returncode == 0
    source.execute("create table customer (id int primary key)")
    shown = json.loads(pipeline.run("schema", "status", "--json").stdout)
    assert (shown["installed"], shown["works"], shown["version"]) == (True, True, VERSION)
    assert shown["followed"]["table"] == 1
    assert "of class table" in pipeline.run("schema", "status").stdout
    removed = pipeline.run("schema", "uninstall", "--print")
    assert psql(source, removed.stdout, "-v", "ON_ERROR_STOP=1").returncode == 0
    assert pipeline.run("schema", "status").stdout.startswith("no event triggers")


def test_a_superuser_of_the_file_installs_and_teardown_removes(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.settings["source"]["url"] = pipeline.source.admin_dsn
    pipeline.write_config()
    assert pipeline.run("schema", "install").code == 0
    assert pipeline.source.execute_as_admin(LEFT)[0][0] > len(EVENT_TRIGGERS) - 1
    other = "select pg_create_logical_replication_slot('keepstream_other_of_this', 'pgoutput')"
    pipeline.source.execute_as_admin(other)
    assert "event triggers" not in pipeline.run("teardown", "--yes").stdout
    pipeline.source.execute_as_admin("select pg_drop_replication_slot('keepstream_other_of_this')")
    assert "removed event triggers" in pipeline.run("teardown", "--yes").stdout
    assert pipeline.source.execute_as_admin(LEFT) == [(0,)]


def test_teardown_leaves_to_their_owner_what_it_may_not_remove(pipeline: Pipeline) -> None:
    with closing(connect(pipeline.source.admin_dsn, purpose="test")) as session:
        install(session, capture_role=PRODUCT)
    said = pipeline.run("teardown", "--yes").stdout
    assert "left event triggers" in said
    assert "keepstream schema uninstall --print | psql" in said
