"""The values of `status`, and its JSON contract (docs/operating.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.control.hearsay import Heard
from pipeline.control.hints import hint_for
from pipeline.reports import NotReplicated, StageReport, StageState


@dataclass(frozen=True, slots=True)
class StatusFinding:
    """Something that a person should know: `code` is stable."""

    severity: str
    code: str
    where: str
    message: str
    hint: str = ""


def warning(code: str, where: str, message: str, *, hint: str | None = None) -> StatusFinding:
    """With the hint of its code, if it has none of its own."""
    if hint is None:
        hint = hint_for(code, replica=where.removeprefix("replica "))
    return StatusFinding("warning", code, where, message, hint)


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage. LSNs are text, times Unix time; None is unknown. `end_lsn` is the position X."""

    state: StageState | None
    end_lsn: str | None = None
    lag_bytes: int | None = None
    lag_s: float | None = None
    heard: Heard = field(default_factory=Heard)
    hold: dict[str, Any] | None = None

    @property
    def report(self) -> StageReport | None:
        return self.heard.report

    def to_json(self) -> dict[str, Any]:
        report, age_s = self.report, self.heard.age_s
        error = report.last_error if report else None
        return {
            "state": self.state.value if self.state else None,
            "commit_lsn": report.commit_lsn if report else None,
            "end_lsn": self.end_lsn,
            "lag_bytes": self.lag_bytes,
            "lag_s": _shown_lag_s(self.lag_s),
            "rates": {
                "changes_per_s": _figure(report, "changes_per_s"),
                "bytes_per_s": _figure(report, "bytes_per_s"),
                "transactions": report.transactions if report else None,
                "changes": report.changes if report else None,
            },
            "waiting_for": report.waiting_for if report else None,
            "last_error": error.model_dump() if error else None,
            "host": report.host if report else None,
            "pid": report.pid if report else None,
            "report_age_s": None if age_s is None else round(age_s, 1),
            "standby": _standby(self.heard.standby),
        }


@dataclass(frozen=True, slots=True)
class Replica:
    """A stage, with what its first copy says while it runs, or one of tables that awaited it. awaits_copy:
    those that came without their rows."""

    stage: Stage
    copy: Mapping[str, Any] | None = None
    awaits_copy: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        more = {"hold": self.stage.hold, "copy": self.copy, "awaits_copy": list(self.awaits_copy)}
        return self.stage.to_json() | more


@dataclass(frozen=True, slots=True)
class Status:
    """Everything that one look saw, judged."""

    name: str
    at: float
    state: StageState | None
    capture: Stage
    replicas: Mapping[str, Replica]
    slot: Mapping[str, Any]
    source: Mapping[str, Any]
    log: Mapping[str, Any]
    not_replicated: tuple[NotReplicated, ...]
    findings: tuple[StatusFinding, ...] = field(default=())

    @property
    def sequences(self) -> Mapping[str, Any] | None:
        """What capture says of its reading of sequences; None: nothing yet."""
        return told_by(self.capture.report, "sequences")

    def to_json(self) -> dict[str, Any]:
        """The JSON contract of `status --json`; fields are only ever added."""
        capture = self.capture.to_json()
        return {
            "name": self.name,
            "at": round(self.at, 3),
            "state": self.state.value if self.state else None,
            "source": dict(self.source),
            "slot": dict(self.slot),
            "capture": capture
            | {
                "position": capture["end_lsn"],
                "confirmed_lsn": self.slot["confirmed_lsn"],
                "sequences": self.sequences,
                "schema_changes": told_by(self.capture.report, "schema_changes"),
                "form": self.capture.report.details.get("form") if self.capture.report else None,
            },
            "log": dict(self.log),
            "replicas": {name: replica.to_json() for name, replica in self.replicas.items()},
            "not_replicated": [left_out.model_dump() for left_out in self.not_replicated],
            "findings": [
                {
                    "severity": f.severity,
                    "code": f.code,
                    "where": f.where,
                    "message": f.message,
                    "hint": f.hint,
                }
                for f in self.findings
            ],
        }


def told_by(report: StageReport | None, subject: str) -> Mapping[str, Any] | None:
    """What a stage says of this, where it says several things of it; None: nothing yet."""
    said = report.details.get(subject) if report is not None else None
    return said if isinstance(said, dict) else None


def _standby(report: StageReport | None) -> dict[str, Any] | None:
    if report is None:
        return None
    return {"host": report.host, "pid": report.pid, "waiting_for": report.waiting_for}


def _shown_lag_s(lag_s: float | None) -> float | None:
    """In milliseconds' precision; what is behind at all is never shown as 0."""
    return max(round(lag_s, 3), 0.001) if lag_s else lag_s


def _figure(report: StageReport | None, name: str) -> float | None:
    value = getattr(report, name, None)
    return None if value is None else round(value, 1)
