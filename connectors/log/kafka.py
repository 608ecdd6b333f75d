"""The change log in Kafka: topic `<name>.log`, one partition, and `<name>.status` for reports.

A place is an offset. No Kafka transaction is used and none is trusted (P8); Kafka's own retention is off,
Keepstream trims (P12).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kafka import TopicPartition

from connectors.ahead import Ahead
from connectors.interfaces import Bounds
from connectors.log.kafka_clients import KafkaClients, close_producer
from connectors.log.kafka_errors import log_missing, translated
from connectors.log.kafka_findings import judge_topic
from connectors.log.kafka_reader import KafkaReader
from connectors.log.kafka_reports import KafkaReportPublisher, KafkaReportReader
from connectors.log.kafka_settings import translate
from connectors.log.kafka_topic import (
    WANTED_REPLICATION,
    count_brokers,
    create_log_topic,
    create_status_topic,
    delete_topics,
    find_topic,
    find_topic_id,
)
from connectors.log.kafka_writer import KafkaWriter
from connectors.log.limits import refuse_oversized
from schemas.errors import OperatorNeeded, PlaceTrimmed
from schemas.finding import Finding, Severity

# More than a writer has in flight, so that a frozen one's late records are never all that is found.
_REWIND_RECORDS = 256


class KafkaLog:
    """A `ChangeLog` in one Kafka cluster. Nothing is connected to before it is needed or expected."""

    def __init__(
        self,
        servers: list[str],
        name: str,
        *,
        replication: int | None = None,
        client: Mapping[str, str] | None = None,
        patience_s: float | None = None,
    ) -> None:
        self._servers = servers
        self._topic = f"{name}.log"
        self._status_topic = f"{name}.status"
        self._replication = replication
        self._clients = KafkaClients(
            servers, translate(client or {}), client_id=f"keepstream-{name}", patience_s=patience_s
        )
        self._next_producer = Ahead(self._new_producer, close_producer)
        self._publisher = self._new_publisher()
        self._reports = KafkaReportReader(self._clients, self._status_topic)

    @property
    def name(self) -> str:
        return f"{self._clients.where}/{self._topic}"

    def exists(self) -> bool:
        return find_topic_id(self._clients, self._topic) is not None

    def create(self) -> None:
        """See `ChangeLog.create`."""
        create_log_topic(self._clients, self._topic, self._replication)
        create_status_topic(self._clients, self._status_topic, self._replication)
        for finding in self._judge():
            if finding.severity is Severity.ERROR:
                raise OperatorNeeded(
                    finding.message, code=finding.code, hint=f"Run: {finding.fix}" if finding.fix else ""
                )

    def bounds(self) -> Bounds:
        """See `ChangeLog.bounds`."""
        offsets = self._clients.offsets(self._topic)
        if offsets is None:
            raise log_missing(self.name)
        return Bounds(*offsets)

    def rewind(self, place: int, times: int = 1, *, first: int) -> int:
        """See `ChangeLog.rewind`."""
        return max(first, place - times * _REWIND_RECORDS)

    def reader(self, place: int | None = None) -> KafkaReader:
        return KafkaReader(self._clients, self._topic, place)

    def expect_epoch(self) -> None:
        """See `ChangeLog.expect_epoch`."""
        self._next_producer.begin()

    def expect_reader(self) -> None:
        """See `ChangeLog.expect_reader`."""
        self._clients.expect_reader(lambda: self._topic if self.exists() else None)

    def begin_epoch(self, epoch: int, record: bytes, *, is_ignorable: Callable[[bytes], bool]) -> KafkaWriter:
        """See `ChangeLog.begin_epoch`. Kafka knows no epochs: what is in `record` is what counts (P5)."""
        refuse_oversized(record)
        topic_id = find_topic_id(self._clients, self._topic)
        if topic_id is None:
            raise log_missing(self.name)
        made = self._next_producer.take()
        writer = KafkaWriter(
            self._clients,
            self._topic,
            self._new_producer() if made is None else made,
            topic_id=topic_id,
            is_ignorable=is_ignorable,
        )
        writer.begin(record)
        return writer

    def trim(self, before: int) -> None:
        """See `ChangeLog.trim`."""
        first, end = self.bounds().first, self.bounds().end
        if before > end:
            raise PlaceTrimmed(
                f"{self.name} ends at offset {end} and cannot be trimmed to {before}",
                code="log-trimmed",
                hint="Nothing to do: the place is of another log.",
            )
        if before > first:
            with translated(self.name):
                self._clients.admin().delete_records({TopicPartition(self._topic, 0): before})

    def inspect(self) -> list[Finding]:
        """See `ChangeLog.inspect`. Raises RetryLater, LoginRefused."""
        topic = find_topic(self._clients, self._topic)
        if topic is not None:
            return [*self._judge(), *self._look_for_status_topic()]
        brokers = count_brokers(self._clients)
        copies = self._replication or min(WANTED_REPLICATION, brokers)
        if copies > brokers:
            return [self._too_few_brokers(copies, brokers)]
        message = f"topic {self._topic} will be made with {copies} replicas"
        findings = [Finding(Severity.OK, "log-topic", self._clients.where, self._topic, message)]
        if copies == 1:
            message = f"topic {self._topic} will have 1 replica: what is captured is lost with that disk"
            warning = Finding(
                Severity.WARNING, "log-topic-replication", self._clients.where, "replication", message
            )
            findings.append(warning)
        return findings

    def put_report(self, stage: str, report: bytes) -> None:
        self._publisher.put(stage, report)

    def reports(self) -> Mapping[str, bytes]:
        return self._reports.newest()

    def destroy(self) -> str:
        """See `ChangeLog.destroy`."""
        self._publisher.close()  # a late report would come into a topic made anew
        self._publisher = self._new_publisher()
        self._reports.close()
        delete_topics(self._clients, [self._topic, self._status_topic])
        return ""

    def close(self) -> None:
        self._next_producer.close()
        self._publisher.close()
        self._reports.close()
        self._clients.close()

    def _new_producer(self) -> Any:
        return self._clients.producer_of(self._topic)

    def _new_publisher(self) -> KafkaReportPublisher:
        return KafkaReportPublisher(self._clients, self._status_topic, self._make_status_topic)

    def _make_status_topic(self) -> None:
        """Unless it is there. A log that is gone gets none: nobody would delete that again."""
        if find_topic_id(self._clients, self._status_topic) is not None:
            return
        if not self.exists():
            raise log_missing(self.name)
        create_status_topic(self._clients, self._status_topic, self._replication)

    def _look_for_status_topic(self) -> list[Finding]:
        if find_topic_id(self._clients, self._status_topic) is not None:
            return []
        message = f"topic {self._status_topic} does not exist: `status` sees no stage until one makes it anew"
        fix = (
            f"kafka-topics.sh --bootstrap-server {','.join(self._servers)} --create"
            f" --topic {self._status_topic} --partitions 1 --config cleanup.policy=compact,delete"
        )
        where, code = self._clients.where, "status-topic-missing"
        return [Finding(Severity.WARNING, code, where, self._status_topic, message, fix)]

    def _judge(self) -> list[Finding]:
        topic = find_topic(self._clients, self._topic)
        if topic is None:
            raise log_missing(self.name)
        return judge_topic(
            topic,
            where=self._clients.where,
            servers=",".join(self._servers),
            name=self._topic,
            brokers=count_brokers(self._clients),
        )

    def _too_few_brokers(self, copies: int, brokers: int) -> Finding:
        return Finding(
            Severity.ERROR,
            "log-replication-impossible",
            self._clients.where,
            "log.replication",
            f"{copies} replicas are wanted, but there are only {brokers} brokers",
            fix=f"log: {{replication: {brokers}}}",
            exit_code=3,
        )
