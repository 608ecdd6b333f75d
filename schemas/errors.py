"""Every error Keepstream raises on purpose. The class says who must act.

    KeepstreamError
    ├── RetryLater            nobody: try again with back-off               exit 5
    │   ├── LogFenced         … another capture owns the log, start again at P4
    │   ├── PositionLost      … the replica is not where we left it     connectors/postgres/replica/claim.py
    │   ├── SnapshotLost      … a copy's snapshot is gone: begin anew   connectors/postgres/copy/snapshot.py
    │   ├── TableChanged      … a table changed while it was copied     connectors/postgres/copy/snapshot.py
    │   ├── CopyStopped       … a copy was told to end                  pipeline/copy/stopping.py
    │   └── VerifyStopped     … a comparison was told to end            pipeline/verify/watch.py
    ├── OperatorNeeded        the operator: something must be mended        exit 4
    │   ├── UsageError        … the command line                            exit 2
    │   ├── ConfigError       … keepstream.yaml                             exit 3
    │   ├── LoginRefused      … a server answers but does not let us in     exit 5
    │   ├── HistoryBroken     … a gap, a foreign or recreated slot, topic, publication
    │   ├── PlaceTrimmed      … a reader whose place in the log is gone
    │   ├── OutputFailed      … standard output cannot be written           exit 1 (pipeline/cli/streams.py)
    │   └── Divergence        … replica and log disagree                    exit 6
    ├── Unhealthy             a waited-for condition did not come           exit 7
    ├── RefusedData           a value or schema change cannot be carried    exit 4
    │   └── RowTooLong        … a row's text is too long for one value  connectors/postgres/digest.py
    └── InternalError         us: a bug in Keepstream                       exit 1

`code` is stable and made for programs and searches; docs/errors.md has them all. The message is lowercase
without a full stop and says what, which, and what was seen. `hint` is a full sentence with the exact command,
setting or SQL that mends it. Neither ever holds a row value or a secret.
"""

from __future__ import annotations

from typing import ClassVar, Final

BEGIN_ANEW: Final = (
    "run `keepstream teardown --yes`, empty the replicas' databases and run `keepstream run` to begin anew"
)
"""The last resort, as the end of a hint's sentence: what is to be done when a history cannot go on."""
IF_MEANT: Final = f"If that was meant, {BEGIN_ANEW}."
"""The same as a sentence, behind what else it could have been."""


class KeepstreamError(Exception):
    """Root of all deliberate errors. Raises nothing itself."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, code: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.code, self.hint))


def _rebuild(kind: type[KeepstreamError], message: str, code: str, hint: str) -> KeepstreamError:
    return kind(message, code=code, hint=hint)


class RetryLater(KeepstreamError):
    """A server cannot be reached or is busy; the same call may succeed later."""

    exit_code = 5


class LogFenced(RetryLater):
    """What we appended cannot be proven to be ours and contiguous (P8); capture starts again at P4."""


class OperatorNeeded(KeepstreamError):
    """Only a person can mend this; the hint says how."""

    exit_code = 4


class UsageError(OperatorNeeded):
    """The command line asks for something that does not exist or contradicts itself."""

    exit_code = 2


class ConfigError(OperatorNeeded):
    """keepstream.yaml is missing, unreadable or wrong."""

    exit_code = 3


class LoginRefused(OperatorNeeded):
    """A server answers but refuses our password, role, database or encryption; trying again is no use."""

    exit_code = 5


class HistoryBroken(OperatorNeeded):
    """Source, slot, publication or log are not the ones whose history we hold (P2, P6, P10, P11)."""


class PlaceTrimmed(OperatorNeeded):
    """The reader's place was trimmed away from the log (P12). `begins_at`: the LSN at which the log begins,
    as text; empty where that is not known."""

    begins_at: str = ""


class Divergence(OperatorNeeded):
    """A change did not touch exactly one row of the replica, or a comparison found a difference."""

    exit_code = 6


class Unhealthy(KeepstreamError):
    """A condition that was waited for or asserted does not hold."""

    exit_code = 7


class RefusedData(KeepstreamError):
    """A value or a schema change that cannot be carried without loss."""

    exit_code = 4


class InternalError(KeepstreamError):
    """An invariant of Keepstream itself does not hold: a bug."""
