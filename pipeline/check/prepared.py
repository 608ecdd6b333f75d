"""A replica's tables that are there: those that somebody prepared, or that a pipeline writes to already."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from connectors.postgres.apply.catalog import load_table
from connectors.postgres.catalog import source_schema
from connectors.postgres.catalog.columns import TableColumns, read_table_columns
from connectors.postgres.catalog.held_types import HeldColumns, read_enums, read_held_columns
from connectors.postgres.catalog.inheritance import read_children
from connectors.postgres.catalog.publication import TableName
from connectors.postgres.ddl.rights_now import Rights
from connectors.postgres.instance import Instance, has_role, lending_sql, superusers
from connectors.postgres.replica.firing import FOREIGN_KEY, Firing
from connectors.postgres.replica.fitting import Misfit, adding_labels, misfits, unfilled
from connectors.postgres.replica.leftovers import filled_tables, relations
from connectors.postgres.replica.narrowing import lacking_in, narrowing
from connectors.postgres.replica.row_security import Policed, exempting
from connectors.postgres.replica.target import PreparedTable
from connectors.postgres.sequences.reading import KnownSequence
from connectors.postgres.server import Role, Server
from connectors.postgres.session import Session
from pipeline.check.findings import Place, coming, comment, identifier, losing, named
from pipeline.check.partitions import check_one_table
from pipeline.config import Initial
from pipeline.selection import Selection
from schemas.finding import Finding
from schemas.identifiers import qualified
from schemas.table import TableSchema


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What a replica is compared with. `children`: each parent with each table that inherits from it.
    `bounds`: of partitions. `sequences`: those that are followed. `large_objects`: how many. `rights`:
    nothing where no replica follows owners or privileges."""

    server: Server
    instance: Instance
    selection: Selection
    schema: source_schema.SourceSchema
    versions: tuple[TableSchema, ...]
    columns: Mapping[TableName, TableColumns]
    published: frozenset[TableName]
    children: frozenset[tuple[TableName, TableName]]
    bounds: Mapping[TableName, str]
    sequences: tuple[KnownSequence, ...]
    large_objects: int
    tells_changes: bool = False
    """Its event triggers tell of schema changes: a replica that follows may be about to make them."""
    wholes: Mapping[TableName, TableName] = field(default_factory=dict)
    """Of partitions the table at the top."""
    publication: str = ""
    is_published: bool = False
    is_established: bool = False
    rights: Rights = field(default_factory=Rights)


