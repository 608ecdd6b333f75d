"""What of a replica acts on our writes by itself: triggers, foreign keys and rules. On the source theirs have
acted on the same rows already, so a second time would double or change what they did.

With `replica_role` (our session sets session_replication_role to `replica`) only ENABLE REPLICA and ENABLE
ALWAYS fire; without it all but ENABLE REPLICA and DISABLE.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from connectors.postgres.partitions.below import with_partitions
from connectors.postgres.session import Session, wrapped
from schemas.errors import OperatorNeeded

FOREIGN_KEY: Final = "foreign key"
_ALWAYS: Final = "A"
_ENABLE: Final = {"O": "enable", _ALWAYS: "enable always", "R": "enable replica"}


@dataclass(frozen=True, slots=True)
class Firing:
    """One of them. `schema`, `table`: whose rows it acts on. `owner`: the table that it is defined on, which
    for a foreign key may be the referencing one. kind: `trigger`, `rule` or `foreign key`. shown: its name
    as SQL. enabled: PostgreSQL's letter, none for a foreign key."""

    schema: str
    table: str
    kind: str
    owner: tuple[str, str]
    name: str
    shown: str
    enabled: str

    def __str__(self) -> str:
        return f"{self.kind} {self.shown}"

    def silencing(self, *, replica_role: bool = False) -> str:
        """The SQL that keeps it still; with `replica_role` it acts on what others write."""
        if self.kind == FOREIGN_KEY:
            drop = sql.SQL("alter table {} drop constraint {};")
            return drop.format(sql.Identifier(*self.owner), sql.Identifier(self.name)).as_string()
        return self._alter("enable" if replica_role and self.enabled == _ALWAYS else "disable")

    def restoring(self) -> str:
        """The SQL that undoes `silencing` of a trigger or rule."""
        return self._alter(_ENABLE[self.enabled])

    def _alter(self, action: str) -> str:
        made = sql.SQL("alter table only {} {} {};").format(
            sql.Identifier(*self.owner),
            sql.SQL(f"{action} {self.kind}"),  # both from fixed lists
            sql.Identifier(self.name),
        )
        return made.as_string()


# A foreign key is several internal triggers on both of its tables; a partition's is its parent's. The
# triggers that a unique constraint makes only check it. A rule on SELECT is a view.
_FIRING: Final = """
    with firing as (
        select t.tgrelid as on_table,
               case when k.contype = 'f' then 'foreign key' else 'trigger' end as kind,
               case when k.contype = 'f' then coalesce(p.conrelid, k.conrelid) else t.tgrelid end as owner,
               case when k.contype = 'f' then coalesce(p.conname, k.conname) else t.tgname end as name,
               case when k.contype = 'f' then '' else t.tgenabled::text end as enabled
          from pg_trigger t
          left join pg_constraint k on k.oid = t.tgconstraint
          left join pg_constraint p on p.oid = k.conparentid
         where t.tgenabled = any(%(letters)s) and coalesce(k.contype in ('f', 't'), true)
         union
        select r.ev_class, 'rule', r.ev_class, r.rulename, r.ev_enabled::text
          from pg_rewrite r
         where r.ev_enabled = any(%(letters)s) and r.ev_type <> '1'
    )
    select n.nspname, c.relname, f.kind, m.nspname, o.relname, f.name, quote_ident(f.name), f.enabled,
           c.oid::bigint
      from firing f
      join pg_class c on c.oid = f.on_table join pg_namespace n on n.oid = c.relnamespace
      join pg_class o on o.oid = f.owner join pg_namespace m on m.oid = o.relnamespace
     where (%(tables)s::oid[] is null or c.oid = any(%(tables)s::oid[]))
       and c.relkind in ('r', 'p')
       and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'keepstream')
     order by 1, 2, 3, 6
"""

# What is written to a partitioned table goes to its partitions, which may have triggers of their own.
_TREES: Final = sql.SQL("""
    select t.oid::bigint, tree.oid::bigint
      from unnest(%s::oid[]) t (oid) cross join lateral {} tree
""").format(with_partitions("select t.oid"))


def read_firing(
    conn: Session, *, replica_role: bool, tables: Sequence[int] | None = None
) -> tuple[Firing, ...]:
    """All that acts on writes to `tables` (OIDs; None: to any table of the database)."""
    return tuple(each for _, each in _read(conn, replica_role=replica_role, tables=tables))


def _read(conn: Session, *, replica_role: bool, tables: Collection[int] | None) -> list[tuple[int, Firing]]:
    values = {
        "letters": ["A", "R"] if replica_role else ["A", "O"],
        "tables": None if tables is None else list(tables),
    }
    with wrapped("looking for the replica's triggers"):
        rows = conn.execute(_FIRING, values).fetchall()
    return [
        (oid, Firing(schema, table, kind, (owner_schema, owner), *named))
        for schema, table, kind, owner_schema, owner, *named, oid in rows
    ]


def read_firing_of(
    conn: Session, tables: Sequence[int], *, replica_role: bool
) -> dict[int, tuple[Firing, ...]]:
    """The same for each of these tables with its partitions."""
    trees: dict[int, set[int]] = {table: set() for table in tables}
    with wrapped("listing the partitions of tables"):
        for table, part in conn.execute(_TREES, [list(tables)]):
            trees[table].add(part)
    found = _read(conn, replica_role=replica_role, tables=set().union(*trees.values()))
    return {table: tuple(each for oid, each in found if oid in tree) for table, tree in trees.items()}


def silencing(firing: Sequence[Firing], *, replica_role: bool = False) -> list[str]:
    """The SQL that keeps all of them still, each statement once."""
    return list(dict.fromkeys(each.silencing(replica_role=replica_role) for each in firing))


def would_fire(doing: str, firing: Sequence[Firing], *, replica_role: bool) -> OperatorNeeded:
    """The error for writes that would make them act; `doing` names the writes."""
    statements = " ".join(silencing(firing, replica_role=replica_role))
    first = (
        "They act even where session_replication_role is replica."
        if replica_role
        else "As a superuser of the replica (PostgreSQL 15 or later): grant set on parameter"
        " session_replication_role to our role."
    )
    return OperatorNeeded(
        f"{doing} would fire {', '.join(dict.fromkeys(map(str, firing)))}",
        code="replica-triggers",
        hint=f"{first} {'Run' if replica_role else 'Or run'} on the replica: {statements}",
    )
