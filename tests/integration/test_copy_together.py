"""Two stages begin to copy into one replica at once, as two supervisors make them do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import psycopg
import pytest

from connectors.postgres.copy import run as copy_run
from connectors.postgres.ddl import approvals, left_out
from connectors.postgres.replica import progress
from connectors.postgres.session import connect
from schemas.errors import OperatorNeeded, RetryLater
from schemas.lsn import Lsn, Position
from tests.fix_postgres import Database

STREAM = bytes(16)


def begin(replica: Database, require_empty: Callable[[], object] = lambda: None) -> copy_run.CopyRun:
    with connect(replica.dsn, purpose="copy") as session:
        return copy_run.begin_run(
            session,
            "crm",
            stream=STREAM,
            initial="none",
            place="",
            application="none",
            require_empty=require_empty,
        )


def test_one_that_begins_while_the_other_completes_finds_the_replica_in_use(replica: Database) -> None:
    """And no table of the bookkeeping that has just been dropped."""
    first = begin(replica)
    with ThreadPoolExecutor(1) as pool, connect(replica.dsn, purpose="copy") as session:
        with session.transaction():
            session.execute("select pg_advisory_xact_lock(hashtext('keepstream.copy'))")
            second = pool.submit(begin, replica)
            assert wait([second], timeout=0.5).not_done
            copy_run.complete_run(session, first, Position(Lsn(1)), place="")
        with pytest.raises(OperatorNeeded) as refused:
            second.result(20)
    assert refused.value.code == "replica-in-use"
    with psycopg.connect(replica.admin_dsn) as admin:
        assert admin.execute("select state from keepstream.progress").fetchall() == [("streaming",)]
        assert admin.execute("select to_regclass('keepstream.copy_run')").fetchall() == [(None,)]


def test_a_replica_that_begins_anew_goes_without_nothing_that_it_went_without_before(
    replica: Database,
) -> None:
    """Its row was removed by `teardown`; the tables are there now."""
    with connect(replica.dsn, purpose="copy") as session:
        progress.install(session)
        with session.transaction():
            left_out.add(session, "crm", ("public", "customer"))
            left_out.add(session, "other", ("public", "customer"))
        steps = [approvals.WaitingStep("drop_column", "public.t.a", "alter", pauses=True)]
        approvals.wait(session, "crm", lsn=Lsn(9), xid=1, steps=steps)
        begin(replica)
        assert left_out.read(session, "crm") == left_out.LeftOut()
        assert left_out.read(session, "other").tables == {("public", "customer")}
        assert approvals.read(session, "crm") is None


def test_one_that_is_frozen_while_it_begins_does_not_keep_the_other_waiting(
    replica: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.postgres.copy.run.SILENCE_LIMIT_S", 0.5)
    reached, woken = threading.Event(), threading.Event()

    def freeze() -> None:
        reached.set()
        woken.wait(20)

    with ThreadPoolExecutor(1) as pool:
        frozen = pool.submit(begin, replica, freeze)
        assert reached.wait(20)
        assert not begin(replica).has_leftovers
        woken.set()
        with pytest.raises(RetryLater) as ended:
            frozen.result(20)
    assert ended.value.code == "connection-lost"
