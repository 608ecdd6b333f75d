"""What a refused or miscounted change means: where replica and log disagree, and what to do.

Messages name table, key columns and the change's place in the log, never a value (PostgreSQL's own text
is left out where it would quote one).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import psycopg

from connectors.postgres.apply.pipe import StatementFailed
from connectors.postgres.session import sql_error
from connectors.postgres.sqlstate import NOT_THERE, letting_in, missed_in_function
from schemas.errors import Divergence, KeepstreamError, OperatorNeeded, RetryLater
from schemas.lsn import Lsn, format_lsn


class SourceRef(NamedTuple):
    """A source transaction, for messages. (A tuple: one is made for each.)"""

    xid: int
    commit_lsn: Lsn


@dataclass(frozen=True, slots=True)
class ChangeRef:
    """One change of a source transaction. `what` says in words what it does."""

    source: SourceRef
    ordinal: int
    what: str

    def __str__(self) -> str:
        place = f"{format_lsn(self.source.commit_lsn)} (xid {self.source.xid})"
        return f"{self.what}, change {self.ordinal} of transaction {place}"


UNIQUE: Final = "unique key"
EXCLUSION: Final = "exclusion constraint"


def miscount(ref: ChangeRef, rows: int, replica: str) -> Divergence:
    """A statement that should have touched one row touched `rows`."""
    if ref.what.startswith("insert"):
        code, seen = "row-not-written", "the replica took no row: a trigger or a rule swallowed it"
    elif ref.what.startswith(UNIQUE):
        code, seen = "row-already-there", "the replica would have two rows with these values"
    elif ref.what.startswith(EXCLUSION):
        code, seen = "row-already-there", "the replica would have two rows that exclude each other"
    elif rows == 0:
        code, seen = "row-missing", "the replica has no such row"
    else:
        code, seen = "row-ambiguous", f"the replica has {rows} such rows"
    return Divergence(f"{ref}: {seen}", code=code, hint=skip_hint(ref.source, replica))


def skip_hint(source: SourceRef, replica: str) -> str:
    """The two commands for an operator whose replica disagrees with the log."""
    return (
        "Compare the row on both sides, mend the replica by hand and start again: `keepstream verify"
        f" {replica}` then shows what else differs. Or leave the whole transaction out for good:"
        f" {_skipping(source, replica)}."
    )


def _skipping(source: SourceRef, replica: str) -> str:
    return f'`keepstream apply {replica} --skip-transaction {format_lsn(source.commit_lsn)} --reason "…"`'


@contextlib.contextmanager
def named_by(source: SourceRef, replica: str) -> Iterator[None]:
    """What is refused before it is sent is told with its transaction, and with the way past it."""
    try:
        yield
    except OperatorNeeded as error:
        if error.code != "identity-missing":
            raise
        hint = (
            f"{error.hint} What was written before has nothing either; leave that out and mend the table:"
            f" {_skipping(source, replica)}, start again, and `keepstream verify {replica} --repair`."
        )
        place = f"{format_lsn(source.commit_lsn)} (xid {source.xid})"
        raise OperatorNeeded(f"{error.message}: transaction {place}", code=error.code, hint=hint) from error


# SQLSTATEs in which the replica's contents contradict the log, by class or in full.
_DIVERGENCES: Final = {
    "23505": ("row-already-there", "the replica has a row with these unique values already"),
    "23503": ("foreign-key-violated", "a foreign key of the replica refuses it"),
    "23": ("constraint-violated", "a constraint of the replica refuses it"),
    "44": ("constraint-violated", "a check option of the replica refuses it"),
    "P0": ("trigger-raised", "a trigger of the replica refuses it"),
}

_SEE: Final = "See what differs with `keepstream verify {}`."
_MAKE_IT: Final = (
    "Make that on the replica as it is on the source (pg_dump --schema-only shows how) and start again."
)
_MAKE_ALIKE: Final = (
    "Give the table the columns and types that it has on the source (compare with pg_dump --schema-only) and"
    " start again."
)
_SCHEMA: Final = ("22", "42P01", "42703", "42704", "42804", "42883", "428C9", "3F000", "42809", "42P10", "54")


def refusal(error: psycopg.Error, ref: ChangeRef | None, doing: str, replica: str) -> KeepstreamError:
    """The error that a failed statement means; `ref` None if it was no change of the log."""
    state = error.sqlstate or ""
    for prefix, (code, seen) in _DIVERGENCES.items():
        if state.startswith(prefix):
            seen += _named(error)
            hint = skip_hint(ref.source, replica) if ref else _SEE.format(replica)
            first = letting_in(error)
            return Divergence(f"{doing}: {seen}", code=code, hint=f"{first} {hint}" if first else hint)
    if state.startswith(_SCHEMA):
        return _misfit(error, doing)
    if state == "0A000" and ref is not None and ref.what == "truncate":
        return RetryLater(
            f"{ref}: the replica got a foreign key to one of the tables meanwhile",
            code="truncate-refused",
            hint="The next attempt sees it and empties the tables with DELETE.",
        )
    return sql_error(error, doing)


def _named(error: psycopg.Error) -> str:
    names = (
        ("constraint", error.diag.constraint_name),
        ("column", error.diag.column_name),
        ("domain", error.diag.datatype_name),
    )
    return next((f" ({what} {name})" for what, name in names if name), "")


def _misfit(error: psycopg.Error, doing: str) -> OperatorNeeded:
    state = error.sqlstate or ""
    quotes_values = state.startswith("22")
    seen = type(error).__name__ if quotes_values else (error.diag.message_primary or type(error).__name__)
    column = f" (column {error.diag.column_name})" if error.diag.column_name else ""
    return OperatorNeeded(
        f"{doing}: the replica's schema does not fit: {seen} ({state}){column}",
        code="replica-schema",
        hint=missed_in_function(error) or (_MAKE_IT if state in NOT_THERE else _MAKE_ALIKE),
    )


@contextlib.contextmanager
def explained(replica: str) -> Iterator[None]:
    """Failures of sent statements become errors that name the change."""
    try:
        yield
    except StatementFailed as failed:
        ref = change_ref(failed.tag)
        doing = str(ref) if ref is not None else f"writing to the replica ({failed.tag})"
        raise refusal(failed.error, ref, doing, replica) from failed.error


def change_ref(tag: object) -> ChangeRef | None:
    """The change that a statement was sent for, from its tag: a ChangeRef, or the cheaper tuple of
    (statement, source, ordinal) that rows are sent with."""
    if isinstance(tag, tuple):
        statement, source, ordinal = tag
        return ChangeRef(source, ordinal, statement.what)
    return tag if isinstance(tag, ChangeRef) else None
