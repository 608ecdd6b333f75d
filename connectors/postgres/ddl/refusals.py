"""What an operator is told where a replica's server refuses a step: what is lacking, and how to mend it."""

from __future__ import annotations

import re
from typing import Final

import psycopg
from psycopg import sql

from connectors.postgres.ddl.render import shown
from connectors.postgres.session import sql_error
from schemas.ddl.kinds import Kind
from schemas.ddl.step import Step
from schemas.errors import KeepstreamError, OperatorNeeded, RetryLater

LACKED: Final = (
    psycopg.errors.UndefinedFunction,
    psycopg.errors.UndefinedObject,
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.InvalidSchemaName,
)
"""What a statement says that names something which the replica does not have."""
_OWNER: Final = re.compile(r"must be owner of ((?:materialized |foreign )?\w+) (.+)$")
_DENIED: Final = re.compile(r"permission denied for (\w+(?: \w+)*?) \"?([^\"]*)\"?$")
_GRANTED: Final = {
    "schema": "usage, create",
    "database": "create",
    "table": "all",
    "view": "all",
    "sequence": "all",
    "function": "execute",
    "type": "usage",
    "language": "usage",
}
_TABLES: Final = ("relation", "index", "constraint", "trigger", "policy", "rule")


def refusal(step: Step, error: psycopg.Error, *, replica: str, role: str) -> KeepstreamError:
    """RetryLater (`schema-rights-missing`) where our role lacks a right, and goes on once it has it; what
    `sql_error` says may pass by itself; OperatorNeeded (`schema-refused`)."""
    doing = f"{step.kind} of {step.shown}"
    said = error.diag.message_primary or type(error).__name__
    message = f"{doing}: {replica} refuses {shown(step)} {said} ({error.sqlstate})"
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return RetryLater(message, code="schema-rights-missing", hint=_rights(step, said, role))
    meaning = sql_error(error, doing)
    if isinstance(meaning, RetryLater):
        return meaning
    if isinstance(error, LACKED):
        return OperatorNeeded(message, code="schema-refused", hint=_lacking(step, error, said))
    hint = _ANY.format(ignoring=_ignoring(step.kind))
    return OperatorNeeded(
        message,
        code="schema-refused",
        hint=f"{error.diag.message_hint} {hint}" if error.diag.message_hint else hint,
    )


_ANY: Final = (
    "Mend on the replica what its message says and start again: it is tried anew. Or leave changes of this"
    " kind out: {ignoring}."
)


def _ignoring(kind: Kind) -> str:
    return f"`schema: {{policies: {{{kind}: ignore}}}}` in keepstream.yaml"


def _lacking(step: Step, error: psycopg.Error, said: str) -> str:
    if isinstance(error, psycopg.errors.UndefinedColumn):
        return (
            f"The replica lacks a column that {step.shown} uses ({said}): a policy left it out, or the"
            " publication does not list it. Add it there by hand, with the source's type and nullable, and"
            f" start again: it is tried anew. Or leave changes of this kind out: {_ignoring(step.kind)}."
        )
    return (
        f"The replica lacks what {step.shown} uses ({said}); aggregates, operators, casts and the like are"
        " not followed. Create it on the replica by hand, as it is on the source, and start again: it is"
        " tried anew."
        f" Or leave changes of this kind out: {_ignoring(step.kind)}."
    )


def _rights(step: Step, said: str, role: str) -> str:
    """The very statement, run on the replica by who may."""
    mending = _owning(step, said, role) or _granting(step, said, role) or shown(step)
    return f"On the replica, as a superuser or as the owner, run: {mending} Apply goes on by itself then."


def _owning(step: Step, said: str, role: str) -> str:
    """Of an extension's members nobody needs to be the owner: who may do that runs the statement."""
    found = _OWNER.search(said)
    if found is None or step.kind is Kind.EXTENSION:
        return ""
    word = "table" if found[1] in _TABLES else found[1]
    return f"alter {word} {_named(step, found[2])} owner to {_quoted(role)};"


def _granting(step: Step, said: str, role: str) -> str:
    found = _DENIED.search(said)
    if found is None or found[1] not in _GRANTED:
        return ""
    word = "table" if found[1] == "view" else found[1]
    name = _named(step, found[2])
    return f"grant {_GRANTED[found[1]]} on {word} {name} to {_quoted(role)};"


def _named(step: Step, said: str) -> str:
    """Qualified, where the message means what the step is about; it says so with or without the schema."""
    plain = said.replace('"', "")
    return _quoted(*step.object) if plain in (step.object[-1], ".".join(step.object)) else _quoted(plain)


def _quoted(*parts: str) -> str:
    return sql.Identifier(*parts).as_string()
