"""Replicas are asked in the background whether they can take a table in; what they refuse is tried again."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from connectors.interfaces import ChangeLog
from pipeline.capture.options import CaptureOptions, FollowingReplica
from pipeline.config.model import Initial
from pipeline.dev.process import require
from tests.capturing import RunningCapture, begun, capture_options, capturing
from tests.fix_postgres import Database


@pytest.fixture
def options(
    source: Database, change_log: ChangeLog, silent: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> CaptureOptions:
    """With a replica that does not answer."""
    monkeypatch.setattr("pipeline.capture.housekeeping.LOOK_EVERY_S", 0.1)
    source.grant_ownership()
    host, port = silent.getsockname()
    replica = FollowingReplica(f"host={host} port={port} user=nobody dbname=none", Initial.COPY)
    return capture_options(source, change_log, replicas={"standby": replica})


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A server that says nothing; each attempt to reach it waits in its queue."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        yield server


def await_refusal(running: RunningCapture) -> None:
    def is_refused() -> bool:
        told = running.reports[-1].not_replicated if running.reports else ()
        return any(one.table == "public.lead" and "did not say" in one.reason for one in told)

    require(is_refused, 20.0, what="the reason")


def test_the_stream_goes_on_while_a_replica_is_asked_that_does_not_answer(
    source: Database, options: CaptureOptions, change_log: ChangeLog, silent: socket.socket
) -> None:
    source.execute("create table other (id int primary key)")
    with capturing(options) as running:
        content = begun(change_log)
        source.execute("create table lead (id int primary key)")
        asked, _ = silent.accept()
        with asked:
            began = time.monotonic()
            source.execute("insert into other values (1)")
            content.wait(lambda c: c.ids("public.other") == [1], "the row")
            assert time.monotonic() - began < 1.5
            await_refusal(running)


def test_a_refused_table_is_tried_again_after_a_pause_but_at_once_when_it_was_altered(
    source: Database, options: CaptureOptions, change_log: ChangeLog, silent: socket.socket
) -> None:
    with capturing(options) as running:
        begun(change_log)
        source.execute("create table lead (id int primary key)")
        silent.accept()[0].close()
        await_refusal(running)
        silent.settimeout(2)
        with pytest.raises(TimeoutError):
            silent.accept()
        source.execute("alter table lead add note text")
        silent.accept()[0].close()
        with pytest.raises(TimeoutError):
            silent.accept()
