"""What was said before the verb: which file, how to log. Every verb finds it in its context."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.logs import LogFormat, LogLevel, set_up_logs

if TYPE_CHECKING:
    from pipeline.config import Config

CONFIG_VARIABLE = "KEEPSTREAM_CONFIG"

LONGEST_S = 365 * 86400.0
"""The most that an option for seconds takes: what waits could not be given infinity."""


@dataclass
class Invocation:
    """The global options. `config_path` None: $KEEPSTREAM_CONFIG, else ./keepstream.yaml."""

    config_path: Path | None = None
    log_format: LogFormat = LogFormat.TEXT
    log_level: LogLevel = LogLevel.INFO

    @property
    def path(self) -> Path:
        """The configuration file, whether or not it exists."""
        return self.config_path or Path(os.environ.get(CONFIG_VARIABLE) or "keepstream.yaml")

    @cached_property
    def config(self) -> Config:
        """The loaded file. Raises ConfigError. A child of `run`, which has warned, does not warn."""
        from pipeline.config import load_config  # pydantic and yaml: `--help` need not wait for them
        from pipeline.supervisor import is_supervised

        return load_config(self.path, warn=not is_supervised())

    def set_up_logs(self) -> None:
        set_up_logs(self.log_format, self.log_level)

    def arguments(self) -> list[str]:
        """The same options for a child process of ours: `keepstream <arguments> VERB`."""
        level, form = self.log_level.value, self.log_format.value
        return ["--config", str(self.path.absolute()), "--log-format", form, "--log-level", level]


def invocation(context: Any) -> Invocation:
    """The Invocation of a verb's `typer.Context`."""
    found = context.find_object(Invocation)
    assert isinstance(found, Invocation)
    return found
