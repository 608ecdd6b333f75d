"""Which home a log URL means."""

from __future__ import annotations

from collections.abc import Mapping

from connectors.interfaces import ChangeLog
from connectors.log.directory import DirectoryLog
from connectors.log_url import parse_log_url
from schemas.errors import ConfigError


def open_log(
    url: str,
    name: str,
    *,
    replication: int | None = None,
    client: Mapping[str, str] | None = None,
    patience_s: float | None = None,
) -> ChangeLog:
    """The change log of pipeline `name` at `url`; nothing is connected to yet.

    `replication`, `client` (Java-named Kafka settings) and `patience_s` (how long to wait for a broker that
    does not answer, where the settings do not say it; None: as long as a stage) are for Kafka only.
    Raises ConfigError (`log-url-invalid`, `kafka-setting-unknown`).
    """
    try:
        parsed = parse_log_url(url)
    except ValueError as error:
        raise ConfigError(
            f"the log's URL {error}",
            code="log-url-invalid",
            hint="Write `log: kafka://broker1:9092,broker2:9092` or `log: file:///var/lib/keepstream`."
            " User and password belong into log.client.",
        ) from None
    if parsed.folder is not None:
        return DirectoryLog(parsed.folder, name)
    from connectors.log.kafka import KafkaLog  # a third of a second that a directory need not wait

    return KafkaLog(list(parsed.servers), name, replication=replication, client=client, patience_s=patience_s)
