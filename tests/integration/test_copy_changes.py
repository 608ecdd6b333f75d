"""A source that changes while it is copied: the replica is the source as of S, whatever happens."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from connectors.postgres.copy import snapshot, visibility
from connectors.postgres.copy.copystream import stream_copy
from connectors.postgres.replication.walsender import Walsender
from connectors.postgres.session import Session, connect
from pipeline.copy import CopyPhase, CopyProgress, copy_replica
from pipeline.dev.process import require
from schemas.errors import RetryLater
from schemas.lsn import parse_lsn
from tests.copying import KEEPERS, ZOO, contents, copy, copy_options, source_as_of_snapshots
from tests.fix_postgres import Database

BUSY = """
    create table account (id int primary key, email text unique, balance int, note text);
    create table keyless (a int, b text);
    insert into account select g, 'm' || g, 0, repeat('x', 500) from generate_series(1, 4000) g;
    insert into keyless select g, 'k' from generate_series(1, 3000) g;
"""


def trade(dsn: str, stop: threading.Event, seed: int) -> int:
    """Transactions that change keys, delete and insert again, roll back, until told to stop; how many."""
    chance = random.Random(seed)
    count = 0
    with psycopg.connect(dsn) as connection:
        while not stop.is_set():
            key = chance.randrange(4000) + 1
            with contextlib.suppress(psycopg.errors.UniqueViolation, psycopg.errors.DeadlockDetected):
                with connection.transaction():
                    connection.execute(
                        "update account set balance = balance + 1 where id %% 97 = %s", [key % 97]
                    )
                    connection.execute("update account set id = id + 100000 where id = %s", [key])
                    connection.execute(
                        "with gone as (delete from account where id = %s returning *) "
                        "insert into account select id, email, balance + 5, note from gone",
                        [key + 1],
                    )
                    with connection.transaction(force_rollback=chance.random() < 0.3):
                        connection.execute("insert into keyless values (%s, 'new')", [key])
                        connection.execute("delete from keyless where a = %s", [key + 2])
                count += 1
    return count


@contextlib.contextmanager
def traffic(source: Database) -> Iterator[None]:
    stop = threading.Event()
    counts: list[int] = []
    traders = [
        threading.Thread(target=lambda seed=seed: counts.append(trade(source.owner_dsn, stop, seed)))
        for seed in range(3)
    ]
    for trader in traders:
        trader.start()
    try:
        yield
    finally:
        stop.set()
        for trader in traders:
            trader.join()
    assert min(counts) > 3, "the traffic did not run"


def at_phase(phase: CopyPhase, do: Callable[[], object]) -> Callable[[CopyProgress], None]:
    """A listener that does something once, when a phase begins for the first time."""
    done: list[bool] = []

    def told(progress: CopyProgress) -> None:
        if progress.phase is phase and not done:
            done.append(True)
            do()

    return told


def test_heavy_changes_during_the_copy_do_not_show_in_it(
    source: Database, replica: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.execute(BUSY)

    with source_as_of_snapshots(source, monkeypatch) as seen, traffic(source):
        _, told = copy(source, replica, part_bytes=50_000)

    assert told[-1].attempt == len(seen) == 1
    assert contents(replica.admin_dsn) == seen[-1]
    assert contents(source.admin_dsn) != seen[-1]


@pytest.mark.parametrize(
    "change",
    [
        "truncate keyless",
        "drop table keyless",
        "alter table keyless rename to renamed",
        "alter table keyless alter a type bigint",
        "alter table keyless rename b to c; alter table keyless rename a to b;"
        " alter table keyless rename c to a",
        "alter table keyless rename to other; create table keyless (a int, b text)",
        "begin; truncate keyless; insert into keyless values (7, 'after'); commit",
        "alter table keyless add column c int default 5",
        "alter type mood rename value 'good' to 'fine'",
        "alter type mood rename value 'good' to 'fine'; alter type mood rename value 'bad' to 'good';"
        " alter type mood rename value 'fine' to 'bad'",
    ],
)
@pytest.mark.parametrize("phase", [CopyPhase.SCHEMA, CopyPhase.ROWS])
def test_a_table_changed_under_the_copy_costs_the_snapshot_and_no_row(
    source: Database, replica: Database, monkeypatch: pytest.MonkeyPatch, change: str, phase: CopyPhase
) -> None:
    source.execute(
        "create type mood as enum ('good', 'bad');"
        "create table keyless (a int, b text, moods mood[] default '{good}');"
        "insert into keyless values (1, 'x'), (2, null)"
    )
    source.execute_as_admin("create publication p for table keyless")

    with source_as_of_snapshots(source, monkeypatch) as seen:
        position = copy_replica(
            copy_options(source, replica, publication="p"),
            at_phase(phase, lambda: source.execute(change)),
            threading.Event(),
        )

    assert len(seen) == 2
    assert contents(replica.admin_dsn) == seen[-1] == contents(source.admin_dsn)
    assert position.lsn > 0


def test_a_label_that_is_renamed_behind_the_comparison_costs_the_snapshot_and_no_row(
    source: Database, replica: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.execute(
        "create type mood as enum ('good'); create table t (m mood); insert into t values ('good')"
    )
    locked: list[bool] = []

    def stream(*sessions: Session, **how: Any) -> int:
        if not locked:
            locked.append(True)
            source.execute("alter type mood rename value 'good' to 'fine'")
        return stream_copy(*sessions, **how)

    monkeypatch.setattr("connectors.postgres.copy.part_copier.stream_copy", stream)
    copy(source, replica)
    assert contents(replica.admin_dsn) == {("public", "t"): ["(fine)"]}


def test_without_the_comparison_a_truncated_table_would_be_copied_empty(
    source: Database, replica: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P19: what the rule is for."""
    source.execute("create table t (a int); insert into t values (1)")
    monkeypatch.setattr(
        "connectors.postgres.copy.snapshot_tables.Observer.require_unchanged", lambda self, table: None
    )

    with source_as_of_snapshots(source, monkeypatch) as seen:
        copy_replica(
            copy_options(source, replica),
            at_phase(CopyPhase.ROWS, lambda: source.execute("truncate t")),
            threading.Event(),
        )

    assert seen == [{("public", "t"): ["(1)"]}]
    assert contents(replica.admin_dsn) == {("public", "t"): []}


