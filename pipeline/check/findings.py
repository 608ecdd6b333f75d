"""Making findings: short words for each severity, and what an error becomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from psycopg import sql

from pipeline.printable import printable_sql
from schemas.errors import ConfigError, KeepstreamError, LoginRefused, OperatorNeeded, RetryLater
from schemas.finding import Finding, Severity


@dataclass(frozen=True, slots=True)
class Place:
    """What the findings of one module are about: `source`, `log`, `replica NAME`, `tools`, `config`."""

    where: str

    def ok(self, code: str, subject: str, message: str) -> Finding:
        return Finding(Severity.OK, code, self.where, subject, message)

    def note(self, code: str, subject: str, message: str, *, fix: str = "", sql: str = "") -> Finding:
        return self._finding(Severity.NOTE, code, subject, message, fix, sql)

    def warning(self, code: str, subject: str, message: str, *, fix: str = "", sql: str = "") -> Finding:
        return self._finding(Severity.WARNING, code, subject, message, fix, sql)

    def error(
        self, code: str, subject: str, message: str, *, fix: str = "", sql: str = "", blocks: bool = True
    ) -> Finding:
        """A precondition that does not hold (exit code 4). `sql` is run at this place, `fix` is prose."""
        return replace(self._finding(Severity.ERROR, code, subject, message, fix, sql), blocks=blocks)

    def caught(self, error: KeepstreamError, subject: str) -> Finding:
        """An error that ended the look at `subject`."""
        code = error.exit_code if error.exit_code in (3, 4, 5) else 4
        return Finding(
            Severity.ERROR, error.code, self.where, subject, error.message, error.hint, exit_code=code
        )

    def _finding(
        self, severity: Severity, code: str, subject: str, message: str, fix: str, sql: str
    ) -> Finding:
        return Finding(severity, code, self.where, subject, message, sql or fix, fix_is_sql=bool(sql))


SOURCE: Final = Place("source")

_NAMED_IN_LIST = 10
_NAMED = 5
"""So many findings of one kind are named in an error, with what mends each."""


def named(names: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(names) - _NAMED_IN_LIST} more" if len(names) > _NAMED_IN_LIST else ""
    return ", ".join(names[:_NAMED_IN_LIST]) + more


def identifier(*names: str) -> str:
    """As SQL writes it, qualified by the names before the last."""
    return sql.Identifier(*names).as_string()


def comment(text: str) -> str:
    """An SQL comment. A name may hold line breaks, behind which its rest would be run as SQL."""
    return "\n".join(f"-- {line}" for line in text.splitlines()) or "--"


def losing(what: str, statements: str) -> str:
    """SQL that destroys something is never more than a comment: whoever runs it has read what goes."""
    return comment(f"loses {what}: {statements}")


def coming(statements: str) -> str:
    """SQL that does what a message on its way to the replica may do, too, which then stops there."""
    return comment(
        f"the log may bring it: only if this is still said once the replica has caught up: {statements}"
    )


def refusal(findings: list[Finding]) -> KeepstreamError | None:
    """The error that ends a `run` whose preflight found these; None if nothing stands in its way.

    Its exit code is the first such ERROR's: 3, 4 or 5.
    """
    errors = [finding for finding in findings if finding.severity is Severity.ERROR and finding.blocks]
    if not errors:
        return None
    first = errors[0]
    kinds: dict[int, type[KeepstreamError]] = {
        3: ConfigError,
        5: LoginRefused if first.code == "login-refused" else RetryLater,
    }
    alike = [each for each in errors if (each.where, each.code) == (first.where, first.code)][:_NAMED]
    more = len(errors) - len(alike)
    hint = _remedies(alike)
    return kinds.get(first.exit_code, OperatorNeeded)(
        f"{first.where}: {_told(alike)}" + (f" (and {more} more)" if more else ""),
        code=first.code,
        hint=f"{hint}\n`keepstream check` lists everything." if more else hint,
    )


def _told(alike: Sequence[Finding]) -> str:
    """What was seen of each; those of which the same was seen together."""
    subjects: dict[str, list[str]] = {}
    for each in alike:
        subjects.setdefault(each.message, []).append(each.subject)
    return "; ".join(_about(", ".join(names), message, alike[0].where) for message, names in subjects.items())


def _about(subject: str, message: str, where: str) -> str:
    return message if message.startswith(subject) or subject == where else f"{subject}: {message}"


def _remedies(alike: Sequence[Finding]) -> str:
    """Each once: prose before SQL."""
    prose = dict.fromkeys(each.fix for each in alike if each.fix and not each.fix_is_sql)
    statements = dict.fromkeys(printable_sql(each.fix) for each in alike if each.fix_is_sql)
    return "\n".join([*prose, *([f"Run on the {alike[0].where}:"] if statements else []), *statements])


def exit_code(findings: list[Finding]) -> int:
    """Of `check`: 0, or the first ERROR's."""
    return next((finding.exit_code for finding in findings if finding.severity is Severity.ERROR), 0)
