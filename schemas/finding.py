"""What `check` says of one thing it looked at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """ERROR ends `check`, and `run` if it blocks; WARNING is said and lived with; OK and NOTE are facts."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding. `code` is stable; `subject` names what was looked at (a setting, a table, a
    topic); `message` says what was seen; `fix` is the SQL, setting or command that mends it;
    `fix_is_sql`: `fix` can be run as SQL on `where` (`check --fix-sql` prints those), and destroys nothing:
    what would is a comment;
    `exit_code` is 3, 4 or 5 for an ERROR (config, precondition, unreachable). `blocks`: an ERROR that is
    also an obstacle for `run`; else nothing is gained by keeping stages from running."""

    severity: Severity
    code: str
    where: str
    subject: str
    message: str
    fix: str = ""
    fix_is_sql: bool = False
    exit_code: int = 4
    blocks: bool = True
