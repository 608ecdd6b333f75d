"""Installs the event triggers that write schema changes into the source's WAL, and removes them.

All of it lives in schema `keepstream` of the source, owned by who installs it, who must be allowed to create
event triggers. Each install replaces what the files in `sql/` define and brings the states up to date; only
the key and the settings stay.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql

from connectors.postgres.session import Session, wrapped
from schemas.errors import OperatorNeeded, RetryLater

VERSION: Final = 6
"""Of what the files define: raised with every change of them that an install must carry to the source."""
EVENT_TRIGGERS: Final = {
    "keepstream_ddl": ("ddl_command_end", "on_ddl"),
    "keepstream_drop": ("sql_drop", "on_drop"),
    "keepstream_rewrite": ("table_rewrite", "on_rewrite"),
}
READABLE: Final = ("schema_key", "schema_settings", "schema_state")
"""The tables in schema `keepstream` that the capture role reads."""
SETTLE_S: Final = 60.0
_POLL_S: Final = 0.2
_FILES: Final = ("objects", "describe", "track", "rows", "triggers", "fill")
_FOLDER: Final = Path(__file__).parent / "sql"
_FILL: Final = f"do $$ begin perform keepstream.fill({VERSION}); end $$;"
"""Brings the states up to date. It prints nothing in psql."""

_BEGIN: Final = """\
begin;
set local search_path = '';
set local standard_conforming_strings = on;
set local client_min_messages = warning;
"""

# Who owns the schema could replace what the trigger runs with the installer's rights.
_SCHEMA: Final = """
do $$
begin
    if exists (select from pg_catalog.pg_namespace n join pg_catalog.pg_roles r on r.oid = n.nspowner
                where n.nspname = 'keepstream' and not r.rolsuper and r.rolname <> current_user) then
        raise exception 'schema keepstream belongs to another role, who could replace what is installed there'
            using errcode = 'insufficient_privilege',
                  hint = 'Run as a superuser: alter schema keepstream owner to postgres; and give its owner'
                         ' of now what it needs there: grant usage, create on schema keepstream to ROLE;';
    end if;
end
$$;
create schema if not exists keepstream;
"""

# Default privileges may have given rights on what was just made.
_CLOSE: Final = """
revoke all on all functions in schema keepstream from public;
do $$
declare
    held record;
begin
    for held in
        select distinct c.relname, a.grantee
          from pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
         where c.relnamespace = 'keepstream'::pg_catalog.regnamespace and c.relname = any (array[{tables}])
           and a.grantee <> c.relowner
    loop
        execute pg_catalog.format('revoke all on keepstream.%I from %s', held.relname, case
            when held.grantee = 0 then 'public'
            else pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(held.grantee)) end);
    end loop;
end
$$;
"""

_REFUSED: Final = (
    "Creating event triggers takes a superuser, or the role that a managed service gives instead"
    " (docs/managed-services.md). As such a role run: keepstream schema install --print | psql 'CONNECTION'."
    " Without it Keepstream works as before: it follows ADD COLUMN, and other DDL stops capture."
)


def install_sql(capture_role: str) -> str:
    """One transaction, which may be run again: SQL without a secret, for psql or for `install`."""
    tables = ", ".join(f"'{table}'" for table in READABLE)
    parts = [
        _BEGIN,
        _SCHEMA,
        *(f"drop event trigger if exists {name};" for name in EVENT_TRIGGERS),
        *((_FOLDER / f"{name}.sql").read_text(encoding="utf-8") for name in _FILES),
        _CLOSE.format(tables=tables),
        grants_sql(capture_role),
        *(_event_trigger(name) for name in EVENT_TRIGGERS),
        _FILL,
        "analyze keepstream.schema_state;",
        "commit;",
    ]
    return "\n".join(parts)


def grants_sql(capture_role: str) -> str:
    """What capture needs to know the messages as the trigger's."""
    role = sql.Identifier(capture_role).as_string()
    tables = ", ".join(f"keepstream.{table}" for table in READABLE)
    return f"grant usage on schema keepstream to {role};\ngrant select on {tables} to {role};"


def enable_sql() -> str:
    """What makes event triggers that were disabled go on, with what was missed in the states."""
    enabled = [f"alter event trigger {name} enable always;" for name in EVENT_TRIGGERS]
    return "\n".join([*enabled, _FILL])


def uninstall_sql() -> str:
    """One transaction that removes all of it; the schema stays if something else is in it."""
    return f"{_BEGIN}{(_FOLDER / 'uninstall.sql').read_text(encoding='utf-8')}commit;"


def install(session: Session, *, capture_role: str, settle_s: float = SETTLE_S) -> None:
    """Install or renew it; capture hears of it. The session must be in autocommit.

    Transactions that began before may go on to alter something without the trigger: they are waited for,
    and what they did is taken into the states, too.

    Raises OperatorNeeded (`schema-trigger-refused`) where our role may not create event triggers,
    RetryLater (`schema-trigger-unsettled`) where such transactions stay open: then it is installed, and is
    to be installed again.
    """
    _run(session, install_sql(capture_role), "installing the event triggers")
    earlier = _writers(session)
    deadline = time.monotonic() + settle_s
    while still := earlier & _writers(session):
        if time.monotonic() > deadline:
            raise _unsettled(still)
        time.sleep(_POLL_S)
    _run(session, "select keepstream.settle()", "looking for what was altered meanwhile")


def uninstall(session: Session) -> None:
    """Remove it; capture hears of it. Nothing happens if it is not there."""
    _run(session, uninstall_sql(), "removing the event triggers")


# Of this database: those that wrote something, and those that wait for a lock or hold one to alter something.
_WRITERS: Final = """
    select a.pid, a.xact_start::text
      from pg_catalog.pg_stat_activity a
     where a.datname = current_database() and a.pid <> pg_backend_pid() and a.xact_start is not null
       and (a.backend_xid is not null
            or exists (select from pg_catalog.pg_locks l
                        where l.pid = a.pid and l.locktype = 'relation'
                          and l.mode in ('ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock',
                                         'ExclusiveLock', 'AccessExclusiveLock')))
    union all
    select 0, x.gid from pg_catalog.pg_prepared_xacts x where x.database = current_database()
"""


def _writers(session: Session) -> frozenset[tuple[Any, ...]]:
    with wrapped("looking for open transactions"):
        return frozenset(session.execute(_WRITERS).fetchall())


def _unsettled(still: frozenset[tuple[Any, ...]]) -> RetryLater:
    names = [f"process {pid}" if pid else f"prepared transaction {start!r}" for pid, start in sorted(still)]
    return RetryLater(
        f"installed, but transactions from before are still open: {', '.join(names[:5])}",
        code="schema-trigger-unsettled",
        hint="What they alter is not told to capture, which then stops. Run `keepstream schema install` again"
        " when they have ended.",
    )


def _run(session: Session, statements: str, doing: str) -> None:
    with wrapped(doing):
        try:
            session.execute(statements.encode())
        except psycopg.errors.InsufficientPrivilege as exc:
            seen = exc.diag.message_primary or str(exc)
            ours = exc.diag.message_hint if seen.startswith("schema keepstream belongs") else None
            raise OperatorNeeded(
                f"{doing}: {seen}", code="schema-trigger-refused", hint=ours or _REFUSED
            ) from exc
        finally:
            session.rollback()


def _event_trigger(name: str) -> str:
    event, function = EVENT_TRIGGERS[name]
    return (
        f"create event trigger {name} on {event} execute function keepstream.{function}();\n"
        f"alter event trigger {name} enable always;"
    )
