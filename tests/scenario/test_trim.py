"""P12: what is trimmed of the log, and what never is, on both logs."""

from __future__ import annotations

import secrets
import threading
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from connectors.interfaces import ChangeLog
from connectors.log import open_log
from connectors.postgres.replica import progress
from connectors.postgres.session import connect
from pipeline.capture.options import FollowingReplica, TrimOptions
from pipeline.capture.writing.chainwriter import ChainWriter, SourceIdentity, now_us
from pipeline.capture.writing.trimming import StandingAnchor, Trimmer, anchors
from pipeline.config import Initial
from pipeline.reentry import follow_from
from schemas.entries import Entries
from schemas.errors import PlaceTrimmed
from schemas.frame import NO_DIGEST, CaptureStart
from schemas.framecodec import FrameHeader, encode_capture_start, seal_frame
from schemas.lsn import Lsn, Position
from schemas.validity import Chain
from tests.fix_apply import adopt
from tests.fix_pipeline import Pipeline
from tests.fix_postgres import Database

STREAM = uuid.UUID(int=7).bytes
NOW = timedelta(0)
ELSEWHERE = "postgresql://keepstream@127.0.0.1:1/crm"


@pytest.fixture
def log(log_url: str) -> Iterator[ChangeLog]:
    """Anchors at 100, 200 and 300 in epoch 1, at 300 and 400 in epoch 2."""
    made = open_log(log_url, f"t{secrets.token_hex(6)}")
    made.create()
    chain = write_epoch(made, 1, Chain(stream=STREAM), [100, 200, 300])
    write_epoch(made, 2, chain, [300, 400])
    yield made
    made.destroy()
    made.close()


def write_epoch(log: ChangeLog, epoch: int, chain: Chain, positions: list[int]) -> Chain:
    start = CaptureStart(uuid.uuid4().bytes, "7", 1, now_us())
    record, _ = seal_frame(FrameHeader(STREAM, epoch, 0, NO_DIGEST, 0), (), encode_capture_start(start))
    writer = log.begin_epoch(epoch, record, is_ignorable=lambda _: False)
    begun = Chain(STREAM, epoch, chain.number, chain.digest)
    writing = ChainWriter(writer, begun, SourceIdentity("7", 1, Entries()))
    for lsn in positions:
        writing.anchor((), at=Position(Lsn(lsn)))
        writing.heartbeat(Position(Lsn(lsn + 50)))
    while not writing.all_durable:
        writing.settle(1.0)
    writer.close()
    return Chain(STREAM, epoch, writing._number, writing._digest)


class Trimming:
    """A trimmer of the log for one replica."""

    def __init__(self, url: str, replica: Database, log: ChangeLog, name: str) -> None:
        self.replica, self.log, self.name = replica, log, name
        self._url = url

    def trimmer(
        self, *, retain: timedelta = NOW, initial: Initial = Initial.COPY, dsn: str | None = None
    ) -> Trimmer:
        replicas = {"standby": FollowingReplica(dsn or self.replica.dsn, initial)}
        return Trimmer(self.name, TrimOptions(self._open, retain), replicas)

    def trim(self, **options: Any) -> int | None:
        """The LSN of the anchor that was trimmed to."""
        return lsn_of(self.trimmer(**options).trim(threading.Event()))

    def replica_at(self, lsn: int) -> None:
        with connect(self.replica.dsn, purpose="test") as session:
            progress.install(session)
            session.execute("delete from keepstream.progress")
            adopt(session, self.name, stream=STREAM, position=Position(Lsn(lsn)))

    def standing(self) -> list[int]:
        return [standing.anchor.at.lsn for standing in anchors(self.log, threading.Event())]

    def _open(self) -> ChangeLog:
        return open_log(self._url, self.name)


@pytest.fixture
def trimming(log_url: str, log: ChangeLog, replica: Database) -> Trimming:
    name = log.name.rpartition("/")[2].removesuffix(".log")
    return Trimming(log_url, replica, log, name)


def lsn_of(standing: StandingAnchor | None) -> int | None:
    return None if standing is None else standing.anchor.at.lsn