class PreparedCheck:
    """`tables`: those of the replica. `source` is None while that cannot be looked at. `quiet`: our role may
    set session_replication_role."""

    def __init__(
        self,
        session: Session,
        place: Place,
        role: Role,
        source: SourceFacts | None,
        tables: Sequence[PreparedTable],
        *,
        quiet: bool,
    ) -> None:
        self._session = session
        self._place = place
        self._role = role
        self._source = source
        self._tables = tables
        self._quiet = quiet
        self._mending: dict[str, str] = {}

    def prepared(self, initial: Initial, *, unfinished: Callable[[], bool]) -> Iterator[Finding]:
        """That the tables are there, and can take what comes. `unfinished`: whether a copy was begun."""
        tables = self._tables
        wanted = set(self._source.selection.names) if self._source else set()
        missing = sorted(wanted - {(table.schema, table.name) for table in tables})
        apart = list(self._one_table(missing))
        yield from apart
        if missing and not apart:
            names = [qualified(schema, name) for schema, name in missing]
            yield self._place.error(
                "replica-schema",
                "content",
                f"lacks {len(missing)} of the source's tables: {named(names)}",
                fix="Make them as they are on the source (pg_dump --schema-only), or empty the database and"
                " set `initial: copy`.",
            )
            yield from self._unlabelled(missing, {}, self._place.error)
        if initial is Initial.DATA:
            writable = [(t.schema, t.name) for t in tables if t.writable and (t.schema, t.name) in wanted]
            filled = filled_tables(self._session, writable)
            if filled and not unfinished():
                yield self._filled(filled)
        for table in tables:
            if (table.schema, table.name) in wanted and table.unlogged:
                yield self._unlogged(table, self._place.error)
        unfit = list(self._unfit())
        yield from unfit
        if not missing and not unfit:
            yield self._place.ok("replica-prepared", "content", f"has all {len(wanted)} tables")

    def _one_table(self, missing: Collection[TableName]) -> Iterator[Finding]:
        """Partitions of the source whose rows could be meant for one table of the replica."""
        source = self._source
        if source is not None:
            yield from check_one_table(
                self._place,
                missing,
                {(table.schema, table.name) for table in self._tables},
                source.wholes,
                publication=source.publication,
                published=source.is_published,
                established=source.is_established,
            )

    def _filled(self, tables: Sequence[TableName]) -> Finding:
        names = ", ".join(each.as_string() for each in relations(self._session, tables))
        ways = [
            losing("every row that the replica has there", f"truncate {names};"),
            comment("or, if all rows are there and equal: set `initial: none` in keepstream.yaml"),
        ]
        return self._place.error(
            "replica-not-empty",
            "content",
            f"has rows in {named([qualified(*each) for each in tables])}; to empty them loses these rows",
            sql="\n".join(ways),
        )

    def narrowed(self) -> Iterator[Finding]:
        """Tables that a pipeline writes to and that were altered since: values would be lost silently. Where
        schema changes are followed, what is missing may be on its way."""
        severity = self._place.warning if self._is_told else self._place.error
        for version, found in self._misfits(self._narrower()):
            silent = [each for each in found if each.silent]
            yield from self._refuse(version, silent, severity, is_told=self._is_told)

    @property
    def _is_told(self) -> bool:
        return self._source is not None and self._source.tells_changes

    def unlabelled(self) -> Iterator[Finding]:
        """Enums of tables that a pipeline writes to, or that are still to join: on the replica, or with types
        that are."""
        there = read_held_columns(self._session, [table.oid for table in self._tables])
        tables = self._source.columns if self._source else ()
        yield from self._unlabelled(tables, there, self._place.warning, is_told=self._is_told)

    def _unlabelled(
        self,
        tables: Iterable[TableName],
        there: Mapping[TableName, HeldColumns],
        severity: Callable[..., Finding],
        *,
        is_told: bool = False,
    ) -> Iterator[Finding]:
        enums, ours = read_enums(self._session), self._source.columns if self._source else {}
        lacking = (lacking_in(ours[name].held, there.get(name, {}), enums) for name in tables if name in ours)
        for each in dict.fromkeys(chain.from_iterable(lacking)):
            adding = adding_labels(each)
            yield severity(
                "replica-schema",
                f"enum {each.there.type_name}",
                f"lacks {', '.join(map(repr, each.labels))} of the source's: no row with one can be written",
                sql=coming(adding) if is_told else adding,
            )

    def emptied_by_a_crash(self) -> Iterator[Finding]:
        """Of the tables that a pipeline writes to. A join that is still on its way makes its own logged."""
        for table in self.written():
            if table.unlogged:
                yield self._unlogged(table, self._place.warning)

    def _narrower(self) -> set[TableName]:
        """Found in one look at all of them: this is asked at each start."""
        if self._source is None:
            return set()
        ours = self._source.columns
        there = read_table_columns(self._session, [table.oid for table in self.written()])
        return {name for name, columns in there.items() if name in ours and _loses(ours[name], columns)}

    def _unfit(self) -> Iterator[Finding]:
        """Tables that would not hold every value of the source's as it is, or want more than it has."""
        for version, found in self._misfits(self._source.columns if self._source else ()):
            yield from self._refuse(version, found, self._place.error)

    def _misfits(self, wanted: Collection[TableName]) -> Iterator[tuple[TableSchema, list[Misfit]]]:
        there = {(table.schema, table.name) for table in self._tables}.intersection(wanted)
        for version in self._source.versions if self._source else ():
            name = (version.schema, version.name)
            if self._source and name in there:
                target = load_table(self._session, *name, replica_role=False)
                found = misfits(version, target, self._source.columns.get(name))
                yield version, [*found, *unfilled(version, target)]

    def _refuse(
        self,
        version: TableSchema,
        found: Sequence[Misfit],
        severity: Callable[..., Finding],
        *,
        is_told: bool = False,
    ) -> Iterator[Finding]:
        """What mends several tables, as that of a partitioned one does, is told once. `is_told`: messages may
        mend it."""
        if not found:
            return
        table, seen = version.qualified_name, "; ".join(map(_seen, found))
        new = [each for each in found if each.fix not in self._mending]
        if new:
            self._mending |= {each.fix: table for each in new}
            mending = coming if is_told else str
            statements = [losing(each.loses, each.fix) if each.loses else mending(each.fix) for each in new]
            yield severity("replica-schema", table, seen, sql="\n".join(statements))
        else:
            fix = f"The SQL for {self._mending[found[-1].fix]} mends it, too."
            yield severity("replica-schema", table, seen, fix=fix)

    def written(self) -> list[PreparedTable]:
        """Those that a pipeline that runs writes to. A table that has not joined keeps no other from it."""
        published = self._source.published if self._source else frozenset()
        return [
            table for table in self._tables if not self._source or (table.schema, table.name) in published
        ]

    def writes(self, tables: Sequence[PreparedTable]) -> Iterator[Finding]:
        """That nothing hinders our writes to these, or acts on them."""
        wanted = set(self._source.selection.names) if self._source else None
        ours = [table for table in tables if wanted is None or (table.schema, table.name) in wanted]
        refused = [table for table in ours if not table.writable]
        if refused:
            names = [qualified(table.schema, table.name) for table in refused]
            yield self._place.error(
                "privilege-write",
                "role",
                f"{self._role.name} may not write to {len(refused)} tables: {named(names)}",
                sql="\n".join(self._permitting(refused)),
            )
        yield from self._children(ours)
        policed = [table.policed for table in ours if table.policed]
        if policed:
            yield self._policed(policed)
        firing = [table for table in ours if table.firing]
        if firing:
            yield self._fires(firing)
        elif self._quiet:
            yield self.session_role()
        else:
            yield self._place.note(
                "session-replication-role",
                "role",
                f"{self._role.name} may not set session_replication_role; no trigger or foreign key needs it",
            )

    def _permitting(self, tables: Sequence[PreparedTable]) -> Iterator[str]:
        """The owners' rights, as `init --grants` has it. Those of a superuser are never lent, and those that
        we have already were not enough."""
        ours, owners = identifier(self._role.name), {table.owner for table in tables}
        lent = [
            owner
            for owner in sorted(owners - superusers(self._session, owners))
            if not has_role(self._session, owner)
        ]
        for owner in lent:
            yield lending_sql(owner, self._role.name)
        others = [table for table in tables if table.owner not in lent]
        if others:
            schemas = ", ".join(sorted({identifier(table.schema) for table in others}))
            names = ", ".join(identifier(table.schema, table.name) for table in others)
            yield f"grant usage on schema {schemas} to {ours};"
            yield f"grant select, insert, update, delete, truncate on table {names} to {ours};"

    def _unlogged(self, table: PreparedTable, severity: Callable[..., Finding]) -> Finding:
        return severity(
            "replica-unlogged",
            qualified(table.schema, table.name),
            "is unlogged: a crash would empty it, and nothing would bring its rows again",
            sql="\n".join(
                f"alter table only {name} set logged;  -- nobody reads or writes it meanwhile"
                for name in table.unlogged
            ),
        )

    def _children(self, tables: Sequence[PreparedTable]) -> Iterator[Finding]:
        """Our own statements name a table with ONLY; those of others show and touch their rows."""
        if self._source is None:
            return
        ours = {(table.schema, table.name) for table in tables}
        for parent, child in read_children(self._session):
            if parent in ours and (parent, child) not in self._source.children:
                yield self._place.warning(
                    "replica-inherited",
                    qualified(*parent),
                    f"{qualified(*child)} inherits from it, on the replica alone: there SELECT, UPDATE and"
                    " DELETE without ONLY reach the rows of both",
                    sql=comment(
                        "takes its rows from whoever asks the parent for them:"
                        f" alter table {identifier(*child)} no inherit {identifier(*parent)};"
                    ),
                )

    def _policed(self, policed: Sequence[Policed]) -> Finding:
        names = [qualified(each.schema, each.table) for each in policed]
        lifting = [each.lifting() for each in policed if each.owned]
        others = ["-- or, for what it owns itself:", *map(comment, lifting)] if lifting else []
        return self._place.error(
            "replica-row-security",
            "role",
            f"row-level security applies to {self._role.name} on {len(policed)} tables, whose writes would be"
            f" refused: {named(names)}",
            sql="\n".join([exempting(policed), *others]),
        )

    def _fires(self, tables: Sequence[PreparedTable]) -> Finding:
        first = tables[0]
        firing = [each for table in tables for each in table.firing]
        statements = list(dict.fromkeys(_silencing(each, quiet=self._quiet) for each in firing))
        lost = "; to drop a foreign key loses it" if any(each.kind == FOREIGN_KEY for each in firing) else ""
        if self._quiet:
            why = "triggers or rules that fire even where session_replication_role is replica are on"
        else:
            role = self._role.name
            why = f"{role} may not set session_replication_role, and triggers, rules or foreign keys of"
            statements = [self._grant(), "-- or, for all of them:", *map(_commented, statements)]
        return self._place.error(
            "replica-triggers",
            "role",
            f"{why} {len(tables)} tables{', and' if self._quiet else ''} would act on what comes from the"
            f" source: {qualified(first.schema, first.name)} ({', '.join(map(str, first.firing))}){lost}",
            sql="\n".join(statements),
        )

    def session_role(self) -> Finding:
        """Whether a copy's triggers and foreign keys keep still."""
        if self._quiet:
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
        return f"grant set on parameter session_replication_role to {identifier(self._role.name)};"


def _loses(ours: TableColumns, there: TableColumns) -> bool:
    """Whether the replica's columns would hold other values than the source's."""
    plain = there.held.keys() - there.generated.keys()
    return bool(plain & ours.generated.keys()) or any(
        column in there.held and narrowing(held, there.held[column]) for column, held in ours.held.items()
    )


def _seen(found: Misfit) -> str:
    return f"{found.seen}, and mending that loses {found.loses}" if found.loses else found.seen


def _silencing(firing: Firing, *, quiet: bool) -> str:
    """A trigger or rule can be enabled again; a foreign key is gone."""
    statement = firing.silencing(replica_role=quiet)
    return losing("the foreign key", statement) if firing.kind == FOREIGN_KEY else statement


def _commented(line: str) -> str:
    return line if line.startswith("--") else comment(line)
