"""Which home a log URL means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from connectors.interfaces import ChangeLog
from connectors.log.directory import DirectoryLog
from schemas.errors import ConfigError

_HINT = "Write `log: kafka://broker1:9092,broker2:9092` or `log: file:///var/lib/keepstream`."


def open_log(
    url: str, name: str, *, replication: int | None = None, client: Mapping[str, str] | None = None
) -> ChangeLog:
    """The change log of pipeline `name` at `url`; nothing is connected to yet.

    `replication` and `client` (Java-named Kafka settings) are for Kafka only.
    Raises ConfigError (`log-url-invalid`, `kafka-setting-unknown`).
    """
    scheme = url.partition(":")[0].lower()
    if scheme == "file":
        return DirectoryLog(_folder(url), name)
    if scheme == "kafka":
        from connectors.log.kafka import KafkaLog  # a third of a second that a directory need not wait

        return KafkaLog(_servers(url), name, replication=replication, client=client)
    raise ConfigError(f"not a log URL: {scheme!r} is no known scheme", code="log-url-invalid", hint=_HINT)


def _folder(url: str) -> Path:
    parts = urlsplit(url)
    path = Path(unquote(parts.path))
    if parts.netloc not in ("", "localhost") or not path.is_absolute() or parts.query or parts.fragment:
        raise ConfigError(f"not the URL of a folder: {url!r}", code="log-url-invalid", hint=_HINT)
    return path


def _servers(url: str) -> list[str]:
    """`kafka://h1:9092,h2` → host:port of each broker; 9092 where no port is given."""
    parts = urlsplit(url)
    hosts = [host for host in parts.netloc.split(",") if host]
    servers = [host if re.search(r":[0-9]+$", host) else f"{host}:9092" for host in hosts]
    if "@" in parts.netloc or parts.path not in ("", "/") or parts.query or not servers:
        raise ConfigError(
            "not the URL of a Kafka cluster: it takes only hosts and ports",
            code="log-url-invalid",
            hint=f"{_HINT} User and password belong into log.client.",
        )
    return servers
