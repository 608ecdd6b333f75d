"""The log and a Kafka cluster: topics with wrong settings, brokers away, TLS and logins."""

from __future__ import annotations

import gc
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, TopicPartition
from kafka.net.inet import KafkaNetSocket

from connectors.interfaces import ChangeLog
from connectors.log import kafka_clients, open_log
from connectors.log.kafka import KafkaLog
from connectors.log.kafka_sockets import DIRECT_URL
from pipeline.dev.kafka_server import EmbeddedKafka
from pipeline.dev.process import free_port, require
from schemas.errors import HistoryBroken, KeepstreamError, LoginRefused, OperatorNeeded, RetryLater
from schemas.finding import Finding, Severity
from tests.certificates import ServerCertificates, make_certificates
from tests.contract.conftest import new_name
from tests.contract.logs import append_all, begin, read_all, read_count, start_of


@pytest.fixture
def admin(kafka_server: str) -> Iterator[Any]:
    client = KafkaAdminClient(bootstrap_servers=kafka_server)
    yield client
    client.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up on a cluster that does not answer after two seconds."""
    monkeypatch.setattr(kafka_clients, "_BOOTSTRAP_MS", 2000)


def test_an_existing_topic_that_would_lose_data_is_refused_with_the_command(
    kafka_server: str, admin: Any
) -> None:
    name = new_name()
    settings = {"cleanup.policy": "compact", "retention.ms": "3600000"}
    admin.create_topics(
        {f"{name}.log": {"num_partitions": 1, "replication_factor": 1, "configs": settings}},
        wait_for_metadata=True,
    )
    log = open_log(f"kafka://{kafka_server}", name)
    with pytest.raises(OperatorNeeded) as raised:
        log.create()
    assert raised.value.code == "log-topic-compacted"
    assert raised.value.hint == (
        f"Run: kafka-configs.sh --bootstrap-server {kafka_server} --alter --entity-type topics"
        f" --entity-name {name}.log --add-config cleanup.policy=delete"
    )
    severities = {finding.code: finding.severity for finding in log.inspect()}
    assert severities["log-topic-compacted"] is Severity.ERROR
    assert severities["log-topic-retention"] is Severity.WARNING
    log.destroy()
    log.close()


def test_inspect_of_a_log_that_does_not_exist_makes_nothing(kafka_server: str, admin: Any) -> None:
    name = new_name()
    log = open_log(f"kafka://{kafka_server}", name)
    codes = [finding.code for finding in log.inspect()]
    assert codes == ["log-topic", "log-topic-replication"]
    assert not [topic for topic in admin.list_topics() if topic.startswith(name)]
    log.close()


def test_more_replicas_than_brokers_is_an_error_of_the_file(kafka_server: str) -> None:
    log = open_log(f"kafka://{kafka_server}", new_name(), replication=3)
    finding = log.inspect()[0]
    assert (finding.severity, finding.code, finding.exit_code) == (
        Severity.ERROR,
        "log-replication-impossible",
        3,
    )
    assert finding.message == "3 replicas are wanted, but there are only 1 brokers"
    log.close()


def test_writing_to_a_log_without_topic_makes_none(kafka_server: str, admin: Any) -> None:
    name = new_name()
    log = open_log(f"kafka://{kafka_server}", name)
    with pytest.raises(HistoryBroken) as raised:
        begin(log, 1)
    assert raised.value.code == "log-missing"
    assert f"{name}.log" not in admin.list_topics()
    log.close()


def test_a_cluster_that_cannot_be_reached_is_retried_later_and_not_logged_about(
    impatient: None, capfd: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    log = open_log(f"kafka://127.0.0.1:{port}", "crm")
    before = time.monotonic()
    with pytest.raises(RetryLater) as raised:
        log.exists()
    assert time.monotonic() - before < 10
    assert raised.value.code == "log-unreachable"
    assert f"kafka://127.0.0.1:{port}" in raised.value.message
    assert "REFUSED" in raised.value.message, "the reason must be said"
    assert capfd.readouterr().err == ""
    log.close()


def test_a_cluster_that_is_away_does_not_cost_a_thread_and_its_sockets_per_try(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kafka_clients, "_BOOTSTRAP_MS", 50)
    log = open_log(f"kafka://127.0.0.1:{free_port()}", "crm")

    def after(tries: int) -> tuple[int, int]:
        for _ in range(tries):
            with pytest.raises(RetryLater):
                log.exists()
        return threading.active_count(), open_files()

    with without_collector():
        assert after(10) == after(1)
    log.close()


def test_the_log_of_a_broker_that_went_away_says_so_and_works_again_when_it_is_back(
    own_kafka: EmbeddedKafka, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log(f"kafka://{own_kafka.bootstrap}", new_name())
    log.create()
    writer = begin(log, 1)
    own_kafka.crash()
    tries = count_tries(monkeypatch)
    deadline = time.monotonic() + 30
    with pytest.raises(RetryLater) as raised:
        ask_until(log, deadline)
    assert raised.value.code == "log-unreachable"
    with without_collector():
        tries.clear()
        before = open_files()
        require(lambda: len(tries) >= 3, 20, what="that clients try again by themselves")
        require(lambda: open_files() <= before, 10, what="no more sockets than before")
    own_kafka.start()
    deadline = time.monotonic() + 30
    while True:
        try:
            assert log.bounds().end == 1
            break
        except RetryLater:
            assert time.monotonic() < deadline
    assert append_all(writer, [b"a"]) == 1
    writer.close()
    log.close()


def count_tries(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """One of each time that a client connects."""
    tries: list[Any] = []
    connect = KafkaNetSocket.sock_connect

    async def counted(kind: Any, net: Any, *given: Any, **named: Any) -> Any:
        tries.append(net)
        return await connect(kind, net, *given, **named)

    monkeypatch.setattr(KafkaNetSocket, "sock_connect", counted)
    return tries


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def report_until_it_arrives(log: ChangeLog, report: bytes, timeout_s: float) -> None:
    """Whatever becomes of earlier ones."""
    deadline = time.monotonic() + timeout_s
    while log.reports() != {"capture": report}:
        assert time.monotonic() < deadline
        with suppress(KeepstreamError):
            log.put_report("capture", report)
        time.sleep(0.2)


def test_kafka_s_clients_take_at_once_what_their_socket_holds() -> None:
    """And not 4 KiB by 4 KiB, as kafka-python asks for it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = KafkaNetSocket(DIRECT_URL).socket(socket.AF_INET, socket.SOCK_STREAM, 0)
        with client:
            client.connect(server.getsockname())
            broker, _ = server.accept()
            with broker:
                broker.sendall(bytes(50_000))
            require(lambda: len(client.recv(50_000, socket.MSG_PEEK)) == 50_000, 10, what="the bytes")
            assert len(client.recv(4096)) == 50_000


