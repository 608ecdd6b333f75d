"""What a log URL says. One reading, for the configuration and for whoever opens a log."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

_BROKER = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:,/@\[\]]+):\d{1,5}")


@dataclass(frozen=True, slots=True)
class LogUrl:
    """`folder` of a directory log, or `servers`, each `host:port`, of a Kafka cluster."""

    folder: Path | None = None
    servers: tuple[str, ...] = ()


def parse_log_url(url: str) -> LogUrl:
    """`file:///folder` or `kafka://host:port,…`. Raises ValueError with what it must be; that repeats nothing
    of the URL, in which somebody may have written a password."""
    scheme, _, rest = url.partition("://")
    if scheme == "kafka":
        servers = tuple(rest.rstrip("/").split(","))
        if not all(map(_BROKER.fullmatch, servers)):
            raise ValueError("must name each broker with its port: kafka://broker1:9092,broker2:9092")
        return LogUrl(servers=servers)
    parts = urlsplit(url)
    folder = Path(unquote(parts.path))
    is_folder = folder.is_absolute() and folder != Path(folder.anchor)
    if scheme != "file" or parts.netloc or parts.query or parts.fragment or not is_folder:
        raise ValueError("must be kafka://host:port,… or file:///absolute/folder")
    return LogUrl(folder=folder)
