"""The preflight: looks at everything that the configuration names, in its order, and writes nothing.

What cannot be looked at becomes a finding itself, and the look at the rest goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

from connectors.postgres.catalog.inheritance import read_children
from connectors.postgres.catalog.publication import Publication, read_publication
from connectors.postgres.catalog.source_schema import read_source_schema
from connectors.postgres.catalog.tables import Table, count_large_objects, list_tables
from connectors.postgres.ddl import rights_now
from connectors.postgres.ddl.rights_now import Rights
from connectors.postgres.ddl.tracking import triggers_act
from connectors.postgres.instance import Instance, read_instance
from connectors.postgres.limits.sent import lists_in, sent_columns, sent_versions
from connectors.postgres.partitions.bounds import read_bounds
from connectors.postgres.replication.slot import read_slot
from connectors.postgres.sequences.reading import KnownSequence
from connectors.postgres.server import Role, Server, read_role, read_server
from connectors.postgres.session import Session, connect
from pipeline.app import open_log, policies, replica_conninfo, source_conninfo
from pipeline.board import read_reports, report_key
from pipeline.check.failover import check_failover
from pipeline.check.findings import SOURCE, Place
from pipeline.check.history import check_history, read_history
from pipeline.check.limits import check_limits
from pipeline.check.log import LOG, check_log
from pipeline.check.partitions import check_wal_reading, check_wholes, wholes_of
from pipeline.check.prepared import SourceFacts
from pipeline.check.publication import check_endangered, check_filtered, check_left, check_publication
from pipeline.check.replica import FollowedStream, ReplicaCheck
from pipeline.check.schema_trigger import check_rewrites, check_schema_trigger
from pipeline.check.sequences import check_source_sequences, source_sequences
from pipeline.check.source import check_source
from pipeline.check.tables import check_identities, check_tables, check_uncarried_objects
from pipeline.check.tools import check_tools
from pipeline.config import Config, Initial, readable_by_others
from pipeline.reports import CAPTURE_STAGE, Endangered
from pipeline.selection import Selection, is_by_root, select_tables
from schemas.errors import KeepstreamError
from schemas.finding import Finding, Severity

CONFIG = Place("config")


def preflight(config: Config, *, purpose: str = "check") -> list[Finding]:
    """Every finding about source, log, replicas and tools, those of one place together. Never writes,
    never raises for what it found. `purpose`: of its sessions."""
    findings = list(Preflight(config, purpose).findings())
    places = list(dict.fromkeys(finding.where for finding in findings))
    return sorted(findings, key=lambda finding: places.index(finding.where))


@dataclass(frozen=True, slots=True)
class _SeenTables:
    """The source's tables and what is published of them. `by_root`: `is_by_root`'s. `tells_changes`: whether
    event triggers do."""

    tables: tuple[Table, ...]
    publication: Publication | None
    selection: Selection
    by_root: bool
    established: bool
    tells_changes: bool


class Preflight:
    """One look. What is learned of the source is kept for the looks at the replicas."""

    def __init__(self, config: Config, purpose: str) -> None:
        self._config = config
        self._purpose = purpose
        self._source: SourceFacts | None = None
        self._followed: FollowedStream | None = None
        self._instances: dict[str, str] = {}

    def findings(self) -> Iterator[Finding]:
        yield from self._file()
        yield from _guarded(SOURCE, "connection", self._look_at_source)
        yield from _guarded(LOG, "log", self._look_at_log)
        for name in self._config.replicas:
            yield from _guarded(Place(f"replica {name}"), "connection", lambda: self._replica(name))  # noqa: B023
        if self._source and any(r.initial is Initial.COPY for r in self._config.replicas.values()):
            yield check_tools(self._config, self._source.server.major)

    def _file(self) -> Iterator[Finding]:
        path = self._config.path
        if path is not None and path.exists() and readable_by_others(path):
            yield CONFIG.warning(
                "config-readable", str(path), "others can read the configuration", fix=f"chmod 600 {path}"
            )

    def _look_at_source(self) -> Iterator[Finding]:
        with connect(source_conninfo(self._config), purpose=self._purpose) as session:
            yield from self._server_and_tables(session)

    def _look_at_log(self) -> Iterator[Finding]:
        """History needs both source and log."""
        with closing(open_log(self._config)) as log:
            yield from check_log(log, self._config)
            if self._source:
                with connect(source_conninfo(self._config), purpose=self._purpose) as session:
                    seen = read_history(session, log, self._config)
                    self._followed = FollowedStream(seen.stream)
                    yield from check_history(session, seen, log, self._config)

    def _server_and_tables(self, session: Session) -> Iterator[Finding]:
        config = self._config
        server, role, instance = read_server(session), read_role(session), read_instance(session)
        slot = read_slot(session, config.slot_name)
        established = slot is not None and not slot.foreign
        yield from check_source(server, instance, role, config, established=established)
        yield from check_failover(session, slot, config, purpose=self._purpose)
        seen = self._read_tables(session, established=established)
        yield from self._look_at_tables(session, seen, role)
        own = config.slot_name if established else None
        yield from check_wal_reading(session, server, seen.selection, slot=own)
        yield from check_uncarried_objects(session, role)
        sequences = source_sequences(session, config.publication_name if seen.publication else None)
        yield from check_source_sequences(SOURCE, sequences, role.name, established=established)
        triggers = check_schema_trigger(session)
        yield triggers
        if triggers.severity is Severity.OK:
            yield from check_rewrites(session, seen.selection.wanted)
        self._source = self._facts(session, server, instance, seen, sequences)

    def _read_tables(self, session: Session, *, established: bool) -> _SeenTables:
        source, name = self._config.source, self._config.publication_name
        tables, publication = list_tables(session, publication=name), read_publication(session, name)
        by_root = is_by_root(publication, source.partitions)
        selection = select_tables(tables, source.tables, source.keyless, by_root=by_root)
        return _SeenTables(tables, publication, selection, by_root, established, triggers_act(session))

    def _look_at_tables(self, session: Session, seen: _SeenTables, role: Role) -> Iterator[Finding]:
        source, publication, established = self._config.source, seen.publication, seen.established
        yield from check_tables(
            seen.tables,
            seen.selection,
            publication,
            role,
            chosen=source.tables,
            by_root=seen.by_root,
            established=established,
        )
        left = self._left(seen.tables, publication) if publication is not None and established else ()
        yield from check_left(left)
        others = seen.selection.without({each.table for each in left})
        yield from check_identities(others, source.keyless, publication, established=established)
        yield from check_publication(
            session,
            self._config.publication_name,
            publication,
            others,
            role,
            established=established,
            partitions=source.partitions,
        )
        yield from check_endangered(
            session, seen.tables, publication, source.keyless, established=established
        )
        yield from check_filtered(session, seen.tables, publication)
        yield from check_limits(
            session,
            publication,
            seen.selection,
            source.tables,
            role,
            by_root=seen.by_root,
            established=established,
        )
        yield from check_wholes(others, follows_schema=seen.tells_changes)

    def _facts(
        self,
        session: Session,
        server: Server,
        instance: Instance,
        seen: _SeenTables,
        sequences: tuple[KnownSequence, ...],
    ) -> SourceFacts:
        selection, publication = seen.selection, seen.publication
        wanted = [table.oid for table in selection.wanted]
        partitions = [partition.oid for table in selection.wanted for partition in table.partitions]
        listed = publication.tables if publication else ()
        published = frozenset((table.schema, table.name) for table in listed)
        lists = {**selection.lists_of_all_but(published), **lists_in(publication)}
        return SourceFacts(
            server,
            instance,
            selection,
            read_source_schema(session),
            sent_versions(session, wanted, lists),
            sent_columns(session, wanted, lists),
            published,
            frozenset(read_children(session)),
            read_bounds(session, [*wanted, *partitions]),
            sequences,
            count_large_objects(session),
            tells_changes=seen.tells_changes,
            wholes=wholes_of(seen.tables),
            publication=self._config.publication_name,
            is_published=publication is not None,
            is_established=seen.established,
            rights=self._rights(session),
        )

    def _rights(self, session: Session) -> Rights:
        wanted = any(rights_now.wanted(policies(self._config, name)) for name in self._config.replicas)
        return rights_now.read_rights(session) if wanted else Rights()

    def _left(self, tables: Iterable[Table], publication: Publication) -> tuple[Endangered, ...]:
        """What capture said last of tables that left and are still to join. Nothing where the log cannot be
        asked, which the look at it tells."""
        try:
            with closing(open_log(self._config)) as log:
                report = read_reports(log).get(report_key(CAPTURE_STAGE, owner=True))
        except KeepstreamError:
            return ()
        published, selects = {table.oid for table in publication.tables}, self._config.source.tables.selects
        to_join = {
            table.qualified_name
            for table in tables
            if table.oid not in published and selects(table.schema, table.name)
        }
        return tuple(each for each in report.left if each.table in to_join) if report else ()

    def _replica(self, name: str) -> Iterator[Finding]:
        config = self._config
        with connect(replica_conninfo(config, name), purpose=self._purpose) as session:
            initial = config.replicas[name].initial
            look = ReplicaCheck(
                session,
                config.name,
                name,
                initial,
                self._source,
                followed=self._followed,
                policies=policies(config, name),
                copies_awaited=config.replicas[name].copies_awaited,
            )
            yield from look.findings()
            other = self._instances.setdefault(look.instance.identity, name)
        if other != name:
            yield Place(f"replica {name}").error(
                "replica-twice",
                "url",
                f"is the same database as replica {other}",
                fix="Name each database once under replicas in keepstream.yaml.",
            )


def _guarded(place: Place, subject: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of one look; the error that ends it is the last of them."""
    try:
        yield from look()
    except KeepstreamError as error:
        yield place.caught(error, subject)
