"""A replica: can it be made, or go on, without a surprise in the middle?"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from psycopg import sql

from connectors.postgres import progress, source_schema
from connectors.postgres.apply_catalog import load_table
from connectors.postgres.copy_run import may_switch_triggers_off
from connectors.postgres.firing import silencing
from connectors.postgres.fitting import misfits
from connectors.postgres.instance import Instance, read_instance
from connectors.postgres.leftovers import filled_tables, user_objects
from connectors.postgres.publication import TableName
from connectors.postgres.row_security import Policed, exempting
from connectors.postgres.server import Server, read_role, read_server
from connectors.postgres.session import Session
from connectors.postgres.target import PreparedTable, read_prepared_tables
from pipeline.check.findings import Place, comment
from pipeline.check.source import check_connections, check_version
from pipeline.config import Initial
from pipeline.selection import Selection
from schemas.errors import OperatorNeeded
from schemas.finding import Finding
from schemas.table import TableSchema

NAMED_AT_MOST = 10


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What a replica is compared with."""

    server: Server
    instance: Instance
    selection: Selection
    schema: source_schema.SourceSchema
    versions: tuple[TableSchema, ...]
    published: frozenset[TableName]


@dataclass(frozen=True, slots=True)
class Followed:
    """The stream that the log holds; None: it is empty."""

    stream: bytes | None


