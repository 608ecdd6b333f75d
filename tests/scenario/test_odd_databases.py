"""Databases whose names hold whatever PostgreSQL takes in a name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from tests.fix_pipeline import Pipeline, make_pipeline
from tests.fix_postgres import Server

SOURCE = 'select "a".b\' = c\\d %s ?x=1&y #/@ :{} host=nowhere '
REPLICA = "dbname=postgres Ünï. code/'\"; dbname=x\\$1 -- "


def filled(name: str) -> str:
    """To the longest name that there is."""
    assert len(name.encode()) < 63
    return name + "z" * (63 - len(name.encode()))


@pytest.fixture
def odd_pipeline(
    tmp_path: Path, source_server: Server, replica_server: Server, directory_url: str
) -> Iterator[Pipeline]:
    source, replica = source_server.new_database(filled(SOURCE)), replica_server.new_database(filled(REPLICA))
    made = make_pipeline(tmp_path, source, replica, directory_url)
    yield made
    made.end()
    source.drop()
    replica.drop()


def test_a_pipeline_between_databases_of_odd_names(odd_pipeline: Pipeline) -> None:
    """One is named by a URI, the other one by keywords."""
    pipeline = odd_pipeline
    source, replica = pipeline.source, pipeline.replica
    pipeline.settings["replicas"]["standby"]["url"] = make_conninfo(replica.dsn)
    pipeline.write_config()
    source.execute("create table t (id int primary key, note text); insert into t values (1, 'first')")
    checked = pipeline.run("check")
    assert checked.code == 0, checked.stdout + checked.stderr
    pipeline.start("run")
    pipeline.wait()
    source.execute("create table later (id int primary key); insert into later values (1)")
    source.execute("update t set note = 'second'")
    pipeline.until(
        lambda: replica.execute("select to_regclass('public.later') is not null") == [(True,)], "the table"
    )
    pipeline.wait()
    assert replica.execute("select * from t") == [(1, "second")]
    replica.execute("delete from t")
    copied = pipeline.run("snapshot", "standby", "public.t")
    assert copied.code == 0, copied.stderr
    pipeline.verify()
    status = pipeline.run("status")
    assert status.code == 0, status.stdout + status.stderr
