"""pg_dump and pg_restore, without which no first copy can make a schema."""

from __future__ import annotations

from pipeline.check.findings import Place
from pipeline.config import Config
from schemas.errors import OperatorNeeded
from schemas.finding import Finding

TOOLS = Place("tools")


def check_tools(config: Config, source_major: int) -> Finding:
    from connectors.postgres.pgtools import find_pgtools

    urls = [config.source.url, *(replica.url for replica in config.replicas.values())]
    connections = [url.reveal() for url in urls]
    try:
        tools = find_pgtools(source_major, connections=connections, configured=config.tools.pg_bin)
    except OperatorNeeded as error:
        return TOOLS.caught(error, "pg_dump")
    return TOOLS.ok("pg-dump", "pg_dump", f"version {tools.major} in {tools.folder}")