def test_a_table_that_changes_again_and_again_is_copied_first_and_then_given_up(
    source: Database, replica: Database
) -> None:
    source.execute("create table t (a int); create table u (a int)")
    told: list[CopyProgress] = []

    def listen(progress: CopyProgress) -> None:
        told.append(progress)
        if progress.phase is CopyPhase.ROWS:
            source.execute("truncate t")

    with pytest.raises(RetryLater) as given_up:
        copy_replica(copy_options(source, replica, attempts=3), listen, threading.Event())

    assert given_up.value.code == "table-changed"
    assert max(progress.attempt for progress in told) == 3
    assert "public.t was dropped, renamed, altered, truncated or rewritten" in told[-1].restart_reason
    copy(source, replica)
    assert contents(replica.admin_dsn) == contents(source.admin_dsn)


def test_a_table_added_during_the_copy_is_not_in_it(
    source: Database, replica: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.execute(ZOO)

    with source_as_of_snapshots(source, monkeypatch) as seen:
        copy_replica(
            copy_options(source, replica),
            at_phase(CopyPhase.ROWS, lambda: source.execute("create table late as select 1 as a")),
            threading.Event(),
        )

    assert contents(replica.admin_dsn) == seen[-1]
    assert ("public", "late") not in seen[-1]


def test_the_session_that_holds_the_snapshot_dies_and_the_copy_begins_anew(
    source: Database, replica: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.execute(BUSY)

    def kill_keeper() -> None:
        ended = source.execute_as_admin(
            f"select pg_terminate_backend(pid) from pg_stat_activity where {KEEPERS}"
        )
        assert ended == [(True,)]

    with source_as_of_snapshots(source, monkeypatch) as seen, traffic(source):
        copy_replica(
            copy_options(source, replica, part_bytes=50_000),
            at_phase(CopyPhase.ROWS, kill_keeper),
            threading.Event(),
        )

    assert len(seen) == 2
    assert contents(replica.admin_dsn) == seen[-1]


def test_a_copy_keeps_no_wal_and_goes_on_where_a_slot_would_be_lost(
    new_source: Callable[..., Database], replica: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = new_source({"max_slot_wal_keep_size": "16MB", "max_wal_size": "32MB"})
    source.execute(BUSY)
    source.execute_as_admin("select pg_create_physical_replication_slot('theirs', true)")

    def write_wal() -> None:
        for _ in range(4):
            source.execute("update account set balance = balance + 1")
            source.execute_as_admin("select pg_switch_wal()")
        source.execute_as_admin("checkpoint")

    with source_as_of_snapshots(source, monkeypatch) as seen:
        copy_replica(
            copy_options(source, replica, part_bytes=50_000),
            at_phase(CopyPhase.ROWS, write_wal),
            threading.Event(),
        )

    lost = "select wal_status from pg_replication_slots where slot_name = 'theirs'"
    assert source.execute_as_admin(lost) == [("lost",)]
    assert len(seen) == 1
    assert contents(replica.admin_dsn) == seen[0]


@pytest.mark.parametrize("server", ["source", "replica"])
def test_a_worker_that_loses_its_session_copies_its_part_again_in_the_same_snapshot(
    source: Database, replica: Database, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    source.execute(BUSY)

    def kill_workers() -> None:
        victims = "application_name like 'keepstream:copy:%' and datname = current_database() " + (
            f"and backend_type = 'client backend' and xact_start is not null and not ({KEEPERS})"
            if server == "source"
            else "and pid not in (select backend_pid from keepstream.progress)"
        )
        database = source if server == "source" else replica
        deadline = threading.Event()

        def some_ended() -> bool:
            return bool(
                database.execute_as_admin(
                    f"select pg_terminate_backend(pid) from pg_stat_activity where {victims}"
                )
            )

        require(some_ended, 20.0, what="a worker's session")
        deadline.set()

    killer = threading.Thread(target=kill_workers)
    with source_as_of_snapshots(source, monkeypatch) as seen, traffic(source):
        _, told = copy_with(source, replica, at_phase(CopyPhase.ROWS, killer.start))
        killer.join()

    assert len(seen) == 1
    assert contents(replica.admin_dsn) == seen[-1]
    assert told[-1].rows_done == sum(map(len, seen[-1].values()))


def test_a_replica_that_crashes_under_the_copy_is_copied_anew(
    source: Database, new_replica: Callable[..., Database]
) -> None:
    replica = new_replica()
    source.execute(BUSY)

    def crash() -> None:
        replica.disconnect()
        replica.server.crash()
        replica.server.start()

    with pytest.raises(RetryLater):
        copy_replica(
            copy_options(source, replica, part_bytes=20_000),
            at_phase(CopyPhase.ROWS, crash),
            threading.Event(),
        )
    copy(source, replica)

    assert contents(replica.admin_dsn) == contents(source.admin_dsn)


def copy_with(
    source: Database, replica: Database, listener: Callable[[CopyProgress], None]
) -> tuple[object, list[CopyProgress]]:
    told: list[CopyProgress] = []

    def listen(progress: CopyProgress) -> None:
        told.append(progress)
        listener(progress)

    return copy_replica(copy_options(source, replica, part_bytes=20_000), listen, threading.Event()), told


def test_a_transaction_open_across_the_snapshot_is_in_it_whole_or_not_at_all(
    source: Database, replica: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.execute("create table t (a int)")
    early = psycopg.connect(source.owner_dsn)
    late = psycopg.connect(source.owner_dsn)
    early.execute("insert into t values (1)")

    def told(progress: CopyProgress) -> None:
        if progress.blockers and not early.closed:
            late.execute("insert into t values (2)")  # begins while the snapshot waits for `early`
            early.commit()
            early.close()
        elif progress.phase is CopyPhase.SNAPSHOT and early.closed and not late.closed:
            late.execute("insert into t values (3)")
            late.commit()
            late.close()

    with source_as_of_snapshots(source, monkeypatch) as seen:
        position = copy_replica(copy_options(source, replica), told, threading.Event())

    assert contents(replica.admin_dsn) == seen[-1]
    assert seen[-1]["public", "t"] in (["(1)"], ["(1)", "(2)", "(3)"])
    now = parse_lsn(source.execute_as_admin("select pg_current_wal_lsn()::text")[0][0])
    assert 0 < position.lsn <= now


def test_rows_are_not_read_before_every_commit_of_the_snapshot_is_visible(
    new_source: Callable[..., Database],
) -> None:
    """P18. A commit that waits for a standby is in WAL, and so in the snapshot, and still runs for others."""
    source = new_source({"synchronous_standby_names": "nobody", "synchronous_commit": "local"})
    source.execute("create table t (a int)")
    first, second = (psycopg.connect(source.owner_dsn) for _ in range(2))
    hanging = psycopg.connect(source.owner_dsn)
    first_pid, second_pid = first.info.backend_pid, second.info.backend_pid
    first.execute("insert into t values (1)")
    walsender = Walsender(source.dsn, purpose="test")
    observer = connect(source.dsn, purpose="test")
    committing = threading.Thread(target=hanging.commit)

    def waiting(seconds: float) -> None:
        pids = {blocker.pid for blocker in snapshot.slot_blockers(observer, walsender.backend_pid)}
        if first_pid in pids:
            second.execute("insert into t values (2)")
            first.commit()
            first.close()
        elif second_pid in pids and not committing.is_alive():
            hanging.execute("set synchronous_commit = on")
            hanging.execute("insert into t values (3)")
            committing.start()
            require(lambda: _hangs(source, hanging.info.backend_pid), 10, what="the commit to hang")
            second.commit()

    system = walsender.identify_system()
    created = walsender.create_slot("s", temporary=True, export_snapshot=True, waiting=waiting)
    assert created.snapshot is not None
    keeper = connect(source.dsn, purpose="test")
    name = snapshot.keep(keeper, created.snapshot)
    exported = snapshot.ExportedSnapshot(keeper, created.consistent_point, name, system)
    with connect(source.dsn, purpose="test") as importer:
        snapshot.begin_in_snapshot(importer, exported)
        with pytest.raises(RetryLater) as early:
            visibility.wait_until_visible(
                importer, source.dsn, purpose="test", limit_s=0.5, tick=lambda: None
            )
        assert early.value.code == "snapshot-not-visible"
        source.execute_as_admin("alter system reset synchronous_standby_names")
        source.execute_as_admin("alter system set synchronous_standby_names = ''")
        source.execute_as_admin("select pg_reload_conf()")
        visibility.wait_until_visible(importer, source.dsn, purpose="test", limit_s=10, tick=lambda: None)
        rows = importer.execute("select a from public.t order by 1").fetchall()
    assert rows == [(1,), (2,), (3,)]
    committing.join()
    for closing in (second, hanging, observer, keeper):
        closing.close()
    walsender.close()


def _hangs(source: Database, pid: int) -> bool:
    return source.execute_as_admin("select wait_event from pg_stat_activity where pid = %s", [pid]) == [
        ("SyncRep",)
    ]
