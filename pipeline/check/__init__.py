"""The preflight of `check` and `run`: one module for each thing that is looked at."""

from __future__ import annotations

import logging

from pipeline import purposes
from pipeline.check.findings import exit_code, refusal
from pipeline.check.preflight import CONFIG, preflight
from pipeline.config import Config
from schemas.finding import Severity

__all__ = ["exit_code", "preflight", "refusal", "require_fit"]

logger = logging.getLogger("keepstream.check")


def require_fit(config: Config) -> None:
    """What `run` asks before it makes anything: logs what does not stop it, raises the first error
    that does. Who may read the file was said when it was read."""
    findings = preflight(config, purpose=purposes.run(config.name))
    for finding in findings:
        if finding.where != CONFIG.where and (finding.severity is Severity.WARNING or not finding.blocks):
            logger.warning(
                "preflight warns",
                extra={
                    "where": finding.where,
                    "subject": finding.subject,
                    "seen": finding.message,
                    "code": finding.code,
                    "fix": finding.fix,
                },
            )
    error = refusal(findings)
    if error is not None:
        raise error
