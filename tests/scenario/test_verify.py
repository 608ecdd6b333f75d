"""`keepstream verify`: never a false difference, each true one named, the replica held for a moment only."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pytest

from connectors.postgres.replica.hold import hold
from connectors.postgres.replica.progress import write_copying_marker
from connectors.postgres.session import connect
from pipeline.app import verify_options
from pipeline.config import load_config
from pipeline.verify import meeting
from pipeline.verify import run as verifying
from pipeline.verify.meeting import LOCKED_S
from pipeline.verify.result import VerifyResult
from pipeline.verify.scope import Scope
from schemas.errors import KeepstreamError
from schemas.lsn import Lsn
from tests.fix_pipeline import Finished, Pipeline
from tests.fix_postgres import Database
from tests.nursery import Nursery
from tests.postgres_releases import needs_release

SCHEMA = """
    create table customer (id int primary key, name text, credit numeric(10,2), photo bytea);
    create table tag (customer int, label text);
    create table "Ödd ""n% {}" ("k.1" text, "k %s" int, v text, primary key ("k.1", "k %s"));
"""
ODD = '"Ödd ""n% {}"'


def begin(pipeline: Pipeline, schema: str = SCHEMA, replica_schema: str | None = None) -> None:
    """A replica that follows, with nothing in it yet."""
    pipeline.source.execute(schema)
    pipeline.replica.execute(replica_schema or schema)
    pipeline.settings["replicas"]["standby"]["initial"] = "none"
    pipeline.write_config()
    pipeline.start("capture")
    pipeline.start("apply", "standby")
    pipeline.wait()


def compare(pipeline: Pipeline, *more: str, code: int) -> Finished:
    done = pipeline.run("verify", "standby", "--json", *more)
    assert done.code == code, f"{done.stdout}\n{done.stderr}\n{pipeline.outputs()}"
    return done


def keys(table: Any) -> list[tuple[dict[str, str], str, list[str]]]:
    return [(row["key"], row["difference"], row["columns"]) for row in table["differing_keys"]]


def in_process(
    pipeline: Pipeline, at: Callable[[str], None], *, only_if: str = "comparing", workers: int = 2
) -> VerifyResult:
    """A verification that calls `at` with each line that it tells and that begins like `only_if`."""
    config = load_config(pipeline.config_path)

    def tell(text: str) -> None:
        if text.startswith(only_if):
            at(text)

    return verifying.verify(
        verify_options(config, "standby", workers=workers, timeout_s=60),
        Scope(config.source.tables, config.source.keyless),
        stop=threading.Event(),
        tell=tell,
        on_progress=lambda _: None,
    )


def test_every_kind_of_difference_is_named_exactly(pipeline: Pipeline) -> None:
    begin(pipeline)
    pipeline.source.execute(
        "insert into customer select i, 'c' || i, i, sha256(i::text::bytea) from generate_series(1, 500) i;"
        f" insert into {ODD} values ('a', 1, 'x'), ('b', 2, null);"
        " insert into tag select i % 5, 'old' from generate_series(1, 20) i"
    )
    pipeline.wait()
    assert pipeline.verify()["rows"] == 522
    pipeline.replica.execute(
        "update customer set credit = 2, photo = null where id = 42; delete from customer where id = 43;"
        " insert into customer values (9999, 'extra', 1, null); update customer set id = 8000 where id = 44;"
        f" update {ODD} set v = '' where \"k.1\" = 'b';"
        " delete from tag where ctid = '(0,1)'; insert into tag values (2, 'old')"
    )
    found = compare(pipeline, code=6).json
    assert found["identical"] is False
    tables = {table["table"]: table for table in found["tables"]}
    assert keys(tables["public.customer"]) == [
        ({"id": "42"}, "values differ", ["credit", "photo"]),
        ({"id": "43"}, "missing on the replica", []),
        ({"id": "44"}, "missing on the replica", []),
        ({"id": "8000"}, "only on the replica", []),
        ({"id": "9999"}, "only on the replica", []),
    ]
    assert keys(tables['public.Ödd "n% {}']) == [({"k.1": "b", "k %s": "2"}, "values differ", ["v"])]
    tags = tables["public.tag"]
    assert (tags["rows"], tags["replica_rows"], tags["differing"]) == (20, 20, 2)
    assert sorted(row["difference"] for row in tags["differing_keys"]) == [
        "missing on the replica",
        "only on the replica",
    ]
    place = next(row["key"]["ctid"] for row in tags["differing_keys"] if "only" in row["difference"])
    assert pipeline.replica.execute("select * from tag where ctid = %s::tid", [place]) == [(2, "old")]
    told = pipeline.run("verify", "standby")
    assert told.code == 6
    assert "public.customer: id=42: values differ in credit, photo\n" in told.stdout
    assert "3 of 3 tables differ at LSN" in told.stdout


def test_thousands_of_differing_rows_are_counted_and_a_hundred_named(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    begin(pipeline)
    pipeline.source.execute("insert into customer select i, 'c', 1, null from generate_series(1, 20000) i")
    pipeline.wait()
    pipeline.replica.execute("update customer set credit = 5 where id > 7000")
    done = compare(pipeline, "--workers", "1", code=6)
    table = next(table for table in done.json["tables"] if table["table"] == "public.customer")
    assert (table["differing"], len(table["differing_keys"])) == (13000, 100)
    assert "verify: public.customer differs: looking for the rows\n" in done.stderr


@pytest.mark.slow_on_kafka
def test_traffic_is_never_taken_for_a_difference(pipeline: Pipeline) -> None:
    begin(pipeline)
    pipeline.source.execute("insert into customer select i, 'c', 1, null from generate_series(1, 3000) i")
    with traffic(pipeline.source) as committed:
        for _ in range(4):
            before = len(committed)
            result = pipeline.verify()
            assert result["identical"]
            assert result["held_s"] < 5
            assert len(committed) > before
    pipeline.wait()
    assert pipeline.verify()["identical"]


STATEMENTS = (
    "update customer set credit = credit + 1 where id % 100 = {n} % 100",
    "update customer set id = id + 100000 where id = {n} % 3000",
    "update customer set id = id - 100000 where id > 100000 and id % 7 = {n} % 7",
    "delete from customer where id % 500 = {n} % 500",
    "insert into customer select i, 'n', {n}, null from generate_series(1, 3000, 7) i on conflict do nothing",
    "insert into tag select {n}, 'x' from generate_series(1, 20); delete from tag where customer < {n} - 9",
)
TRUNCATE_EVERY_S = 0.7


@contextmanager
def traffic(source: Database) -> Iterator[list[int]]:
    """Three applications at work; yields a list that grows with each transaction."""
    stop, committed, failed = threading.Event(), list[int](), list[BaseException]()

    def work(first: int) -> None:
        with source.connect() as connection:
            n = first
            while not stop.wait(0.01):
                n += 1
                try:
                    connection.execute(STATEMENTS[n % len(STATEMENTS)].format(n=n).encode())
                    committed.append(n)
                except (psycopg.errors.DeadlockDetected, psycopg.errors.UniqueViolation):
                    pass
                except psycopg.Error as error:
                    failed.append(error)
                    return

    def truncate() -> None:
        with source.connect() as connection:
            while not stop.wait(TRUNCATE_EVERY_S):
                connection.execute("truncate tag")

    threads = [threading.Thread(target=work, args=[first]) for first in (0, 2, 4)]
    threads.append(threading.Thread(target=truncate))
    for thread in threads:
        thread.start()
    try:
        yield committed
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failed


def test_a_table_truncated_after_the_snapshots_is_compared_again(directory_pipeline: Pipeline) -> None:
    """TRUNCATE and rewrites are not MVCC-safe (P19): the old snapshots show an empty table."""
    pipeline = directory_pipeline
    begin(pipeline)
    pipeline.source.execute(
        "insert into customer select i, 'c', 1, null from generate_series(1, 300) i;"
        " insert into tag select i, 't' from generate_series(1, 300) i"
    )
    pipeline.wait()
    calls: list[str] = []
    rewriting = threading.Thread(target=pipeline.source.execute, args=["vacuum full tag"])
    replica = pipeline.replica

    def disturb(text: str) -> None:
        calls.append(text)
        if len(calls) == 1:
            pipeline.source.execute("truncate tag; insert into tag values (1, 'new')")
            pipeline.until(lambda: replica.execute("select count(*) from tag") == [(1,)], "the truncate")
        else:  # we hold a lock, this waits for it, and our other sessions would have to queue behind it
            rewriting.start()
            waits = "select pid from pg_locks where mode = 'AccessExclusiveLock' and not granted"
            pipeline.until(lambda: pipeline.source.execute_as_admin(waits) != [], "the rewrite to wait")

    started = time.monotonic()
    result = in_process(pipeline, disturb)
    rewriting.join(10)
    assert result.identical
    assert time.monotonic() - started < LOCKED_S
    assert [call.partition(" at ")[0] for call in calls] == ["comparing 3 tables", "comparing 1 tables"]
    rows = {table.table: (table.rows, table.lsn == result.lsn) for table in result.tables}
    assert rows["public.customer"] == (300, False)
    assert rows["public.tag"] == (1, True)


def test_an_application_waits_no_longer_than_a_part_is_read(directory_pipeline: Pipeline) -> None:
    """One table's comparison is kept waiting; TRUNCATE of another one goes through meanwhile."""
    pipeline = directory_pipeline
    begin(pipeline)
    pipeline.source.execute("insert into tag values (1, 'a'); insert into customer values (1, 'a', 1, null)")
    pipeline.wait()
    with pipeline.replica.connect(autocommit=False) as blocker:
        blocker.execute("lock table customer in access exclusive mode")
        running = pipeline.start("verify", "standby", "--json")
        pipeline.until(lambda: _waits(pipeline.replica), "the verification to wait for the lock")
        hold = "select hold_at from keepstream.progress"
        assert pipeline.replica.execute(hold) == [(None,)], "the replica must go on while it is compared"
        pipeline.source.execute("set lock_timeout = '10s'; truncate tag; insert into tag values (2, 'b')")
        pipeline.until(
            lambda: pipeline.replica.execute("select label from tag") == [("b",)], "the replica to follow"
        )
        assert running.alive
        blocker.rollback()
    assert running.wait(30) == 0, running.output


