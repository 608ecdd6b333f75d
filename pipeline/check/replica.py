"""A replica: can it be made, or go on, without a surprise in the middle?"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from connectors.postgres.catalog import source_schema
from connectors.postgres.catalog.tables import count_large_objects
from connectors.postgres.copy.run import may_switch_triggers_off
from connectors.postgres.ddl import left_out
from connectors.postgres.ddl.follow import Policies
from connectors.postgres.instance import read_instance
from connectors.postgres.replica import progress
from connectors.postgres.replica.leftovers import UserObject, user_objects
from connectors.postgres.replica.target import PreparedTable, read_prepared_tables
from connectors.postgres.server import read_role, read_server
from connectors.postgres.session import Session
from pipeline.check.deviations import Deviations
from pipeline.check.findings import Place, identifier, losing
from pipeline.check.prepared import PreparedCheck, SourceFacts
from pipeline.check.rights import check_rights
from pipeline.check.sequences import check_replica_sequences
from pipeline.check.source import check_connections, check_version
from pipeline.config import Initial
from schemas.ddl.kinds import DEFAULTS
from schemas.errors import OperatorNeeded
from schemas.finding import Finding
from schemas.identifiers import qualified


@dataclass(frozen=True, slots=True)
class FollowedStream:
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
        followed: FollowedStream | None,
        policies: Policies = DEFAULTS,
        copies_awaited: bool = False,
    ) -> None:
        self._followed = followed
        self._policies = policies
        self._copies_awaited = copies_awaited
        self._session = session
        self._pipeline = pipeline
        self._name = name
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
        yield from self._temporary_tables()
        if self._source:
            yield from self._compared(self._source)
        yield from self._content()
        if self._source:
            yield from check_rights(
                self._session,
                self._place,
                self._role.name,
                self._source.rights,
                self._policies,
                told=self._source.tells_changes,
            )

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
                fix=f"Make the database anew, which loses all that it holds: {anew}",
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
        there = PreparedCheck(self._session, self._place, self._role, self._source, tables, quiet=quiet)
        if row is not None and row.state is progress.ReplicaState.STREAMING:
            yield self._ours(row)
            yield from self._awaiting()
            yield from there.narrowed()
            yield from there.unlabelled()
            yield from there.emptied_by_a_crash()
            yield from there.writes(there.written())
            yield from self._deviations(there.written())
            yield from self._sequences()
        elif self._initial is Initial.COPY:
            yield from self._fresh()
            yield from self._large_objects()
            yield there.session_role()
        else:
            yield from self._creates_in_database()
            if self._initial is Initial.DATA:
                yield from self._large_objects()
            yield from there.prepared(self._initial, unfinished=self._copy_is_begun)
            yield from there.writes(tables)
            yield from self._deviations(tables)
            yield from self._sequences()

    def _large_objects(self) -> Iterator[Finding]:
        """Of a replica that is to be copied: theirs could have the OIDs of the source's."""
        there = count_large_objects(self._session)
        if there and self._source and self._source.large_objects and not self._copy_is_begun():
            unlinking = "select lo_unlink(oid) from pg_largeobject_metadata;"
            yield self._place.error(
                "replica-large-objects",
                "large objects",
                f"has {there} large objects, and the source has some, too: the copy keeps their OIDs",
                sql=losing("all large objects of the replica", unlinking),
            )

    def _sequences(self) -> Iterator[Finding]:
        if self._source:
            wanted = self._source.sequences
            yield from check_replica_sequences(self._session, self._place, self._role.name, wanted)

    def _deviations(self, tables: Sequence[PreparedTable]) -> Iterator[Finding]:
        if self._source:
            yield from Deviations(self._session, self._place, self._source).of(tables)

    def _ours(self, row: progress.Progress) -> Finding:
        if self._followed is None or self._followed.stream == row.stream:
            return self._place.ok("replica-ours", "content", f"holds the source up to {row.position}")
        followed, stream = self._followed.stream, uuid.UUID(bytes=row.stream)
        log = "the log is empty" if followed is None else f"the log holds {uuid.UUID(bytes=followed)}"
        return self._place.error(
            "other-stream",
            "content",
            f"follows stream {stream}, and {log}",
            fix=f"Bring that stream's log back; or empty the replica, which loses all that it holds, to"
            f" have it copied anew: {self._made_anew()}",
        )

    def _awaiting(self) -> Iterator[Finding]:
        for table in sorted(left_out.read(self._session, self._pipeline).awaiting):
            command = f"`{left_out.copying_command(self._name, table)}`"
            by_itself = f"`keepstream run` copies them, exactly, as soon as it can; or at once: {command}."
            yield self._place.warning(
                "table-awaits-copy",
                qualified(*table),
                left_out.AWAITS_COPY,
                fix=by_itself if self._copies_awaited else f"{command} copies them, exactly.",
            )

    def _made_anew(self, more: str = "") -> str:
        """The SQL that empties the replica, for a role that may make databases."""
        database, role = identifier(self.instance.database), identifier(self._role.name)
        words = f"create database {database} owner {role} {more}".strip()
        return f"drop database {database}; {words};"

    # a first copy

    def _copy_is_begun(self) -> bool:
        """Asked after the look at what is there: the marker comes before all that a copy makes (P20)."""
        return progress.read(self._session, self._pipeline) is not None

    def _fresh(self) -> Iterator[Finding]:
        objects = user_objects(self._session)
        begun = self._copy_is_begun()
        if begun:
            yield self._place.note(
                "copy-unfinished",
                "content",
                "a copy was begun and not completed: what it made is cleared away, and it begins anew",
            )
        else:
            yield self._empty(objects)
        yield from self._creates_in_database(taken=bool(objects) and not begun)
        if self._source:
            yield from self._needs(self._source.schema)

    def _creates_in_database(self, *, taken: bool = False) -> Iterator[Finding]:
        """The copy makes the source's schemas, and every replica has one of ours. `taken`: somebody has made
        something there, who may need to own it."""
        prepared = self._initial is not Initial.COPY
        if not (self._role.creates_in_database or (prepared and progress.may_install(self._session))):
            database, role = identifier(self.instance.database), identifier(self._role.name)
            owner = f"alter database {database} owner to {role};"
            if taken:
                owner = losing("the database for its owner", owner)
            yield self._place.error(
                "privilege-create",
                "role",
                f"{self._role.name} may not create schemas in database {self.instance.database}",
                sql=f"grant create on database {database} to {role};" if prepared else owner,
            )

    def _temporary_tables(self) -> Iterator[Finding]:
        if not self._role.makes_temporary_tables:
            database, role = identifier(self.instance.database), identifier(self._role.name)
            yield self._place.warning(
                "privilege-temporary",
                "role",
                f"{self._role.name} may not make temporary tables in database {self.instance.database}:"
                " updates and deletes go one by one, also where the replica is far behind",
                sql=f"grant temporary on database {database} to {role};",
            )

    def _empty(self, objects: list[UserObject]) -> Finding:
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