def test_a_client_that_stands_still_is_replaced_by_one_that_reads_on(
    kafka_server: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that brings no records, and no error either."""
    monkeypatch.setattr("connectors.log.kafka_reader._STANDS_STILL_S", 0.3)
    log = KafkaLog([kafka_server], new_name())
    log.create()
    writer = begin(log, 1)
    reader = log.reader()
    assert len(read_count(reader, 1)) == 1
    stands_still = reader._consumer

    def poll(timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Any]]:
        time.sleep(timeout_ms / 1000)
        return {}

    monkeypatch.setattr(stands_still, "poll", poll)
    assert reader.read(0.5) == []
    assert reader._consumer is stands_still  # there is nothing to bring
    append_all(writer, [b"more"])
    assert [record.value for record in read_count(reader, 1)] == [b"more"]
    assert "a Kafka client stands still: another one reads on" in caplog.messages
    reader.close()
    writer.close()
    log.close()


def test_a_consumer_that_has_read_works_in_its_reader_s_thread_and_after_it_in_its_own(
    kafka_log: ChangeLog,
) -> None:
    """Two threads that give each other the GIL at each poll cost a busy machine more than the records."""
    writer = begin(kafka_log, 1)
    before = kafka_threads()
    for _ in range(2):  # the second time with the consumer of the first
        reader = kafka_log.reader()
        assert read_count(reader, 1)[0].value == start_of(1)
        assert kafka_threads() == before
        reader.close()
        assert kafka_threads() == before + 1
    reader = kafka_log.reader()
    append_all(writer, [b"1"])
    assert [record.value for record in read_count(reader, 2)] == [start_of(1), b"1"]
    assert reader.read(0.05) == []
    append_all(writer, [b"2"])  # answers a request that is on its way
    assert [record.value for record in read_count(reader, 1)] == [b"2"]
    reader.close()
    writer.close()


def test_a_reader_that_asks_for_nothing_for_longer_than_a_request_may_take_reads_on_at_once(
    kafka_log: ChangeLog, kafka_server: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As apply does while a large transaction keeps the replica busy: nobody else works for its consumer."""
    writer = begin(kafka_log, 1)
    limit_s = 0.5
    log = open_log(
        f"kafka://{kafka_server}",
        kafka_log.name.rpartition("/")[2].removesuffix(".log"),
        client={"request.timeout.ms": f"{limit_s * 1000:.0f}"},
    )
    reader = log.reader()
    read_count(reader, 1)
    assert reader.read(0.0) == []  # its request is on its way
    append_all(writer, [b"1"])
    time.sleep(limit_s * 1.2)
    assert [record.value for record in reader.read(limit_s / 2)] == [b"1"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    for each in (reader, log, writer):
        each.close()


def kafka_threads() -> int:
    return sum(thread.name.startswith("kafka-io-") for thread in threading.enumerate())


@pytest.mark.parametrize("is_there", [True, False])
def test_a_reader_that_was_expected_knows_its_topic_before_it_is_first_read_from(
    kafka_server: str, is_there: bool
) -> None:
    """One that is missing it would ask for again and again."""
    log = KafkaLog([kafka_server], new_name())
    if is_there:
        log.create()
    log.expect_reader()
    consumer = log._clients.consumer()
    topic = log.name.rpartition("/")[2]
    assert consumer.assignment() == ({TopicPartition(topic, 0)} if is_there else set())
    consumer.close()
    log.close()


def test_a_status_topic_that_was_deleted_is_found_and_made_anew_by_who_reports(
    kafka_log: ChangeLog, kafka_server: str, admin: Any
) -> None:
    name = kafka_log.name.rpartition("/")[2].removesuffix(".log")
    report_until_it_arrives(kafka_log, b"1", 10)
    admin.delete_topics([f"{name}.status"])
    found: list[Finding] = []

    def is_missing() -> bool:
        found[:] = [finding for finding in kafka_log.inspect() if finding.code == "status-topic-missing"]
        return bool(found)

    require(is_missing, 10, what="the broker's forgetting the topic")
    assert [(finding.severity, finding.message, finding.fix) for finding in found] == [
        (
            Severity.WARNING,
            f"topic {name}.status does not exist: `status` sees no stage until one makes it anew",
            f"kafka-topics.sh --bootstrap-server {kafka_server} --create --topic {name}.status"
            " --partitions 1 --config cleanup.policy=compact,delete",
        )
    ]
    report_until_it_arrives(kafka_log, b"2", 50)
    assert not [finding for finding in kafka_log.inspect() if finding.code == "status-topic-missing"]
    admin.delete_topics([f"{name}.status"])
    restarted = open_log(f"kafka://{kafka_server}", name)
    report_until_it_arrives(restarted, b"3", 10)
    restarted.close()


def test_a_report_makes_no_status_topic_beside_a_log_that_is_gone(kafka_log: ChangeLog, admin: Any) -> None:
    kafka_log.destroy()
    with pytest.raises(HistoryBroken) as raised:
        report_until(kafka_log, time.monotonic() + 10)
    assert raised.value.code == "log-missing"
    name = kafka_log.name.rpartition("/")[2].removesuffix(".log")
    assert not [topic for topic in admin.list_topics() if topic.startswith(name)]


@contextmanager
def without_collector() -> Iterator[None]:
    """In our processes it hardly ever runs (pipeline.memory)."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def report_until(log: ChangeLog, deadline: float) -> None:
    while time.monotonic() < deadline:
        log.put_report("capture", b"{}")
        time.sleep(0.05)


def ask_until(log: ChangeLog, deadline: float) -> None:
    while time.monotonic() < deadline:
        log.bounds()


def test_a_report_never_makes_a_stage_wait_for_a_cluster_that_is_away(impatient: None) -> None:
    log = open_log(f"kafka://127.0.0.1:{free_port()}", "crm")
    before = time.monotonic()
    log.put_report("capture", b"{}")
    assert time.monotonic() - before < 1
    deadline = time.monotonic() + 30
    with pytest.raises(RetryLater):
        report_until(log, deadline)
    log.close()


def test_a_report_that_the_broker_refuses_is_told_to_whoever_puts_the_next(kafka_log: ChangeLog) -> None:
    kafka_log.put_report("apply:standby", os.urandom(2_000_000))  # under the same key the next replaces it
    with pytest.raises(OperatorNeeded) as refused:
        report_until(kafka_log, time.monotonic() + 10)
    assert refused.value.code == "log-record-too-large"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> ServerCertificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def secured(
    tmp_path_factory: pytest.TempPathFactory,
    run_folder: Path,
    kafka_server: str,
    certificates: ServerCertificates,
) -> Iterator[str]:
    """The address of a broker that speaks TLS and asks for a password."""
    folder = run_folder / f"secured-{tmp_path_factory.getbasetemp().name}-{new_name()}"
    plain, secure, controller = free_port(), free_port(), free_port()
    users = 'user_admin="admin-secret" user_keepstream="right-secret"'
    login = f'org.apache.kafka.common.security.plain.PlainLoginModule required username="admin" {users};'
    settings = {
        "listeners": f"PLAINTEXT://127.0.0.1:{plain},SECURE://127.0.0.1:{secure},"
        f"CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{plain},SECURE://127.0.0.1:{secure}",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL",
        "listener.name.secure.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.secure.plain.sasl.jaas.config": login,
        "listener.name.secure.ssl.keystore.type": "PEM",
        "listener.name.secure.ssl.keystore.certificate.chain": _property(certificates.chain),
        "listener.name.secure.ssl.keystore.key": _property(certificates.key),
    }
    server = PortedKafka(folder, settings, plain)
    server.start()
    yield f"127.0.0.1:{secure}"
    server.crash()


class PortedKafka(EmbeddedKafka):
    """One whose plain port was chosen by the test, which had to write the listeners."""

    def __init__(self, folder: Path, settings: Mapping[str, str], port: int) -> None:
        super().__init__(folder, settings=settings)
        self._port = port

    def _write_properties(self, *, controller_port: int, data: Path) -> Path:
        from dataclasses import replace

        from pipeline.dev.record import write_record

        write_record(self.folder, replace(self._record(), port=self._port))
        return super()._write_properties(controller_port=controller_port, data=data)


def _property(pem: str) -> str:
    return pem.replace("\n", "\\n")


def client_of(certificates: ServerCertificates, **changed: str) -> dict[str, str]:
    return {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "keepstream",
        "sasl.password": "right-secret",
        "ssl.ca.location": str(certificates.ca),
    } | {name.replace("_", "."): value for name, value in changed.items()}


def test_a_login_over_tls_writes_and_reads(secured: str, certificates: ServerCertificates) -> None:
    log = open_log(f"kafka://{secured}", new_name(), client=client_of(certificates))
    log.create()
    writer = begin(log, 1)
    append_all(writer, [b"a"])
    assert read_all(log) == [start_of(1), b"a"]
    writer.close()
    log.destroy()
    log.close()


def refused(secured: str, client: Mapping[str, str], caplog: pytest.LogCaptureFixture) -> KeepstreamError:
    caplog.set_level(logging.DEBUG, logger="kafka")  # as --log-level debug does
    log = open_log(f"kafka://{secured}", new_name(), client=client)
    with caplog.at_level(logging.DEBUG), pytest.raises(KeepstreamError) as raised:
        log.exists()
    log.close()
    said = f"{raised.value.message}{raised.value.hint}{caplog.text}"
    assert "secret" not in said
    return raised.value


def test_a_wrong_password_is_told_from_a_broker_that_is_away(
    secured: str,
    certificates: ServerCertificates,
    impatient: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    error = refused(secured, client_of(certificates, sasl_password="wrong-secret"), caplog)
    assert error.exit_code == 5
    assert "sasl.password" in error.hint
    assert is_refusal(error)


def is_refusal(error: KeepstreamError) -> bool:
    """kafka-python drops the broker's answer where its connection ends with it."""
    return isinstance(error, LoginRefused) or "disconnected" in error.message


def test_a_broker_whose_certificate_we_do_not_trust_gets_no_password(
    secured: str,
    certificates: ServerCertificates,
    impatient: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    error = refused(secured, client_of(certificates, ssl_ca_location=str(certificates.other_ca)), caplog)
    assert isinstance(error, LoginRefused)
    assert error.code == "log-authentication"
    assert "certificate" in error.message.lower()


@pytest.mark.parametrize("refused", ["sasl_password", "ssl_ca_location", "malformed"])
def test_a_login_that_is_refused_costs_no_file(
    secured: str, certificates: ServerCertificates, impatient: None, tmp_path: Path, refused: str
) -> None:
    malformed = tmp_path / "ca.pem"
    malformed.write_text("no certificate")
    wrong = {
        "sasl_password": {"sasl_password": "wrong"},
        "ssl_ca_location": {"ssl_ca_location": str(certificates.other_ca)},
        "malformed": {"ssl_ca_location": str(malformed)},
    }
    log = open_log(f"kafka://{secured}", new_name(), client=client_of(certificates, **wrong[refused]))

    def after(tries: int) -> int:
        for _ in range(tries):
            with pytest.raises(KeepstreamError) as raised:
                log.exists()
            assert is_refusal(raised.value) or "no certificate" in raised.value.message
        return open_files()

    with without_collector():
        assert after(2) == after(1)
    log.close()


def test_a_certificate_file_that_is_not_there_is_an_error_of_the_file(
    secured: str,
    certificates: ServerCertificates,
    impatient: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    error = refused(secured, client_of(certificates, ssl_ca_location="/nowhere/ca.pem"), caplog)
    assert (error.code, error.exit_code) == ("kafka-setting-invalid", 3)
    assert "/nowhere/ca.pem" in error.message


def client_with(certificates: ServerCertificates, protocol: str) -> dict[str, str]:
    """What belongs to the protocol alone: more is refused by us."""
    words = ("security", *(word for word in ("sasl", "ssl") if word.upper() in protocol.split("_")))
    client = client_of(certificates, security_protocol=protocol)
    return {name: value for name, value in client.items() if name.partition(".")[0] in words}


def assert_reached(error: KeepstreamError) -> None:
    assert error.exit_code == 5
    assert "heck log.client: security.protocol, sasl.mechanism, " in error.hint


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SSL", "SASL_SSL"])
def test_a_plain_listener_that_is_addressed_otherwise_is_not_out_of_reach(
    kafka_server: str,
    certificates: ServerCertificates,
    impatient: None,
    caplog: pytest.LogCaptureFixture,
    protocol: str,
) -> None:
    error = refused(kafka_server, client_with(certificates, protocol), caplog)
    assert_reached(error)
    assert isinstance(error, LoginRefused) is (protocol == "SASL_PLAINTEXT")


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL", "SASL_PLAINTEXT"])
def test_a_listener_with_logins_over_tls_that_is_addressed_otherwise_is_not_out_of_reach(
    secured: str,
    certificates: ServerCertificates,
    impatient: None,
    caplog: pytest.LogCaptureFixture,
    protocol: str,
) -> None:
    assert_reached(refused(secured, client_with(certificates, protocol), caplog))


def test_a_mechanism_that_the_broker_does_not_know_is_not_a_broker_out_of_reach(
    secured: str, certificates: ServerCertificates, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    assert_reached(refused(secured, client_of(certificates, sasl_mechanism="SCRAM-SHA-512"), caplog))
