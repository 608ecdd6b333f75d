"""The change log: what its home says of itself, and how long it keeps what a replica has not read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

from connectors.interfaces import ChangeLog
from pipeline.check.findings import Place
from pipeline.config import Config
from pipeline.quantities import human_seconds
from schemas.finding import Finding

LOG = Place("log")
SHORTEST_RETENTION = timedelta(days=2)


def check_log(log: ChangeLog, config: Config) -> Iterator[Finding]:
    """Raises what `ChangeLog.inspect` raises."""
    yield _retention(config.log.retain)
    for finding in log.inspect():
        yield replace(finding, where=LOG.where)


def _retention(retain: timedelta) -> Finding:
    kept = human_seconds(retain.total_seconds())
    if retain >= SHORTEST_RETENTION:
        return LOG.ok("retention", "log.retain", f"a replica may be down for {kept}")
    return LOG.warning(
        "retention-short",
        "log.retain",
        f"a replica that is down for {kept} has to be copied anew",
        fix="Set log.retain to 7d in keepstream.yaml.",
    )
