"""The parts of a `Status` that are figures as they were seen, without judgement."""

from __future__ import annotations

from typing import Any

from connectors.postgres.failover.standbys import Standbys
from connectors.postgres.replica.progress import Progress
from connectors.postgres.replication.slot import time_to_full_s
from pipeline.control.observation import LogSeen, Observation, SourceSeen
from pipeline.reports import StageReport
from schemas.lsn import Lsn, format_lsn

_COPY = {
    "phase": "phase",
    "attempt": "attempt",
    "tables": "tables_done",
    "tables_total": "tables_total",
    "rows": "rows_done",
    "rows_estimated": "rows_estimated",
    "bytes": "bytes_done",
    "bytes_estimated": "bytes_estimated",
    "rows_per_s": "rows_per_s",
    "bytes_per_s": "bytes_per_s",
    "eta_s": "eta_s",
    "items": "items_done",
    "items_total": "items_total",
    "snapshot_lsn": "snapshot_lsn",
    "snapshot_age_s": "snapshot_age_s",
    "source_xmin_age": "source_xmin_age",
    "restart_reason": "restart_reason",
}
"""The figures of a copy as `status` calls them, and as `CopyProgress` does."""


def slot_json(seen: Observation) -> dict[str, Any]:
    source = seen.source if isinstance(seen.source, SourceSeen) else None
    slot, rate = (source.own_slot, source.wal_bytes_per_s) if source else (None, None)
    return {
        "name": seen.slot_name,
        "exists": None if source is None else slot is not None,
        "foreign": None if source is None else slot is not source.slot,
        "active": None if slot is None else slot.active_pid is not None,
        "restart_lsn": lsn_text(slot.restart_lsn) if slot else None,
        "confirmed_lsn": lsn_text(slot.confirmed_flush_lsn) if slot else None,
        "retained_bytes": slot.retained_bytes if slot else None,
        "safe_wal_bytes": slot.safe_wal_bytes if slot else None,
        "wal_status": slot.wal_status if slot else None,
        "wal_bytes_per_s": None if rate is None else round(rate),
        "time_to_full_s": _rounded(time_to_full_s(slot.safe_wal_bytes, rate or 0.0)) if slot else None,
        "catalog_xmin_age": slot.catalog_xmin_age if slot else None,
        "failover": slot.failover if slot else None,
        "standbys": None if source is None else _standbys_json(source.standbys),
    }


def _standbys_json(standbys: Standbys) -> list[dict[str, Any]]:
    return [
        {
            "slot": slot.name,
            "active": slot.active,
            "awaited": slot.name in standbys.awaited,
            "has_copies": slot.copies,
        }
        for slot in standbys.slots
    ]


def source_json(source: SourceSeen | None) -> dict[str, Any]:
    return {
        "reachable": source is not None,
        "insert_lsn": lsn_text(source.insert_lsn) if source else None,
        "timeline": source.timeline if source else None,
        "wal_directory_bytes": source.space.directory_bytes if source else None,
        "keep_limit_bytes": source.space.keep_limit_bytes if source else None,
        "publication_exists": source.publication_exists if source else None,
    }


def log_json(seen: Observation) -> dict[str, Any]:
    log = seen.log if isinstance(seen.log, LogSeen) else None
    return {"name": seen.log_name, "reachable": log is not None, "exists": log.exists if log else None}


def hold_json(row: Progress | None) -> dict[str, Any] | None:
    if row is None or row.hold is None:
        return None
    hold = row.hold
    return {
        "at": format_lsn(hold.at),
        "kind": hold.kind.value,
        "expires": hold.expires.isoformat() if hold.expires else None,
    }


def copy_json(report: StageReport | None) -> dict[str, Any] | None:
    """How far a copy is, and what a first one holds back on the source; None unless the report is of one."""
    copy = report.details.get("copy") if report is not None else None
    return {name: copy.get(told) for name, told in _COPY.items()} if isinstance(copy, dict) else None


def lsn_text(lsn: Lsn | None) -> str | None:
    return None if lsn is None else format_lsn(lsn)


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)
