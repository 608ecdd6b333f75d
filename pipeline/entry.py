"""Where the command `keepstream` begins, and each child of `run`: SIGTERM is minded before anything is
imported that takes time."""

from __future__ import annotations

import sys

from pipeline.signals import INTERRUPTED, end_on_sigterm

_STAGES = frozenset({"run", "capture", "apply"})
_ONE_TIME = ("--until", "--skip-transaction")


def main() -> int:
    """The exit code. What SIGTERM means here, the verbs say again once they are loaded."""
    words = sys.argv[1:]
    if not _STAGES.isdisjoint(words):
        end_on_sigterm(INTERRUPTED if any(word.startswith(_ONE_TIME) for word in words) else 0)
    from pipeline.cli import main as run_command
    from pipeline.cli.streams import set_up_streams

    set_up_streams()
    return run_command()


if __name__ == "__main__":
    sys.exit(main())
