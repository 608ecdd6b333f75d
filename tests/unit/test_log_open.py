"""Which home a log URL means, and which URLs mean none."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.log import open_log
from connectors.log.directory import DirectoryLog
from schemas.errors import ConfigError


def test_a_file_url_is_a_folder() -> None:
    log = open_log("file:///var/lib/keep%20stream", "crm")
    assert isinstance(log, DirectoryLog)
    assert log.name == "file:///var/lib/keep%20stream/crm.log"


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("kafka://b1:9092", "b1:9092"),
        ("kafka://b1:9093,b2:9092", "b1:9093,b2:9092"),
        ("kafka://[::1]:9093/", "[::1]:9093"),
    ],
)
def test_a_kafka_url_lists_brokers_and_connects_to_none(url: str, servers: str) -> None:
    log = open_log(url, "crm")
    assert log.name == f"kafka://{servers}/crm.log"
    log.close()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/var/lib/keepstream",
        "s3://bucket",
        "file://relative/path",
        "file:relative",
        "file:///",
        "file:///var/lib/keepstream?sync=on",
        "kafka://",
        "kafka://b1",
        "kafka://b1:9092/topic",
        "kafka://user:hunter2@b1:9092",
    ],
)
def test_other_urls_are_refused_without_repeating_a_password(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        open_log(url, "crm")
    assert raised.value.code == "log-url-invalid"
    assert "hunter2" not in f"{raised.value.message}{raised.value.hint}"
    assert "log: kafka://broker1:9092" in raised.value.hint


def test_a_wrong_client_setting_is_found_before_connecting() -> None:
    with pytest.raises(ConfigError):
        open_log("kafka://b1:9092", "crm", client={"ack": "all"})


def test_nothing_is_made_by_opening(tmp_path: Path) -> None:
    open_log(tmp_path.as_uri(), "crm")
    assert list(tmp_path.iterdir()) == []
