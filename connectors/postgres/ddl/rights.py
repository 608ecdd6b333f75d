"""Owners and privileges on a replica: roles that they name must be there, and ours be a member of some.

What is missing is no reason to stop for good: whoever calls tries again, and it goes on once it is there.
Ours is to be no member of a superuser, so what belongs to one on the source stays ours on the replica.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from connectors.postgres.ddl.render import become, statement
from connectors.postgres.session import Session
from schemas.ddl.kinds import Kind
from schemas.ddl.step import Step
from schemas.errors import RetryLater

logger = logging.getLogger("keepstream.apply")

RIGHTS: Final = frozenset({Kind.OWNER, Kind.GRANTS})

_ROLES: Final = """
    select w.name, r.oid is not null,
           r.oid is null or not w.needed
             or pg_has_role(r.oid, 'usage') and pg_has_role(r.oid, {become}), coalesce(r.rolsuper, false)
      from unnest(%s::text[], %s::boolean[]) as w(name, needed)
      left join pg_catalog.pg_roles r on r.rolname = w.name
     order by w.name
"""
_SINCE_SET: Final = 160000
_MAY_CREATE: Final = """
    select coalesce(has_schema_privilege(r.oid, n.oid, 'create'), true)
      from pg_catalog.pg_namespace n, pg_catalog.pg_roles r
     where n.nspname = %s and r.rolname = %s
"""


@dataclass(frozen=True, slots=True)
class Lacking:
    """missing: roles that are not there. foreign: those that are, and that ours is no member of. superusers:
    the same of superusers, of which it is to be none."""

    missing: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    superusers: tuple[str, ...] = ()

    def creating(self) -> str:
        """SQL for a superuser of the replica's server."""
        return " ".join(f"create role {_identifier(name)};" for name in self.missing)

    def granting(self, ours: str) -> str:
        return " ".join(f"grant {_identifier(name)} to {_identifier(ours)};" for name in self.foreign)


def lacking(conn: Session, named: Iterable[str], member_of: Collection[str]) -> Lacking:
    """Of roles that are named; `member_of`: those of them that ours must be a member of."""
    names = sorted({*named, *member_of})
    how = sql.Literal("set" if conn.info.server_version >= _SINCE_SET else "member")
    query = sql.SQL(_ROLES).format(become=how)
    rows = conn.execute(query, [names, [name in member_of for name in names]]).fetchall()
    return Lacking(
        tuple(name for name, there, _, _ in rows if not there),
        tuple(name for name, _, ours, above in rows if not ours and not above),
        tuple(name for name, _, ours, above in rows if not ours and above),
    )


def takeable(conn: Session, steps: Sequence[Step], replica: str) -> list[Step]:
    """Those that can be taken. Raises RetryLater (`role-missing`, `role-not-granted`)."""
    named = {role for step in steps for role in step.roles}
    if not named:
        return list(steps)
    found = lacking(conn, named, {step.member_of for step in steps if step.member_of})
    if found.missing:
        raise role_missing(found, replica)
    if found.foreign:
        raise role_not_granted(found, replica, conn.info.user)
    for step in steps:
        if step.member_of in found.superusers:
            reason = f"{step.member_of} is a superuser"
            logger.info("schema change left out", extra={"object": step.shown, "reason": reason})
    return [step for step in steps if step.member_of not in found.superusers]


_LEAVE_OUT: Final = "It then goes on by itself. Or set `schema: {policies: {owner: ignore, grants: ignore}}`."


def role_missing(found: Lacking, replica: str) -> RetryLater:
    return RetryLater(
        f"{replica} lacks roles that own or may use objects on the source: {', '.join(found.missing)}",
        code="role-missing",
        hint=f"Run on the replica's server as a superuser: {found.creating()} {_LEAVE_OUT}",
    )


def role_not_granted(found: Lacking, replica: str, ours: str) -> RetryLater:
    return RetryLater(
        f"{ours} is no member of roles that own objects on the source, so it can neither give {replica}'s to"
        f" them nor write there: {', '.join(found.foreign)}",
        code="role-not-granted",
        hint=f"Run on the replica's server as a superuser: {found.granting(ours)} {_LEAVE_OUT}",
    )


def take(conn: Session, step: Step) -> None:
    """Run the step's statement in the open transaction. Raises psycopg.Error."""
    if step.kind is Kind.OWNER and len(step.object) == 2:
        _own(conn, step)
    elif step.role:
        conn.execute(become(step.role))
        conn.execute(statement(step))
        conn.execute("reset role")
    else:
        conn.execute(statement(step))


def _own(conn: Session, step: Step) -> None:
    """PostgreSQL wants an owner that may create in the schema, unless a superuser gives it the object."""
    schema, owner = step.object[0], step.roles[0]
    may = conn.execute(_MAY_CREATE, [schema, owner]).fetchone() != (False,)
    if not may:
        conn.execute(_lending("grant", schema, "to", owner))
    conn.execute(statement(step))
    if not may:
        conn.execute(_lending("revoke", schema, "from", owner))


def _lending(verb: str, schema: str, way: str, role: str) -> sql.Composed:
    text = sql.SQL(f"{verb} create on schema {{}} {way} {{}}")
    return text.format(sql.Identifier(schema), sql.Identifier(role))


def _identifier(name: str) -> str:
    return sql.Identifier(name).as_string()
