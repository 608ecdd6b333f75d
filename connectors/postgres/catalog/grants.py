"""SQL that makes the roles Keepstream works under, for a superuser to run once.

It can be run again, grants nothing that is not needed, and contains no password.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field
from typing import Final

from psycopg import pq, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from connectors.postgres.catalog.publication import POSTGRESQL_18, create_publication_sql, limit_sql
from connectors.postgres.limits.limit import Limits
from connectors.postgres.session import describe
from schemas.errors import ConfigError

DEFAULT_ROLE: Final = "keepstream"
_UNSAID: Final = "\x01"


@dataclass(frozen=True, slots=True)
class Login:
    """Whom a connection string logs in, and where."""

    role: str
    database: str
    server: str


def login_of(conninfo: str) -> Login:
    """The role and database that a connection string or its service names; else the role is ours, and the
    database is named like it, as libpq does. Raises ConfigError (`conninfo-invalid`)."""
    given = {**_of_service(conninfo), **conninfo_to_dict(conninfo)}
    describe(make_conninfo("", **given))  # which refuses what libpq cannot read, or misreads
    role = str(given.get("user") or DEFAULT_ROLE)
    server = str(given.get("host") or given.get("hostaddr") or given.get("service") or "localhost")
    login = Login(role, str(given.get("dbname") or role), server)
    if not f"{login.role}{login.database}{login.server}".isprintable():
        raise ConfigError(  # the names stand in comments, too, which a line break would end
            "a connection string names a role, database or host with unprintable characters",
            code="conninfo-invalid",
            hint="Rename them, or write the grants by hand.",
        )
    return login


def _of_service(conninfo: str) -> dict[str, str]:
    """What the service file says of the service that a connection string names; {} if it names none, or one
    that is not there. Only its defaults make libpq read that file, which wins over the environment."""
    describe(conninfo)
    service = conninfo_to_dict(conninfo).get("service")
    if not service:
        return {}
    asked = {"PGUSER": _UNSAID, "PGDATABASE": _UNSAID, "PGHOST": _UNSAID, "PGSERVICE": str(service)}
    before = {name: os.environ.get(name) for name in asked}
    os.environ.update(asked)
    try:
        found = {o.keyword.decode(): (o.val or b"").decode() for o in pq.Conninfo.get_defaults()}
    finally:
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value
    return {
        name: found[name] for name in ("user", "dbname", "host") if found.get(name) not in (None, "", _UNSAID)
    }


@dataclass(frozen=True, slots=True)
class Chosen:
    """Tables that one pattern of `include` names and none of `exclude`; a pattern is a regular
    expression for the schema and one for the table. `limits`: of those of which not all is published.
    `by_root`: rows of partitions come under the name of the table at the top."""

    include: tuple[tuple[str, str], ...]
    exclude: tuple[tuple[str, str], ...]
    limits: Limits = field(default_factory=dict)
    by_root: bool = False


_CREATE_ROLE = """\
begin
    if not exists (select from pg_catalog.pg_roles where rolname = {role_text}) then
        create role {role};
    end if;
end"""

_ROLE = """\
{create_role}
alter role {role} {attributes};
-- Its password, if it logs in with one:  \\password {role}
grant connect on database {database} to {role};
"""

_SOURCE = """\
-- Source {server}: run as a superuser in database {database}.
{role_sql}grant pg_read_all_data to {role};
-- So that it can name the transactions it waits for (optional):
grant pg_read_all_stats to {role};
"""

_LEAVES: Final = "c.relkind = 'r'"
_WHOLES: Final = "c.relkind in ('r', 'p') and not c.relispartition"

# Only tables whose rows can be told apart: on any other, publishing makes the application's UPDATE
# and DELETE fail.
_CREATE_PUBLICATION = """\
declare
    tables text;
    owners oid[];
begin
    select string_agg(format('only %I.%I', n.nspname, c.relname){limits}, ', '
                      order by n.nspname, c.relname),
           array_agg(distinct c.relowner)
      into tables, owners
      from pg_catalog.pg_class c
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where {candidates} and c.relpersistence = 'p'
       and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'keepstream')
       and ({include})
       and not ({exclude})
       and pg_catalog.pg_has_role(c.relowner, 'usage')
       and (c.relreplident = 'f' or pg_catalog.pg_get_replica_identity_index(c.oid) is not null)
       and not exists (
           select from pg_catalog.pg_attribute a
             left join pg_catalog.pg_index i
               on i.indexrelid = pg_catalog.pg_get_replica_identity_index(c.oid)
            where a.attrelid = c.oid
              and (a.attgenerated <> '' and a.attnum = any (i.indkey)
                   or a.attgenerated = 'v' and c.relreplident = 'f')
       );
    if not exists (select from pg_catalog.pg_publication where pubname = {publication_text}) then
        execute case when pg_catalog.current_setting('server_version_num')::int < {version_18}
            then {create} else {create_18} end;
        if tables is not null then
            execute {add} || tables;
        end if;
        if cardinality(owners) = 1 and (select rolsuper from pg_catalog.pg_roles where rolname = current_user)
        then
            execute {give} || pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(owners[1]));
        end if;
    end if;
