"""What `status` says of a table that came to a replica without its rows and awaits them (decision 019)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from connectors.postgres.catalog.publication import TableName
from connectors.postgres.ddl.left_out import AWAITS_COPY, copying_command
from connectors.postgres.replica.progress import HoldKind, Progress
from pipeline.control.hearsay import Heard
from pipeline.control.status import StatusFinding, told_by, warning
from pipeline.quantities import human_seconds
from schemas.identifiers import qualified


@dataclass(frozen=True, slots=True)
class Copying:
    """What a replica's applier, as long as it lives, says of the copies that it makes by itself. said: None
    where it makes none. at: when `status` looked, Unix time."""

    replica: str
    row: Progress | None
    heard: Heard
    at: float

    @property
    def said(self) -> Mapping[str, Any] | None:
        return told_by(self.heard.report, "awaited_copies") if self.heard.lives else None

    def finding(self, table: TableName) -> StatusFinding:
        """Of one table."""
        more, hint = self._more(table)
        return warning(
            "table-awaits-copy",
            f"replica {self.replica}",
            f"{qualified(*table)} {AWAITS_COPY}{more}",
            hint=hint,
        )

    def _more(self, table: TableName) -> tuple[str, str]:
        """What is said besides, and the hint."""
        command, said = copying_command(self.replica, table), self.said
        if said is None:
            return "", f"`{command}` copies them, exactly; the replica stands still meanwhile."
        name = qualified(*table)
        if name in said["running"]:
            return (
                f"; the applier copies them now: {said['doing']}",
                f"Nothing is to be done. `keepstream pause {self.replica}` ends that copy; after `keepstream"
                f" resume {self.replica}` it begins anew.",
            )
        failed = said["failed"].get(name)
        if failed is not None:
            return self._failed(failed), f"{failed['hint']} Or by hand: `{command}`.".strip()
        if self._is_paused:
            return (
                "; the applier copies them once the replica goes on",
                f"Let it go on with `keepstream resume {self.replica}`.",
            )
        return (
            "; the applier copies them once it has caught up",
            f"Nothing is to be done: `keepstream status --watch` shows when it does. By hand: `{command}`.",
        )

    @property
    def _is_paused(self) -> bool:
        hold = self.row.hold if self.row is not None else None
        return hold is not None and hold.kind is not HoldKind.VERIFY

    def _failed(self, failed: Mapping[str, Any]) -> str:
        assert self.heard.report is not None
        retry_s = failed["retry_s"] - (self.at - self.heard.report.at)
        again = f"in {human_seconds(retry_s)}" if retry_s > 0 else "soon"
        if self._is_paused:
            again = "once the replica goes on"
        return (
            f"; its copy failed {human_seconds(max(0.0, self.at - failed['at']))} ago and is tried again"
            f" {again}: {failed['message']} ({failed['code']})"
        )