def test_p12_the_log_is_trimmed_to_the_newest_anchor_that_the_replica_has_passed(trimming: Trimming) -> None:
    assert trimming.standing() == [200, 300, 400]
    trimming.replica_at(299)
    assert trimming.trim(retain=timedelta(hours=1)) is None
    assert trimming.trim() == 200
    assert trimming.standing() == [200, 300, 400]
    assert trimming.trim() is None
    trimming.replica_at(399)
    assert trimming.trim() == 300
    trimming.replica_at(10_000)
    assert trimming.trim() == 400
    assert trimming.standing() == [400]


def test_p12_a_log_that_was_trimmed_is_read_from_its_anchor_and_refused_to_who_comes_too_late(
    trimming: Trimming,
) -> None:
    trimming.replica_at(350)
    assert trimming.trim() == 300
    follower = follow_from(trimming.log, stream=STREAM, position=Position(Lsn(320)), hint=None)
    while follower.next_place < trimming.log.bounds().end:
        follower.read(1.0)
    follower.close()
    assert (follower.chain.epoch, follower.chain.tail.lsn, follower.waits_for_epoch) == (2, 450, False)
    with pytest.raises(PlaceTrimmed, match="begins at 0/12C, after position 0/12B"):
        follow_from(trimming.log, stream=STREAM, position=Position(Lsn(299)), hint=None)


def test_p12_a_log_of_which_nothing_is_left_is_refused(log_url: str) -> None:
    """A replica that follows it had an anchor there: waiting for more would be waiting for ever."""
    log = open_log(log_url, f"t{secrets.token_hex(6)}")
    log.create()
    try:
        with pytest.raises(PlaceTrimmed, match="is empty"):
            follow_from(log, stream=STREAM, position=Position(Lsn(320)), hint="7:3:0011223344556677")
    finally:
        log.destroy()
        log.close()


def test_p12_a_running_copy_keeps_all_from_the_place_that_it_noted(trimming: Trimming) -> None:
    places = {int(s.anchor.at.lsn): s.place for s in anchors(trimming.log, threading.Event())}
    trimming.replica_at(1)
    trimming.replica.execute_as_admin(
        "update keepstream.progress set state = 'copying', position = '0/0', place = %s",
        [f"{places[300]}:3:{'00' * 8}"],
    )
    assert trimming.trim() == 300
    trimming.replica.execute_as_admin("update keepstream.progress set place = ''")
    assert trimming.trim() is None


def test_p12_a_replica_that_is_away_keeps_what_it_needed_when_it_was_last_seen(trimming: Trimming) -> None:
    trimming.replica_at(250)
    assert trimming.trim(dsn=ELSEWHERE) is None
    trimmer = trimming.trimmer()
    trimmer.trim(threading.Event())
    trimming.replica_at(10_000)
    away = trimming.trimmer(dsn=ELSEWHERE)
    away._known = trimmer._known
    assert away.trim(threading.Event()) is None
    assert trimming.standing() == [200, 300, 400]


def test_p12_a_replica_that_was_equal_from_the_beginning_keeps_everything_until_it_began(
    trimming: Trimming,
) -> None:
    assert trimming.trim(initial=Initial.NONE) is None
    assert trimming.trim(initial=Initial.COPY) == 400


def test_capture_trims_by_itself_and_everything_goes_on(pipeline: Pipeline) -> None:
    """A table that joins makes an anchor, so the log need not be large."""
    for side in (pipeline.source, pipeline.replica):
        side.execute("create table customer (id int primary key)")
    pipeline.settings["replicas"]["standby"]["initial"] = "none"
    pipeline.settings["log"]["retain"] = "1s"
    pipeline.write_config()
    pipeline.start("capture")
    applying = pipeline.start("apply", "standby")
    pipeline.wait()
    pipeline.source.execute("create table late (id int primary key); insert into late values (1)")
    pipeline.until(lambda: "log trimmed" in pipeline.outputs(), "a trimmed log", 60)
    assert applying.end() == 0
    pipeline.start("apply", "standby")
    pipeline.source.execute("insert into customer select i from generate_series(1, 100) i")
    pipeline.wait()
    assert [table["rows"] for table in pipeline.verify()["tables"]] == [100, 1]
    first = pipeline.run("log", "ls", "--json", "--limit", "0").stdout.splitlines()[0]
    assert '"kind":"anchor"' in first
