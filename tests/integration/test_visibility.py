"""DDL whose commit is in WAL, and sent by the slot, before anybody else sees it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing

import psycopg
import pytest

from connectors.interfaces import ChangeLog
from pipeline.dev.process import require
from tests.capturing import RunningCapture, begun, capture_options, capturing
from tests.fix_postgres import Database
from tests.tracked import install_triggers


@pytest.mark.parametrize(
    ("ddl", "code"),
    [
        ("alter table t drop column v; alter table t add column v text", "schema-changed"),
        ("alter table t add column w text", None),
    ],
)
def test_a_table_is_judged_only_when_the_catalog_shows_the_transaction(
    new_source: Callable[..., Database],
    change_log: ChangeLog,
    monkeypatch: pytest.MonkeyPatch,
    ddl: str,
    code: str | None,
) -> None:
    """The commit waits for a standby: the catalog still shows the table as it was."""
    monkeypatch.setattr("pipeline.capture.versions.catalog.VISIBLE_LIMIT_S", 0.3)
    source = new_source({"synchronous_standby_names": "nobody", "synchronous_commit": "local"})
    source.grant_ownership()
    source.execute("create table t (id int primary key, v text); insert into t values (1, 'old')")
    running = RunningCapture(capture_options(source, change_log))
    content = begun(change_log)
    with closing(psycopg.connect(source.owner_dsn)) as hanging:
        hanging.execute("set synchronous_commit = on")
        hanging.execute(ddl)
        hanging.execute("insert into t (id) values (2)")
        committing = threading.Thread(target=hanging.commit)
        committing.start()
        require(lambda: running.last_error == "commit-not-visible", 20, what="capture to wait for the commit")
        assert content.read().committed == []
        source.execute_as_admin("alter system set synchronous_standby_names = ''")
        source.execute_as_admin("select pg_reload_conf()")
        committing.join(20)
    if code is None:
        content.wait_for(1)
        assert content.ids("public.t") == [2]
        running.end()
    else:
        assert running.ended_with().code == code
        assert content.read().committed == []


def test_a_look_waits_for_the_transaction_of_a_schema_message(
    new_source: Callable[..., Database], change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream has told of the drop: where the catalog shows the table still, nobody has published it."""
    monkeypatch.setattr("pipeline.capture.ddl.looking.VISIBLE_LIMIT_S", 0.3)
    monkeypatch.setattr("pipeline.capture.housekeeping.LOOK_EVERY_S", 0.1)
    source = new_source({"synchronous_standby_names": "nobody", "synchronous_commit": "local"})
    source.grant_ownership()
    source.execute("create table t (id int primary key); create table u (id int primary key)")
    install_triggers(source)
    options = capture_options(source, change_log)
    with capturing(options) as running, closing(psycopg.connect(source.owner_dsn)) as hanging:
        content = begun(change_log)
        hanging.execute("set synchronous_commit = on")
        hanging.execute("drop table u")
        committing = threading.Thread(target=hanging.commit)
        committing.start()
        require(lambda: running.last_error == "commit-not-visible", 20, what="a look that waits")
        running.end()
        source.execute("alter table t add a int")  # visible at once
        with capturing(options) as again:
            require(lambda: again.last_error == "commit-not-visible", 20, what="a start that waits")
            source.execute_as_admin("alter system set synchronous_standby_names = ''")
            source.execute_as_admin("select pg_reload_conf()")
            committing.join(20)
            source.execute("insert into t values (1)")
            content.wait(lambda c: c.ids("public.t") == [1], "a row behind it")
            assert not committing.is_alive()
