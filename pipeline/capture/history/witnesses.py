"""Who went by the log further than it goes now: that tells a log that lost its end from a slot that somebody
moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import TimeoutError as NotInTime
from typing import Final

from psycopg.conninfo import make_conninfo

from connectors.interfaces import ChangeLog
from connectors.postgres.replica import progress
from connectors.postgres.session import connect
from pipeline.background import in_background
from pipeline.board import captures_of, read_reports
from pipeline.reports import StageReport
from schemas.errors import KeepstreamError
from schemas.lsn import Lsn, parse_lsn

ANSWERS_S: Final = 5.0
CAPTURE: Final = "an earlier capture"

Witnesses = Mapping[str, Lsn]
"""Up to where each of them knows the log to have gone."""


def ask_witnesses(
    log: ChangeLog, replicas: Mapping[str, str], *, pipeline: str, stream: bytes | None
) -> Witnesses:
    """What replicas (connection strings by name) and capture's last report say of this stream. Who does not
    answer soon says nothing."""
    asked = {
        name: in_background(lambda c=conninfo: _replica(c, pipeline, stream), name=f"witness {name}")  # type: ignore[misc]
        for name, conninfo in replicas.items()
    }
    told = in_background(lambda: reported(read_reports(log), stream), name="witness")
    found = {}
    for who, answer in {CAPTURE: told, **{f"replica {name}": each for name, each in asked.items()}}.items():
        try:
            lsn = answer.result(ANSWERS_S)
        except (KeepstreamError, NotInTime):
            continue
        if lsn is not None:
            found[who] = lsn
    return found


def reported(reports: Mapping[str, StageReport], stream: bytes | None) -> Lsn | None:
    """Up to where a capture of this stream said that the log is durable."""
    return max(_durable(reports, stream), default=None)


def _durable(reports: Mapping[str, StageReport], stream: bytes | None) -> Iterator[Lsn]:
    for report in captures_of(stream, reports):
        text = report.details.get("durable_lsn")
        if isinstance(text, str):
            yield parse_lsn(text)


def _replica(conninfo: str, pipeline: str, stream: bytes | None) -> Lsn | None:
    soon = make_conninfo(conninfo, connect_timeout=int(ANSWERS_S))
    with connect(soon, purpose=f"{pipeline}:witness") as session:
        row = progress.read(session, pipeline)
    return row.logged if row is not None and row.stream == stream else None
