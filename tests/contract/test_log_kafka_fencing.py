"""P8 in Kafka: what an acknowledgement does not prove, and P12: offsets that Kafka must not choose."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType

from connectors.interfaces import ChangeLog
from connectors.log import kafka_reader, kafka_writer, open_log
from connectors.log.kafka_clients import KafkaClients
from connectors.log.kafka_topic import find_topic_id
from pipeline.dev.kafka_server import EmbeddedKafka
from pipeline.dev.process import require
from schemas.errors import HistoryBroken, LogFenced, OperatorNeeded, PlaceTrimmed
from tests.contract.conftest import new_name
from tests.contract.logs import append_all, begin, read_all, read_count, start_of, wait_durable


@pytest.fixture
def admin(kafka_server: str) -> Iterator[Any]:
    client = KafkaAdminClient(bootstrap_servers=kafka_server)
    yield client
    client.close()


@pytest.fixture
def stranger(kafka_server: str) -> Iterator[Any]:
    """A producer that trusts acknowledgements, as most programs do."""
    producer = KafkaProducer(bootstrap_servers=kafka_server, acks="all", metrics_enabled=False)
    yield producer
    producer.close(timeout=5)


def topic_of(log: ChangeLog) -> str:
    return log.name.rpartition("/")[2]


def make_anew(admin: Any, topic: str) -> None:
    admin.delete_topics([topic])
    deadline = time.monotonic() + 20
    while admin.describe_topics([topic])[0]["error_code"] == 0:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    wanted = {topic: {"num_partitions": 1, "replication_factor": 1}}
    admin.create_topics(wanted, wait_for_metadata=True)


def test_p8_a_foreign_capture_start_between_our_records_fences_us(kafka_log: ChangeLog) -> None:
    old = begin(kafka_log, 1)
    append_all(old, [b"ours"])
    new = begin(kafka_log, 2)
    old.append(b"stale")
    with pytest.raises(LogFenced) as raised:
        wait_durable(old, 2)
    assert raised.value.code == "log-fenced"
    # Without the rule the slot would now be confirmed past it: Kafka has acknowledged the record.
    assert read_all(kafka_log) == [start_of(1), b"ours", start_of(2), b"stale"]
    with pytest.raises(LogFenced):
        old.append(b"more")
    append_all(new, [])
    for writer in (old, new):
        writer.close()


def test_p8_what_was_proven_before_the_fence_stays_proven(kafka_log: ChangeLog) -> None:
    old = begin(kafka_log, 1)
    old.append(b"ours")
    wait_for_records(kafka_log, 2)
    new = begin(kafka_log, 2)
    old.append(b"stale")
    wait_for_records(kafka_log, 4)
    assert old.durable(5) == 1
    with pytest.raises(LogFenced):
        old.durable(5)
    for writer in (old, new):
        writer.close()


def wait_for_records(log: ChangeLog, count: int) -> None:
    deadline = time.monotonic() + 20
    while log.bounds().end < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_p8_a_gap_of_ignorable_records_does_not_stop_us(kafka_log: ChangeLog, stranger: Any) -> None:
    writer = begin(kafka_log, 1, ignorable=(b"noise",))
    append_all(writer, [b"a"])
    for _ in range(3):
        stranger.send(topic_of(kafka_log), b"noise").get(10)
    assert append_all(writer, [b"b", b"c"]) == 3
    stranger.send(topic_of(kafka_log), b"noise").get(10)
    assert append_all(writer, [b"d"]) == 4
    assert [value for value in read_all(kafka_log) if value != b"noise"] == [
        start_of(1),
        *(b"a", b"b", b"c", b"d"),
    ]
    writer.close()


def test_p8_one_record_in_a_gap_that_readers_do_not_ignore_fences_us(
    kafka_log: ChangeLog, stranger: Any
) -> None:
    writer = begin(kafka_log, 1, ignorable=(b"noise",))
    for value in (b"noise", b"a frame", b"noise"):
        stranger.send(topic_of(kafka_log), value).get(10)
    writer.append(b"ours")
    with pytest.raises(LogFenced) as raised:
        wait_durable(writer, 1)
    assert raised.value.message.endswith("another capture wrote at offset 2, between our records")
    writer.close()


def test_p8_a_transaction_marker_in_a_gap_fences_us(kafka_log: ChangeLog, kafka_server: str) -> None:
    """It takes an offset, and no reader is ever shown what stands there."""
    writer = begin(kafka_log, 1, ignorable=(b"noise",))
    producer = KafkaProducer(bootstrap_servers=kafka_server, transactional_id=new_name())
    producer.init_transactions()
    producer.begin_transaction()
    producer.send(topic_of(kafka_log), b"noise").get(10)
    producer.commit_transaction()
    producer.close(timeout=5)
    wait_for_records(kafka_log, 3)  # the marker is written behind the commit
    writer.append(b"ours")
    with pytest.raises(LogFenced):
        wait_durable(writer, 1)
    writer.close()


def test_p8_a_topic_made_anew_under_us_is_found_by_its_lower_offset(
    kafka_log: ChangeLog, admin: Any, stranger: Any
) -> None:
    topic = topic_of(kafka_log)
    writer = begin(kafka_log, 1)
    append_all(writer, [b"a", b"b"])
    stranger.send(topic, b"warm").get(10)
    make_anew(admin, topic)
    acknowledged = stranger.send(topic, b"trusting").get(10)
    assert acknowledged.offset == 0, "a producer that trusts its acknowledgement notices nothing"
    writer.append(b"lost with the topic")
    with pytest.raises(LogFenced):
        wait_durable(writer, 3)
    writer.close()


def test_p8_a_topic_made_anew_is_found_even_if_the_offsets_go_on(
    kafka_log: ChangeLog, admin: Any, stranger: Any
) -> None:
    topic = topic_of(kafka_log)
    writer = begin(kafka_log, 1)
    append_all(writer, [b"a", b"b"])
    make_anew(admin, topic)
    for _ in range(3):
        stranger.send(topic, b"a foreign history of the same length").get(10)
    writer.append(b"contiguous")
    with pytest.raises(LogFenced) as raised:
        wait_durable(writer, 3)
    assert raised.value.code == "log-recreated"
    writer.close()


def test_p8_the_topic_is_looked_at_seldom_while_many_records_come(
    kafka_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []

    def look(clients: KafkaClients, topic: str) -> str | None:
        looks.append(time.monotonic())
        return find_topic_id(clients, topic)

    writer = begin(kafka_log, 1)
    monkeypatch.setattr(kafka_writer, "find_topic_id", look)
    with monkeypatch.context() as patch:
        patch.setattr(kafka_writer, "_PROOF_SOON_S", 60.0)
        for _ in range(100):
            writer.append(b"one")
            writer.append(b"another")
            while not writer.is_idle(1.0):
                pass
            writer.durable(0.0)
    assert len(looks) <= 2 + (looks[-1] - looks[0]) / kafka_writer._PROOF_EVERY_S
    wait_durable(writer, 200)


def test_p8_a_failed_send_voids_everything_after_it(kafka_log: ChangeLog, admin: Any) -> None:
    """The broker refuses one record and takes the next: only what lies before the first counts."""
    resource = ConfigResource(
        ConfigResourceType.TOPIC, topic_of(kafka_log), configs={"max.message.bytes": "100000"}
    )
    writer = begin(kafka_log, 1)
    append_all(writer, [b"a"])
    admin.alter_configs([resource])
    writer.append(os.urandom(200_000))
    writer.append(b"behind it")
    with pytest.raises(OperatorNeeded) as raised:
        wait_durable(writer, 2)
    assert raised.value.code == "log-record-too-large"
    with pytest.raises(OperatorNeeded):
        writer.append(b"more")
    assert read_all(kafka_log)[:2] == [start_of(1), b"a"]
    writer.close()


def test_p8_a_send_that_times_out_is_never_called_durable(own_kafka: EmbeddedKafka) -> None:
    """The broker is frozen, then goes on: the record may be there or not, and the producer is gone."""
    log = open_log(
        f"kafka://{own_kafka.bootstrap}",
        new_name(),
        client={"delivery.timeout.ms": "2000", "request.timeout.ms": "1500"},
    )
    log.create()
    writer = begin(log, 1)
    append_all(writer, [b"a"])
    assert own_kafka.pid is not None
    os.kill(own_kafka.pid, signal.SIGSTOP)
    tasks = Path(f"/proc/{own_kafka.pid}/task")
    require(lambda: all(") T " in stat.read_text() for stat in tasks.glob("*/stat")), 10, what="the freezing")
    try:
        writer.append(b"into the void")
        with pytest.raises(LogFenced):
            wait_durable(writer, 2)
    finally:
        os.kill(own_kafka.pid, signal.SIGCONT)
    writer.close()
    following = begin_when_back(log, 2)
    append_all(following, [b"b"])
    values = read_all(log)
    assert values[:2] == [start_of(1), b"a"]
    assert values[-2:] == [start_of(2), b"b"]
    following.close()
    log.close()


def begin_when_back(log: ChangeLog, epoch: int) -> Any:
    deadline = time.monotonic() + 60
    while True:
        try:
            return begin(log, epoch)
        except LogFenced:
            assert time.monotonic() < deadline


def test_p8_a_broker_that_restarts_loses_and_doubles_nothing(own_kafka: EmbeddedKafka) -> None:
    log = open_log(f"kafka://{own_kafka.bootstrap}", new_name())
    log.create()
    writer = begin(log, 1)
    reader = log.reader()
    append_all(writer, [b"a"])
    read_count(reader, 2)
    own_kafka.crash()
    writer.append(b"while it is down")
    assert writer.durable(0.5) == 1
    own_kafka.start()
    assert wait_durable(writer, 2) == 2
    append_all(writer, [b"b"])
    assert [record.value for record in read_count(reader, 2)] == [b"while it is down", b"b"]
    assert read_all(log) == [start_of(1), b"a", b"while it is down", b"b"]
    for each in (reader, writer, log):
        each.close()


def test_p12_a_waiting_reader_is_told_when_its_place_is_trimmed(kafka_log: ChangeLog) -> None:
    """auto_offset_reset is none: else Kafka would go on at the newest record, past all between."""
    writer = begin(kafka_log, 1)
    append_all(writer, [b"%d" % number for number in range(5)])
    reader = kafka_log.reader(1)
    assert isinstance(reader, kafka_reader.KafkaReader)
    reader._begin()  # here the place is still in range
    kafka_log.trim(4)
    with pytest.raises(PlaceTrimmed) as raised:
        read_count(reader, 5)
    assert raised.value.code == "log-trimmed"
    assert "offset 1 was trimmed" in raised.value.message
    reader.close()
    writer.close()


def test_p12_kafka_itself_never_deletes_from_the_log(kafka_log: ChangeLog, admin: Any) -> None:
    resource = ConfigResource(ConfigResourceType.TOPIC, topic_of(kafka_log))
    settings = admin.describe_configs([resource], config_filter="all")["topic"][topic_of(kafka_log)]
    wanted = {
        "cleanup.policy": "delete",
        "retention.ms": "-1",
        "retention.bytes": "-1",
        "max.message.bytes": "8388608",
        "min.insync.replicas": "1",
        "unclean.leader.election.enable": "false",
    }
    assert {name: settings[name]["value"] for name in wanted} == wanted
    assert len(admin.describe_topics([topic_of(kafka_log)])[0]["partitions"]) == 1


def test_p12_a_reader_notices_that_the_topic_was_made_anew_though_its_place_exists(
    kafka_log: ChangeLog, admin: Any, stranger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_reader, "_IDENTITY_S", 0.0)
    topic = topic_of(kafka_log)
    writer = begin(kafka_log, 1)
    append_all(writer, [b"a"])
    reader = kafka_log.reader()
    read_count(reader, 2)
    make_anew(admin, topic)
    for number in range(5):
        stranger.send(topic, b"foreign %d" % number).get(10)
    with pytest.raises(HistoryBroken) as raised:
        reader.read(10)
    assert raised.value.code in ("log-recreated", "log-missing")
    reader.close()
    writer.close()


def test_records_of_a_reader_are_where_kafka_says(kafka_log: ChangeLog, admin: Any) -> None:
    writer = begin(kafka_log, 1)
    append_all(writer, [b"a", b"b"])
    admin.delete_records({TopicPartition(topic_of(kafka_log), 0): 1})
    reader = kafka_log.reader()
    assert [(record.place, record.value) for record in read_count(reader, 2)] == [(1, b"a"), (2, b"b")]
    reader.close()
    writer.close()