end"""

_PUBLICATION = """\

-- Source {server}, database {database}: the publication. Run as the owner of the tables, who needs
-- CREATE on the database, or as a superuser. It lists the tables that can be replicated now.
-- A superuser gives it to the owner of the tables, if that is one: so tables can join later.
{create_publication}

-- Instead of the publication above: lend the owner's rights, and Keepstream makes and keeps it by
-- itself. New tables then join without your doing, and `keyless: full` can be carried out.
--   grant create on database {database} to {role};
--   grant OWNER_OF_THE_TABLES to {role};
"""

_REPLICA = """\

-- Replica {server}: run as a superuser in database {database}.
{role_sql}-- The copy creates schemas, tables and extensions, which the database's owner may.
alter database {database} owner to {role};
-- PostgreSQL 15 and later; where it cannot be granted, leave it out (docs/managed-services.md).
grant set on parameter session_replication_role to {role};
-- Only for a replica that has its tables already (initial: data or none): lend their owner's rights.
--   grant OWNER_OF_THE_TABLES to {role};
"""


def source_grants(conninfo: str, *, publication: str, chosen: Chosen) -> str:
    """SQL for the source: the role, and the publication made by the owner of the tables."""
    login = login_of(conninfo)
    earlier, since_18 = (
        create_publication_sql(publication, (), server_version=version, by_root=chosen.by_root)
        for version in (POSTGRESQL_18 - 1, POSTGRESQL_18)
    )
    create_publication = _CREATE_PUBLICATION.format(
        candidates=_WHOLES if chosen.by_root else _LEAVES,
        include=_any_of(chosen.include),
        exclude=_any_of(chosen.exclude),
        limits=_limits(chosen.limits),
        publication_text=_literal(publication),
        version_18=str(POSTGRESQL_18),
        create=_literal(earlier),
        create_18=_literal(since_18),
        add=_literal(f"alter publication {_identifier(publication)} add table "),
        give=_literal(f"alter publication {_identifier(publication)} owner to "),
    )
    return _fill(_SOURCE, login, role_sql=_role(login, "login replication")) + _fill(
        _PUBLICATION, login, create_publication=_block(create_publication)
    )


def _limits(limits: Limits) -> str:
    """What follows on a table's name."""
    cases = [
        f"\n when n.nspname = {_literal(schema)} and c.relname = {_literal(table)}"
        f" then {_literal(limit_sql(limit))}"
        for (schema, table), limit in limits.items()
    ]
    return f" || case{''.join(cases)}\n else '' end" if cases else ""


def replica_grants(conninfo: str) -> str:
    """SQL for a replica: the role, which owns its database and may switch triggers off."""
    login = login_of(conninfo)
    return _fill(_REPLICA, login, role_sql=_role(login, "login"))


def _role(login: Login, attributes: str) -> str:
    create_role = _fill(_CREATE_ROLE, login, role_text=_literal(login.role))
    return _fill(_ROLE, login, attributes=attributes, create_role=_block(create_role))


def _block(body: str) -> str:
    """The DO that runs it, quoted by something that is not in it."""
    tags = itertools.chain(["$$"], (f"$grants{number}$" for number in itertools.count(1)))
    quote = next(tag for tag in tags if tag not in body)
    return f"do {quote} {body} {quote};"


def _fill(template: str, login: Login, **values: str) -> str:
    return template.format(
        role=_identifier(login.role), database=_identifier(login.database), server=login.server, **values
    )


def _any_of(patterns: tuple[tuple[str, str], ...]) -> str:
    tests = [
        f"(n.nspname ~ {_literal(schema)} and c.relname ~ {_literal(table)})" for schema, table in patterns
    ]
    return " or ".join(tests) or "false"


def _identifier(name: str) -> str:
    return sql.Identifier(name).as_string()


def _literal(text: str) -> str:
    return sql.Literal(text).as_string().lstrip()
