"""Row-level security of a replica that applies to our own role. Our sessions set `row_security` off, so that
no policy ever hides a row: where one applies, PostgreSQL refuses the statement.

To a table's owner policies apply only under FORCE, which means nobody else. What a replica gets from us
belongs to our role, so it is made without FORCE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from connectors.postgres.replica.deferred import Deferred
from connectors.postgres.session import Session, wrapped
from schemas.errors import OperatorNeeded
from schemas.identifiers import qualified


@dataclass(frozen=True, slots=True)
class Policed:
    """A table whose policies apply to us. `owned`: only because of FORCE, which we may lift. role: ours."""

    schema: str
    table: str
    owned: bool
    role: str

    def lifting(self) -> str:
        """The SQL that frees the table's owner."""
        return self._alter("no force")

    def restoring(self) -> str:
        """The SQL that undoes `lifting`."""
        return self._alter("force")

    def _alter(self, what: str) -> str:
        name = sql.Identifier(self.schema, self.table).as_string()
        return f"alter table only {name} {what} row level security;"


_POLICED: Final = """
    select n.nspname, c.relname, pg_has_role(c.relowner, 'usage'), current_user::text
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p') and row_security_active(c.oid)
       and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'keepstream')
       and (%(tables)s::oid[] is null or c.oid = any (%(tables)s::oid[]))
     order by 1, 2
"""


def read_policed(conn: Session, tables: Sequence[int] | None = None) -> tuple[Policed, ...]:
    """Those of the database, or which of these (OIDs) are among them."""
    with wrapped("looking for row-level security"):
        rows = conn.execute(_POLICED, {"tables": None if tables is None else list(tables)}).fetchall()
    return tuple(Policed(*row) for row in rows)


def lift_forced(conn: Session, policed: Sequence[Policed]) -> list[Deferred]:
    """Free our role of policies that only FORCE applies to it; returns what applies them again."""
    lifted = [each for each in policed if each.owned]
    with wrapped("lifting the replica's forced row-level security"):
        for each in lifted:
            conn.execute(each.lifting().encode())
    return [
        Deferred(
            kind="row security",
            object=qualified(each.schema, each.table),
            reason="FORCE would apply the policies to our role, which owns the table here",
            statement=each.restoring(),
        )
        for each in lifted
    ]


def exempting(policed: Sequence[Policed]) -> str:
    """The SQL after which none of them applies to our role."""
    return f"alter role {sql.Identifier(policed[0].role).as_string()} bypassrls;"


def would_apply(doing: str, policed: Policed) -> OperatorNeeded:
    """The error for writes that policies would refuse; `doing` names the writes."""
    or_lift = f" Or as the table's owner: {policed.lifting()}" if policed.owned else ""
    return OperatorNeeded(
        f"{doing} would be refused: row-level security applies to our role {policed.role} there",
        code="replica-row-security",
        hint=f"Run on the replica as a superuser: {exempting([policed])}{or_lift}",
    )
