"""What `check` says of a topic, and the command that mends it, word for word."""

from __future__ import annotations

import pytest

from connectors.log.kafka_findings import judge_topic
from connectors.log.kafka_topic import Topic
from schemas.finding import Finding, Severity

SOUND = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "max.message.bytes": "8388608",
    "min.insync.replicas": "2",
    "unclean.leader.election.enable": "false",
}


def judge(*, partitions: int = 1, replication: int = 3, brokers: int = 3, **settings: str) -> list[Finding]:
    changed = {name.replace("_", "."): value for name, value in settings.items()}
    return judge_topic(
        Topic("id", partitions, replication, SOUND | changed),
        where="kafka://b1:9092",
        servers="b1:9092",
        name="crm.log",
        brokers=brokers,
    )


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


def set_command(setting: str) -> str:
    return (
        "kafka-configs.sh --bootstrap-server b1:9092 --alter --entity-type topics"
        f" --entity-name crm.log --add-config {setting}"
    )


def test_a_sound_topic_is_said_to_be_sound() -> None:
    finding = only(judge())
    assert (finding.severity, finding.code) == (Severity.OK, "log-topic")
    assert finding.message == "1 partition, 3 replicas, kept until Keepstream trims it"


@pytest.mark.parametrize(
    ("settings", "severity", "code", "fix"),
    [
        ({"cleanup_policy": "compact"}, Severity.ERROR, "log-topic-compacted", "cleanup.policy=delete"),
        (
            {"cleanup_policy": "compact,delete"},
            Severity.ERROR,
            "log-topic-compacted",
            "cleanup.policy=delete",
        ),
        ({"retention_ms": "172799999"}, Severity.WARNING, "log-topic-retention", "retention.ms=-1"),
        ({"retention_ms": "172800000"}, Severity.NOTE, "log-topic-retention", "retention.ms=-1"),
        ({"retention_bytes": "1000"}, Severity.WARNING, "log-topic-retention", "retention.bytes=-1"),
        (
            {"max_message_bytes": "1048588"},
            Severity.ERROR,
            "log-topic-message-size",
            "max.message.bytes=8388608",
        ),
        (
            {"min_insync_replicas": "1"},
            Severity.WARNING,
            "log-topic-insync-replicas",
            "min.insync.replicas=2",
        ),
        (
            {"min_insync_replicas": "4"},
            Severity.ERROR,
            "log-topic-insync-replicas",
            "min.insync.replicas=2",
        ),
        (
            {"unclean_leader_election_enable": "true"},
            Severity.WARNING,
            "log-topic-unclean-election",
            "unclean.leader.election.enable=false",
        ),
    ],
)
def test_each_setting_that_can_lose_data_is_named_with_the_command_that_mends_it(
    settings: dict[str, str], severity: Severity, code: str, fix: str
) -> None:
    findings = judge_topic(
        Topic("id", 1, 3, SOUND | {dotted(name): value for name, value in settings.items()}),
        where="kafka://b1:9092",
        servers="b1:9092",
        name="crm.log",
        brokers=3,
    )
    finding = only(findings)
    assert (finding.severity, finding.code) == (severity, code)
    assert finding.fix == set_command(fix)
    assert "crm.log" in finding.message


def dotted(name: str) -> str:
    return name.replace("_", ".")


def test_a_day_of_retention_is_said_in_hours() -> None:
    finding = only(judge(retention_ms="86400000"))
    assert finding.message == (
        "topic crm.log retention.ms is 86400000: a replica that is down for 24.0 h must be copied anew"
    )


def test_more_than_one_partition_has_no_order() -> None:
    finding = only(judge(partitions=3))
    assert (finding.severity, finding.code) == (Severity.ERROR, "log-topic-partitions")


def test_one_replica_is_warned_of_and_min_insync_replicas_then_says_nothing_more() -> None:
    finding = only(judge(replication=1, brokers=1, min_insync_replicas="1"))
    assert (finding.severity, finding.code, finding.fix) == (Severity.WARNING, "log-topic-replication", "")


def test_as_many_insync_replicas_as_replicas_stop_capture_with_one_broker() -> None:
    finding = only(judge(replication=2, brokers=3))
    assert (finding.severity, finding.code) == (Severity.WARNING, "log-topic-insync-replicas")
    assert "stands still when one broker is down" in finding.message