def _waits(database: Database) -> bool:
    """For a table, not for the applier's row."""
    return "relation" in _verifiers(database)


def _verifiers(database: Database) -> list[str | None]:
    """What each session of a verification waits for."""
    found = database.execute_as_admin(
        "select wait_event from pg_stat_activity where application_name like 'keepstream:%:verify'"
        " and datname = current_database()"
    )
    return [row[0] for row in found]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once_and_leaves_nothing(
    directory_pipeline: Pipeline, number: signal.Signals
) -> None:
    pipeline = directory_pipeline
    begin(pipeline)
    with pipeline.replica.connect(autocommit=False) as blocker:
        blocker.execute("lock table customer in access exclusive mode")
        running = pipeline.start("verify", "standby", "--json")
        pipeline.until(lambda: _waits(pipeline.replica), "the verification to wait for the lock")
        running.process.send_signal(number)
        assert running.wait(8) == 130
        assert "verify stopped before the end; nothing is known" in running.output
        assert "{" not in running.output
        for side in (pipeline.source, pipeline.replica):
            pipeline.until(lambda: not _verifiers(side), "its sessions to end")  # noqa: B023 - called at once


def test_a_replica_goes_on_by_itself_when_a_verification_is_killed_while_it_holds(
    directory_pipeline: Pipeline,
) -> None:
    pipeline = directory_pipeline
    begin(pipeline)
    pipeline.source.execute("insert into customer values (1, 'before', 1, null)")
    done = pipeline.run("verify", "standby", env={"KEEPSTREAM_FAILPOINT": "verify.held"})
    assert done.code == -signal.SIGKILL
    killed_at = time.monotonic()
    held = pipeline.replica.execute("select hold_kind, hold_expires > now() from keepstream.progress")
    assert held == [("verify", True)]
    pipeline.source.execute("insert into customer values (2, 'after', 1, null)")
    pipeline.wait()
    assert time.monotonic() - killed_at < 20
    assert pipeline.verify()["identical"]


