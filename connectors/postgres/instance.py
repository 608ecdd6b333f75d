"""What a preflight asks of a server beyond `server.read_server`: which one it is, how full, how busy.

All of it is readable by any role and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from psycopg import sql

from connectors.postgres.session import Session, wrapped


@dataclass(frozen=True, slots=True)
class Instance:
    """One database on one running server.

    identity: differs between any two databases of this world, and between a server and its clone.
    locale: provider, collation and character type of the database.
    connection_limit: of our role; -1 is none.
    old_prepared: prepared transactions older than a minute; a slot's creation waits for them (P17).
    wal_bytes_per_s: average since the statistics were reset; None if that is less than 10 minutes ago.
    """

    identity: str
    database: str
    locale: str
    max_connections: int
    connections_used: int
    connection_limit: int
    old_prepared: tuple[str, ...]
    wal_bytes_per_s: float | None


# Columns that came later are read through JSON, so that one query serves every version.
_INSTANCE: Final = """
    select d.oid::text || '@' || extract(epoch from pg_postmaster_start_time())::text, d.datname,
           concat_ws(' ', to_jsonb(d) ->> 'datlocprovider', d.datcollate, d.datctype,
                     to_jsonb(d) ->> 'daticulocale', to_jsonb(d) ->> 'datlocale'),
           current_setting('max_connections')::int,
           (select count(*) from pg_stat_activity where datid is not null),
           (select rolconnlimit from pg_roles where rolname = current_user),
           array(select gid from pg_prepared_xacts
                  where prepared < now() - interval '1 minute' order by prepared),
           (select wal_bytes::float8 / extract(epoch from now() - stats_reset)::float8
              from pg_stat_wal where stats_reset < now() - interval '10 minutes')
      from pg_database d
     where d.datname = current_database()
"""


def read_instance(session: Session) -> Instance:
    """The database that the session is connected to."""
    with wrapped("looking at the server"):
        row = session.execute(_INSTANCE).fetchone()
    assert row is not None
    *facts, prepared, rate = row
    values: tuple[Any, ...] = (*facts, tuple(prepared), rate)
    return Instance(*values)


def has_role(session: Session, role: str) -> bool:
    """Whether we have the rights of `role`: we are it, or a member that inherits them."""
    with wrapped(f"looking whether we have the rights of {role}"):
        row = session.execute("select pg_has_role(%s, 'usage')", [role]).fetchone()
    return bool(row and row[0])


def lending_sql(owner: str, role: str) -> str:
    """What lends `role` the rights of an owner, who must be none of the `superusers`."""
    return sql.SQL("grant {} to {};").format(sql.Identifier(owner), sql.Identifier(role)).as_string()


def superusers(session: Session, roles: Iterable[str]) -> frozenset[str]:
    """Which of these roles are superusers: their rights are never lent."""
    query = "select rolname from pg_roles where rolsuper and rolname = any(%s)"
    with wrapped("looking at roles"):
        return frozenset(name for (name,) in session.execute(query, [sorted(roles)]))


_OID_COLUMNS: Final = """
    select format('%s.%s.%s', n.nspname, c.relname, a.attname)
      from pg_attribute a
      join pg_class c on c.oid = a.attrelid and c.relkind = 'r'
      join pg_namespace n on n.oid = c.relnamespace
      join pg_type t on t.oid = a.atttypid
     where a.attnum > 0 and not a.attisdropped and t.typname in ('oid', 'lo')
       and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
     order by 1
"""


def read_oid_columns(session: Session) -> tuple[str, ...]:
    """`schema.table.column` of every column that may point to large objects (types oid and lo)."""
    with wrapped("looking for references to large objects"):
        rows = session.execute(_OID_COLUMNS).fetchall()
    return tuple(name for (name,) in rows)
