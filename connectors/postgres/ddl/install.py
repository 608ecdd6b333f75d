"""Installs the event triggers that write schema changes into the source's WAL, and removes them.

All of it lives in schema `keepstream` of the source, owned by who installs it, who must be allowed to create
event triggers. What the files in `sql/` define is replaced by each install, the states are filled anew,
and only the key stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from psycopg import sql

from connectors.postgres.session import Session, wrapped
from schemas.errors import OperatorNeeded

VERSION: Final = 1
"""Of what the files define: raised with every change of them that an install must carry to the source."""
PREFIX: Final = "keepstream.ddl"
"""Of the messages."""
EVENT_TRIGGERS: Final = {
    "keepstream_ddl": ("ddl_command_end", "on_ddl"),
    "keepstream_drop": ("sql_drop", "on_drop"),
    "keepstream_rewrite": ("table_rewrite", "on_rewrite"),
}
_TABLES: Final = ("schema_key", "schema_settings", "schema_state")
_FILES: Final = ("objects", "describe", "track", "rows", "triggers", "fill")
_FOLDER: Final = Path(__file__).parent / "sql"

_OWNED: Final = """
do $$
begin
    if exists (select from pg_catalog.pg_namespace n join pg_catalog.pg_roles r on r.oid = n.nspowner
                where n.nspname = 'keepstream' and not r.rolsuper and r.rolname <> current_user) then
        raise exception 'schema keepstream belongs to another role, who could replace what is installed there'
            using errcode = 'insufficient_privilege',
                  hint = 'Run: alter schema keepstream owner to a superuser; grant usage, create on schema'
                         ' keepstream to its owner of now;';
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
        select distinct c.oid::regclass as relation, a.grantee
          from pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
         where c.oid in ('keepstream.schema_key'::regclass, 'keepstream.schema_settings'::regclass,
                         'keepstream.schema_state'::regclass)
           and a.grantee <> c.relowner
    loop
        execute format('revoke all on %s from %s', held.relation,
            case when held.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(held.grantee)) end);
    end loop;
end
$$;
"""


@dataclass(frozen=True, slots=True)
class Installed:
    """`version` of what is there. `home`: whether it was installed in this very database and release, and not
    restored into it. `disabled`: event triggers that are missing, or do not always fire."""

    version: int
    home: bool
    disabled: tuple[str, ...]

    @property
    def working(self) -> bool:
        return self.version == VERSION and self.home and not self.disabled


def install_sql(capture_role: str) -> str:
    """One transaction, which may be run again: SQL without a secret, for psql or for `install`."""
    files = [(_FOLDER / f"{name}.sql").read_text(encoding="utf-8") for name in _FILES]
    settings = "set local search_path = '';\nset local check_function_bodies = on;\n"
    return "\n".join(
        [
            "begin;",
            settings,
            _OWNED,
            _drop_triggers(),
            *files,
            _CLOSE,
            _grants(capture_role),
            _fill(),
            "commit;",
        ]
    )


def uninstall_sql() -> str:
    """One transaction that removes all of it; the schema stays if something else is in it."""
    return (_FOLDER / "uninstall.sql").read_text(encoding="utf-8")


def install(session: Session, *, capture_role: str) -> None:
    """Install or renew it; capture hears of it. The session must be in autocommit.

    Raises OperatorNeeded (`privilege-missing`) where our role may not create event triggers.
    """
    _run(session, install_sql(capture_role), "installing the event triggers")


def uninstall(session: Session) -> None:
    """Remove it; capture hears of it. Nothing happens if it is not there."""
    _run(session, uninstall_sql(), "removing the event triggers")


def installed_version(session: Session) -> int | None:
    """The version that is installed; None for none."""
    found = read_installed(session)
    return None if found is None else found.version


_INSTALLED: Final = """
    select s.version, s.home = pg_catalog.concat_ws(' ',
               pg_catalog.current_setting('server_version_num')::int / 10000,
               (select d.oid from pg_catalog.pg_database d where d.datname = pg_catalog.current_database()),
               'keepstream.schema_state'::pg_catalog.regclass::oid),
           array(select wanted.name from unnest(%s::text[], %s::text[]) as wanted(name, event)
                  where not exists (
                      select from pg_catalog.pg_event_trigger e
                       where e.evtname = wanted.name and e.evtevent = wanted.event and e.evtenabled = 'A')
                  order by 1)
      from keepstream.schema_settings s
"""


def read_installed(session: Session) -> Installed | None:
    """What is installed; None for nothing, or for what our role may not read."""
    with wrapped("looking for the event triggers"):
        readable = session.execute(
            "select has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select')"
            " from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
            " where n.nspname = 'keepstream' and c.relname = 'schema_settings'"
        ).fetchone()
        if readable is None or not readable[0]:
            return None
        names, events = list(EVENT_TRIGGERS), [event for event, _ in EVENT_TRIGGERS.values()]
        row = session.execute(_INSTALLED, [names, events]).fetchone()
    return None if row is None else Installed(row[0], row[1], tuple(row[2]))


def read_key(session: Session) -> bytes:
    """The key of the messages' seals. Raises OperatorNeeded (`privilege-missing`)."""
    with wrapped("reading the key of schema changes"):
        row = session.execute("select key from keepstream.schema_key").fetchone()
    if row is None:
        raise OperatorNeeded(
            "keepstream.schema_key on the source is empty",
            code="schema-key-missing",
            hint="Run `keepstream schema install` again, as who installed it.",
        )
    return bytes(row[0])


def _run(session: Session, statements: str, doing: str) -> None:
    with wrapped(doing):
        try:
            session.execute(statements.encode())
        finally:
            session.rollback()


def _drop_triggers() -> str:
    return "".join(f"drop event trigger if exists {name};\n" for name in EVENT_TRIGGERS)


def _grants(role: str) -> str:
    name = sql.Identifier(role).as_string()
    return f"grant usage on schema keepstream to {name};\n" + "".join(
        f"grant select on keepstream.{table} to {name};\n" for table in _TABLES
    )


def _fill() -> str:
    """Changes that commit before the triggers are there are in the states, those after it in messages."""
    made = "".join(
        f"create event trigger {name} on {event} execute function keepstream.{function}();\n"
        f"alter event trigger {name} enable always;\n"
        for name, (event, function) in EVENT_TRIGGERS.items()
    )
    return f"{made}select keepstream.fill({VERSION});\n"