def test_a_long_transaction_on_the_source_delays_it_but_not_the_replica(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    begin(pipeline)
    with pipeline.source.connect(autocommit=False) as writer:
        writer.execute("insert into customer values (1, 'long', 1, null)")
        running = pipeline.start("verify", "standby", "--json", "--timeout", "6")
        pipeline.until(lambda: "open transactions on the source: pid" in running.output, "it to be told")
        pipeline.source.execute("insert into customer values (2, 'short', 1, null)")
        replica = pipeline.replica
        pipeline.until(
            lambda: replica.execute("select id from customer") == [(2,)], "the replica to follow", 5
        )
        assert running.alive
        assert running.wait(30) == 7
        assert "error[verify-timeout]" in running.output
        assert running.output.count("verify: open transactions on the source: pid") == 1
        assert f"transactions stay open on the source: pid {writer.info.backend_pid} " in running.output
        again = pipeline.start("verify", "standby", "--json")
        pipeline.until(lambda: "open transactions on the source: pid" in again.output, "it to be told")
        writer.commit()
    assert again.wait(30) == 0, again.output


def test_a_verification_says_that_it_waits_for_the_replica_s_open_transaction(
    directory_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = directory_pipeline
    begin(pipeline)
    told: list[str] = []
    with pipeline.replica.connect(autocommit=False) as blocker:

        def hold_a_locked_row(*where: Any, **how: Any) -> Lsn:
            if not told:
                blocker.execute("select from keepstream.progress for update")
            return hold(*where, **how)

        def let_go(text: str) -> None:
            told.append(text)
            blocker.rollback()

        monkeypatch.setattr(meeting, "hold", hold_a_locked_row)
        result = in_process(pipeline, let_go, only_if="waiting for the transaction")
    assert told == ["waiting for the transaction that is open on the replica"]
    assert result.identical


def test_a_timeout_that_a_delay_outlasts_is_refused_at_once(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    begin(pipeline)
    pipeline.settings["replicas"]["standby"]["delay"] = "1h"
    pipeline.write_config()
    began = time.monotonic()
    done = compare(pipeline, "--timeout", "30", code=7)
    assert time.monotonic() - began < 10
    assert done.stderr.endswith(
        "error[verify-timeout]: replica standby keeps a delay of 1 h 00 min: within 30.0 s it does not come"
        " to one LSN with the source\nhint: Give more time than its delay: `keepstream verify standby"
        " --timeout 3900`.\n"
    )


def test_a_delay_s_verification_ends_in_time(directory_pipeline: Pipeline) -> None:
    """Its applier, that was started with a longer delay, never comes to the source's LSN."""
    pipeline = directory_pipeline
    pipeline.settings["replicas"]["standby"]["delay"] = "1h"
    pipeline.source.execute(SCHEMA)
    pipeline.replica.execute(SCHEMA)
    pipeline.settings["replicas"]["standby"]["initial"] = "none"
    pipeline.write_config()
    pipeline.start("capture")
    pipeline.start("apply", "standby")
    pipeline.until(lambda: pipeline.run("status", "--json").json["replicas"]["standby"]["end_lsn"], "apply")
    pipeline.settings["replicas"]["standby"]["delay"] = "1s"
    pipeline.write_config()
    began = time.monotonic()
    done = compare(pipeline, "--timeout", "3", code=7)
    assert time.monotonic() - began < 8
    assert "replica standby, which keeps a delay of 1.0 s, and the source did not come to one" in done.stderr


def test_what_cannot_be_compared_is_refused_at_once_with_its_remedy(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    pipeline.source.execute(SCHEMA)
    done = compare(pipeline, code=4)
    assert "error[replica-not-streaming]" in done.stderr
    assert "hint: Start `keepstream run`, which copies the replica if it is empty." in done.stderr
    begin_with = pipeline.settings["replicas"]["standby"]
    begin_with["initial"] = "none"
    pipeline.replica.execute(SCHEMA)
    pipeline.write_config()
    capture, apply = pipeline.start("capture"), pipeline.start("apply", "standby")
    pipeline.wait()

    assert pipeline.run("pause", "standby").code == 0
    done = compare(pipeline, code=4)
    assert "error[replica-held]: replica standby cannot be compared: it is paused at " in done.stderr
    assert "hint: Let it go on with `keepstream resume standby`." in done.stderr
    assert pipeline.run("resume", "standby").code == 0

    pipeline.until(lambda: source_is_at(pipeline) == replica_is_at(pipeline), "nothing to be on its way")
    apply.end()
    done = compare(pipeline, "--timeout", "1", code=7)
    assert done.stderr.count("verify: the replica is at ") == 1
    assert "and no applier is connected to it" in done.stderr
    assert "`keepstream apply standby`" in done.stderr
    began = time.monotonic()
    done = compare(pipeline, code=4)
    assert time.monotonic() - began < 15
    assert "error[applier-not-running]: replica standby cannot be compared: it is at " in done.stderr
    threading.Timer(2.0, lambda: pipeline.start("apply", "standby")).start()
    compare(pipeline, code=0)

    capture.end()
    done = compare(pipeline, "--timeout", "1", code=7)
    assert f"capture does not stream: slot {pipeline.slot} is read by nobody" in done.stderr
    assert done.stdout == ""
    assert pipeline.replica.execute("select hold_at from keepstream.progress") == [(None,)]


def source_is_at(pipeline: Pipeline) -> str:
    return str(pipeline.source.execute("select pg_current_wal_insert_lsn()")[0][0])


def replica_is_at(pipeline: Pipeline) -> str:
    return str(pipeline.replica.execute("select position from keepstream.progress")[0][0])


def test_a_replica_that_is_being_copied_is_refused(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    from connectors.postgres.replica.progress import install

    with connect(pipeline.replica.dsn, purpose="test") as session:
        install(session)
        write_copying_marker(session, pipeline.name, stream=b"s" * 16)
        done = compare(pipeline, code=4)
    assert (
        "error[replica-copying]: replica standby cannot be compared: it is still being copied" in done.stderr
    )


DIFFERENT_SHAPES = """
    create table plain (id int primary key, v text);
    create table parted (id int, v text) partition by range (id);
    create table parted_1 partition of parted for values from (0) to (100);
    alter table parted_1 add primary key (id);
    create table total (id int primary key, a int, doubled int generated always as (a * 2) stored);
    create table gone (id int primary key);
    create unlogged table cache (id int primary key);
    create table parent (id int primary key);
    create table child (extra int, primary key (id)) inherits (parent);
"""
REPLICA_SHAPES = """
    create table plain (more int default 7, v text, id bigint) partition by range (id);
    create table plain_low partition of plain for values from (0) to (10);
    create table plain_high partition of plain for values from (10) to (100);
    alter table plain add primary key (id);
    create table parted_1 (id int primary key, v text);
    create table total (doubled int generated always as (a * 2) stored, id int primary key, a int);
    create table gone (id int primary key);
    create unlogged table cache (id int primary key);
    create table mine (id int primary key);
    create table parent (id int primary key);
    create table child (extra int, primary key (id)) inherits (parent);
"""


@pytest.fixture
def unhurried() -> Iterator[Nursery]:
    """Its captures look for added columns every ten seconds, as users' do."""
    with closing(Nursery()) as nursery:
        yield nursery


def test_replicas_of_another_shape_are_compared_by_what_both_have(
    unhurried: Nursery, directory_pipeline: Pipeline
) -> None:
    pipeline = directory_pipeline
    pipeline.nursery = unhurried
    begin(pipeline, DIFFERENT_SHAPES, REPLICA_SHAPES)
    pipeline.source.execute(
        "insert into plain select i, 'p' from generate_series(1, 60) i;"
        " insert into parted select i, 'p' from generate_series(1, 50) i; insert into cache values (1);"
        " insert into parent values (1); insert into child values (2, 2)"
    )
    pipeline.wait()
    found = compare(pipeline, code=0).json
    rows = {table["table"]: table["rows"] for table in found["tables"]}
    assert rows == {
        "public.child": 1,
        "public.gone": 0,
        "public.parent": 1,
        "public.parted_1": 50,
        "public.plain": 60,
        "public.total": 0,
    }
    assert found["not_replicated"] == [{"table": "public.cache", "reason": "unlogged table"}]
    assert found["notes"] == [
        "public.plain: column more is only on the replica",
        "public.mine is only on the replica",
        "public.plain_high is only on the replica",
        "public.plain_low is only on the replica",
    ]
    pipeline.replica.execute("alter table total alter doubled drop expression")
    pipeline.source.execute("insert into total values (1, 4)")
    pipeline.source.execute("alter table parted_1 drop constraint parted_1_pkey")
    pipeline.source.execute("alter table parent add column later int default 5")
    pipeline.replica.execute("drop table gone; update plain set v = 'other' where id = 30")
    pipeline.wait()
    found = compare(pipeline, code=6).json
    tables = {table["table"]: table for table in found["tables"]}
    # the replica's `doubled` is no generated column any more, so nobody computed it
    assert keys(tables["public.total"]) == [({"id": "1"}, "values differ", ["doubled"])]
    assert keys(tables["public.plain"]) == [({"id": "30"}, "values differ", ["v"])]
    assert tables["public.gone"]["problem"] == "the replica has no such table"
    assert tables["public.parent"]["identical"] is False
    assert tables["public.parent"]["differing"] == 0
    assert tables["public.parent"]["problem"].startswith(
        "the replica has no column later: if it was added on the source just now, it comes within ten seconds"
    )
    pipeline.source.execute("insert into parent values (9)")
    pipeline.wait()
    tables = {table["table"]: table for table in compare(pipeline, code=6).json["tables"]}
    assert tables["public.parent"]["identical"] is True


@needs_release("source", 18)
@needs_release("replica", 18)
def test_virtual_columns_are_compared_whatever_the_replica_makes_of_them(
    directory_pipeline: Pipeline,
) -> None:
    pipeline = directory_pipeline
    ours = "create table g (id int primary key, a int, c int generated always as (a * 3) virtual,"
    ours += " d int generated always as (a + 1) virtual, e int generated always as (a) virtual)"
    theirs = ours.replace("(a * 3)", "(a * 4)").replace("1) virtual", "1) stored")
    begin(pipeline, ours, theirs.replace(", e int generated always as (a) virtual", ""))
    pipeline.source.execute("insert into g values (1, 0), (2, 5)")
    pipeline.wait()
    found = compare(pipeline, code=6).json
    assert keys(found["tables"][0]) == [({"id": "2"}, "values differ", ["c"])]
    assert found["notes"] == ["public.g: generated column e is only on the source"]
    pipeline.replica.execute("alter table g alter column c set expression as (a * 3)")
    compare(pipeline, code=0)


def test_nothing_is_called_identical_without_a_publication(directory_pipeline: Pipeline) -> None:
    pipeline = directory_pipeline
    begin(pipeline)
    pipeline.started[0].end()
    pipeline.start_process("capture")  # unhurried: its look would end it before the replica has caught up
    pipeline.wait()

    def drop(_: str) -> None:
        pipeline.source.execute_as_admin(f"drop publication if exists keepstream_{pipeline.name}")

    with pytest.raises(KeepstreamError) as told:
        in_process(pipeline, drop, only_if="waiting until the replica has caught up")
    assert told.value.code == "publication-missing"


def test_an_applier_that_stopped_is_named_whatever_the_log_s_home(pipeline: Pipeline) -> None:
    begin(pipeline)
    pipeline.started[1].end()
    done = compare(pipeline, code=4)
    assert "error[applier-not-running]" in done.stderr