class ReplicaCheck:
    """One replica. `source` and `followed` are None while source or log cannot be looked at: then less
    can be said."""

    def __init__(
        self,
        session: Session,
        pipeline: str,
        name: str,
        initial: Initial,
        source: SourceFacts | None,
        *,
        followed: Followed | None,
    ) -> None:
        self._followed = followed
        self._session = session
        self._pipeline = pipeline
        self._place = Place(f"replica {name}")
        self._initial = initial
        self._source = source
        self.instance = read_instance(session)
        self._server = read_server(session)
        self._role = read_role(session)

    def findings(self) -> Iterator[Finding]:
        place = self._place
        yield check_version(place, self._server)
        if self._server.in_recovery:
            yield place.error(
                "replica-is-standby",
                "recovery",
                "the server is a standby and cannot be written to",
                fix="Connect to its primary: add target_session_attrs=read-write to the replica's url.",
            )
            return
        if self._source and self._source.instance.identity == self.instance.identity:
            yield place.error(
                "replica-is-source",
                "url",
                f"is the source itself: database {self.instance.database} on the same server",
                fix="Name another database under replicas in keepstream.yaml.",
            )
            return
        yield check_connections(place, self.instance)
        if self._source:
            yield from self._compared(self._source)
        yield from self._content()

    def _compared(self, source: SourceFacts) -> Iterator[Finding]:
        if self._server.major < source.server.major:
            older = self._place.error if self._initial is Initial.COPY else self._place.warning
            yield older(
                "replica-older",
                "version",
                f"PostgreSQL {self._server.major} is older than the source's {source.server.major}:"
                " it may not know what the source's schema says",
                fix=f"Use PostgreSQL {source.server.major} or later, or prepare the schema yourself"
                " (initial: data).",
            )
        if self._server.encoding not in ("UTF8", source.server.encoding):
            anew = self._made_anew("encoding 'UTF8' template template0")
            yield self._place.error(
                "encoding-differs",
                "encoding",
                f"{self._server.encoding} cannot hold every text of the source's {source.server.encoding}",
                fix=f"Make the database anew: {anew}",
            )
        if self.instance.locale != source.instance.locale:
            yield self._place.warning(
                "collation-differs",
                "collation",
                f"is {self.instance.locale}, the source's is {source.instance.locale}:"
                " texts sort differently, and ranges or unique keys may mean something else",
                fix="Make the database with the source's locale, if its queries depend on the order.",
            )

    def _content(self) -> Iterator[Finding]:
        """Empty, ours already, or prepared."""
        row = progress.read(self._session, self._pipeline)
        quiet = may_switch_triggers_off(self._session)
        tables = read_prepared_tables(self._session, replica_role=quiet)
        if row is not None and row.state is progress.ReplicaState.STREAMING:
            yield self._ours(row)
            yield from self._writes(self._written(tables), quiet=quiet)
        elif self._initial is Initial.COPY:
            yield from self._fresh(unfinished=row is not None)
            yield self._session_role(quiet=quiet)
        else:
            yield from self._prepared(tables, unfinished=row is not None)
            yield from self._writes(tables, quiet=quiet)

    def _ours(self, row: progress.Progress) -> Finding:
        if self._followed is None or self._followed.stream == row.stream:
            return self._place.ok("replica-ours", "content", f"holds the source up to {row.position}")
        followed, stream = self._followed.stream, uuid.UUID(bytes=row.stream)
        log = "the log is empty" if followed is None else f"the log holds {uuid.UUID(bytes=followed)}"
        return self._place.error(
            "other-stream",
            "content",
            f"follows stream {stream}, and {log}",
            fix=f"Bring that stream's log back; or empty the replica to have it copied anew:"
            f" {self._made_anew()}",
        )

    def _made_anew(self, more: str = "") -> str:
        """The SQL that empties the replica, for a role that may make databases."""
        database, role = _identifier(self.instance.database), _identifier(self._role.name)
        words = f"create database {database} owner {role} {more}".strip()
        return f"drop database {database}; {words};"

    # a first copy

    def _fresh(self, *, unfinished: bool) -> Iterator[Finding]:
        if unfinished:
            yield self._place.note(
                "copy-unfinished",
                "content",
                "a copy was begun and not completed: what it made is cleared away, and it begins anew",
            )
        else:
            yield self._empty()
        if not self._role.creates_in_database:
            database, role = _identifier(self.instance.database), _identifier(self._role.name)
            yield self._place.error(
                "privilege-create",
                "role",
                f"{self._role.name} may not create schemas in database {self.instance.database}",
                sql=f"alter database {database} owner to {role};",
            )
        if self._source:
            yield from self._needs(self._source.schema)

    def _empty(self) -> Finding:
        objects = user_objects(self._session)
        if not objects:
            return self._place.ok("replica-empty", "content", "is empty: it gets a copy")
        more = f" and {len(objects) - 1} more objects" if len(objects) > 1 else ""
        return self._place.error(
            "replica-not-empty",
            "content",
            f"is not empty: it has {objects[0]}{more}",
            fix="Name an empty database; or set `initial: data` if only rows are missing, `initial: none` if"
            " all is there and equal.",
        )

    def _needs(self, schema: source_schema.SourceSchema) -> Iterator[Finding]:
        try:
            source_schema.require_extensions(self._session, schema.extensions)
            source_schema.require_roles(self._session, schema.policy_roles)
        except OperatorNeeded as error:
            yield self._place.caught(error, "schema")
        else:
            count = len(schema.extensions)
            yield self._place.ok("extensions", "extensions", f"all {count} of the source's are available")

    def _session_role(self, *, quiet: bool) -> Finding:
        if quiet:
            return self._place.ok(
                "session-replication-role", "role", f"{self._role.name} may set session_replication_role"
            )
        return self._place.warning(
            "session-replication-role",
            "role",
            f"{self._role.name} may not set session_replication_role: the replica is made without foreign"
            " keys and with its triggers disabled",
            sql=self._grant(),
        )

    def _grant(self) -> str:
        return f"grant set on parameter session_replication_role to {_identifier(self._role.name)};"

    # tables that are there

    def _prepared(self, tables: Sequence[PreparedTable], *, unfinished: bool) -> Iterator[Finding]:
        wanted = set(self._source.selection.names) if self._source else set()
        missing = sorted(wanted - {(table.schema, table.name) for table in tables})
        if missing:
            names = [f"{schema}.{name}" for schema, name in missing]
            yield self._place.error(
                "replica-schema",
                "content",
                f"lacks {len(missing)} of the source's tables: {_named(names)}",
                fix="Make them as they are on the source (pg_dump --schema-only), or empty the database and"
                " set `initial: copy`.",
            )
        if self._initial is Initial.DATA and not unfinished:
            writable = [(t.schema, t.name) for t in tables if t.writable and (t.schema, t.name) in wanted]
            filled = filled_tables(self._session, writable)
            if filled:
                yield self._place.error(
                    "replica-not-empty",
                    "content",
                    f"has rows in {_named([f'{schema}.{name}' for schema, name in filled])}",
                    sql="truncate " + ", ".join(_identifier(*table) for table in filled) + ";",
                )
        unfit = list(self._unfit({(table.schema, table.name) for table in tables}))
        yield from unfit
        if not missing and not unfit:
            yield self._place.ok("replica-prepared", "content", f"has all {len(wanted)} tables")

    def _unfit(self, there: Collection[TableName]) -> Iterator[Finding]:
        """Tables that would not hold every value of the source's as it is."""
        for version in self._source.versions if self._source else ():
            if (version.schema, version.name) not in there:
                continue
            target = load_table(self._session, version.schema, version.name, replica_role=False)
            found = list(misfits(version, target))
            if found:
                yield self._place.error(
                    "replica-schema",
                    version.qualified_name,
                    "; ".join(each.seen for each in found),
                    sql="\n".join(each.fix for each in found),
                )

    def _written(self, tables: Sequence[PreparedTable]) -> list[PreparedTable]:
        """Those that a pipeline that runs writes to. A table that has not joined keeps no other from it."""
        published = self._source.published if self._source else frozenset()
        return [table for table in tables if not self._source or (table.schema, table.name) in published]

    def _writes(self, tables: Sequence[PreparedTable], *, quiet: bool) -> Iterator[Finding]:
        wanted = set(self._source.selection.names) if self._source else None
        ours = [table for table in tables if wanted is None or (table.schema, table.name) in wanted]
        refused = [f"{table.schema}.{table.name}" for table in ours if not table.writable]
        if refused:
            yield self._place.error(
                "privilege-write",
                "role",
                f"{self._role.name} may not write to {len(refused)} tables: {_named(refused)}",
                fix=f"Run there: grant OWNER_OF_THE_TABLES to {_identifier(self._role.name)};",
            )
        policed = [table.policed for table in ours if table.policed]
        if policed:
            yield self._policed(policed)
        firing = [table for table in ours if table.firing]
        if firing:
            yield self._fires(firing, quiet=quiet)
        elif quiet:
            yield self._session_role(quiet=True)
        else:
            yield self._place.note(
                "session-replication-role",
                "role",
                f"{self._role.name} may not set session_replication_role; no trigger or foreign key needs it",
            )

    def _policed(self, policed: Sequence[Policed]) -> Finding:
        names = [f"{each.schema}.{each.table}" for each in policed]
        lifting = [each.lifting() for each in policed if each.owned]
        others = ["-- or, for what it owns itself:", *map(comment, lifting)] if lifting else []
        return self._place.error(
            "replica-row-security",
            "role",
            f"row-level security applies to {self._role.name} on {len(policed)} tables, whose writes would be"
            f" refused: {_named(names)}",
            sql="\n".join([exempting(policed), *others]),
        )

    def _fires(self, tables: Sequence[PreparedTable], *, quiet: bool) -> Finding:
        first = tables[0]
        statements = silencing([each for table in tables for each in table.firing])
        if quiet:
            why = "triggers or rules that fire even where session_replication_role is replica are on"
        else:
            role = self._role.name
            why = f"{role} may not set session_replication_role, and triggers, rules or foreign keys of"
            statements = [self._grant(), "-- or, for all of them:", *map(comment, statements)]
        return self._place.error(
            "replica-triggers",
            "role",
            f"{why} {len(tables)} tables{', and' if quiet else ''} would act on what comes from the source:"
            f" {first.schema}.{first.name} ({', '.join(map(str, first.firing))})",
            sql="\n".join(statements),
        )


def _identifier(*names: str) -> str:
    return sql.Identifier(*names).as_string()


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
    return ", ".join(names[:NAMED_AT_MOST]) + more
