"""What `check` must know of the log's topic, each finding with the command that mends it."""

from __future__ import annotations

from connectors.log.kafka_topic import WANTED_REPLICATION, Topic
from connectors.log.limits import MAX_MESSAGE_BYTES
from schemas.finding import Finding, Severity

_DAY_MS = 24 * 3_600_000
_LEAST_RETENTION_MS = 2 * _DAY_MS


def judge_topic(topic: Topic, *, where: str, servers: str, name: str, brokers: int) -> list[Finding]:
    """Findings about an existing topic. The ERRORs are those that lose data or stop the log."""
    judge = _Judge(where, servers, name, topic)
    findings = [
        *judge.partitions(),
        *judge.compaction(),
        *judge.retention(),
        *judge.message_size(),
        *judge.replication(brokers),
        *judge.insync_replicas(),
        *judge.unclean_election(),
    ]
    if not findings:
        message = f"1 partition, {topic.replication} replicas, kept until Keepstream trims it"
        findings = [Finding(Severity.OK, "log-topic", where, name, message)]
    return findings


class _Judge:
    """One topic and the words to speak of it."""

    def __init__(self, where: str, servers: str, name: str, topic: Topic) -> None:
        self._where = where
        self._servers = servers
        self._name = name
        self._topic = topic

    def partitions(self) -> list[Finding]:
        if self._topic.partitions == 1:
            return []
        fix = f"kafka-topics.sh --bootstrap-server {self._servers} --delete --topic {self._name}"
        message = f"has {self._topic.partitions} partitions: the log needs exactly 1 to keep its order"
        return [self._finding(Severity.ERROR, "log-topic-partitions", "partitions", message, fix)]

    def compaction(self) -> list[Finding]:
        policy = self._topic.settings.get("cleanup.policy", "delete")
        if "compact" not in policy:
            return []
        return [
            self._setting(
                Severity.ERROR,
                "log-topic-compacted",
                "cleanup.policy",
                "delete",
                f"is {policy}: compaction deletes transactions from the middle of the log",
            )
        ]

    def retention(self) -> list[Finding]:
        code, findings = "log-topic-retention", list[Finding]()
        kept_ms = int(self._topic.settings.get("retention.ms", "-1"))
        if 0 <= kept_ms < _LEAST_RETENTION_MS:
            message = f"is {kept_ms}: a replica that is down for {_span(kept_ms)} must be copied anew"
            findings.append(self._setting(Severity.WARNING, code, "retention.ms", "-1", message))
        elif kept_ms >= 0:
            message = f"is {kept_ms}: Kafka deletes what a replica down for {_span(kept_ms)} still needs"
            findings.append(self._setting(Severity.NOTE, code, "retention.ms", "-1", message))
        kept_bytes = int(self._topic.settings.get("retention.bytes", "-1"))
        if kept_bytes >= 0:
            message = f"is {kept_bytes}: Kafka deletes by size what a replica may still need"
            findings.append(self._setting(Severity.WARNING, code, "retention.bytes", "-1", message))
        return findings

    def message_size(self) -> list[Finding]:
        size = int(self._topic.settings.get("max.message.bytes", str(MAX_MESSAGE_BYTES)))
        if size >= MAX_MESSAGE_BYTES:
            return []
        return [
            self._setting(
                Severity.ERROR,
                "log-topic-message-size",
                "max.message.bytes",
                str(MAX_MESSAGE_BYTES),
                f"is {size}: a frame can be larger, and the log would stop there",
            )
        ]

    def replication(self, brokers: int) -> list[Finding]:
        copies = self._topic.replication
        if copies > 1:
            return []
        fix = ""
        if brokers > 1:
            fix = (
                f"kafka-reassign-partitions.sh --bootstrap-server {self._servers} --execute"
                f" --reassignment-json-file FILE, with {min(brokers, WANTED_REPLICATION)} replicas for"
                f" partition 0 of {self._name} in FILE"
            )
        message = "has 1 replica: what is captured is lost with that broker's disk"
        return [self._finding(Severity.WARNING, "log-topic-replication", "replication", message, fix)]

    def insync_replicas(self) -> list[Finding]:
        least = int(self._topic.settings.get("min.insync.replicas", "1"))
        copies = self._topic.replication
        if copies > 1 and least < 2:
            message = f"is {least}: an acknowledged record can be on one disk only"
        elif least > copies:
            message = f"is {least} with {copies} replicas: nothing can ever be written"
        elif copies > 1 and least == copies:
            message = f"is {least} of {copies} replicas: capture stands still when one broker is down"
        else:
            return []
        severity = Severity.ERROR if least > copies else Severity.WARNING
        code, value = "log-topic-insync-replicas", str(min(2, copies))
        if value == str(least):
            value = "2 (and give the topic 3 replicas)"
        return [self._setting(severity, code, "min.insync.replicas", value, message)]

    def unclean_election(self) -> list[Finding]:
        if self._topic.settings.get("unclean.leader.election.enable", "false") != "true":
            return []
        return [
            self._setting(
                Severity.WARNING,
                "log-topic-unclean-election",
                "unclean.leader.election.enable",
                "false",
                "is true: a broker that was behind can become leader and drop acknowledged records",
            )
        ]

    def _setting(self, severity: Severity, code: str, setting: str, value: str, message: str) -> Finding:
        fix = (
            f"kafka-configs.sh --bootstrap-server {self._servers} --alter --entity-type topics"
            f" --entity-name {self._name} --add-config {setting}={value}"
        )
        return self._finding(severity, code, setting, message, fix)

    def _finding(self, severity: Severity, code: str, subject: str, message: str, fix: str) -> Finding:
        return Finding(severity, code, self._where, subject, f"topic {self._name} {subject} {message}", fix)


def _span(milliseconds: int) -> str:
    hours = milliseconds / 3_600_000
    return f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.1f} h"
