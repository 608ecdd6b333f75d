"""What of the event triggers is installed on a source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from connectors.postgres.ddl.install import EVENT_TRIGGERS, VERSION
from connectors.postgres.session import Session, wrapped


@dataclass(frozen=True, slots=True)
class Installed:
    """`version`: of what is there; 0 if our role may not look. `readable`: whether it may read the key.
    `at_home`: installed in this database and release, not restored into it. `missing`, `disabled`: event
    triggers that are not there, or do not fire in every session. `owner`: who may remove it."""

    version: int
    readable: bool
    at_home: bool
    missing: tuple[str, ...]
    disabled: tuple[str, ...]
    owner: str

    @property
    def is_current(self) -> bool:
        """Whether the event triggers are those of this release and this database."""
        return self.version == VERSION and self.at_home and not self.missing

    @property
    def works(self) -> bool:
        """Whether every change of now on is told, and capture can know it."""
        return self.is_current and self.readable and not self.disabled


_RIGHTS: Final = """
    select has_schema_privilege(n.oid, 'usage') and has_table_privilege(s.oid, 'select'),
           has_table_privilege(k.oid, 'select'), pg_get_userbyid(k.relowner)
      from pg_catalog.pg_namespace n
      join pg_catalog.pg_class s on s.relnamespace = n.oid and s.relname = 'schema_settings'
      join pg_catalog.pg_class k on k.relnamespace = n.oid and k.relname = 'schema_key'
     where n.nspname = 'keepstream'
"""
_TRIGGERS: Final = "select evtname, evtevent, evtenabled = 'A' from pg_catalog.pg_event_trigger"
# keepstream.home(), which only its owner may call.
_SETTINGS: Final = """
    select s.version, s.home = concat_ws(' ', current_setting('server_version_num')::int / 10000,
               (select d.oid from pg_catalog.pg_database d where d.datname = current_database()),
               'keepstream.schema_state'::regclass::oid)
      from keepstream.schema_settings s
"""


def read_installed(session: Session) -> Installed | None:
    """What is installed; None for nothing."""
    with wrapped("looking for the event triggers"):
        rights = session.execute(_RIGHTS).fetchone()
        if rights is None:
            return None
        settings = session.execute(_SETTINGS).fetchone() if rights[0] else None
        triggers = {(name, event): always for name, event, always in session.execute(_TRIGGERS)}
    version, at_home = settings or (0, False)
    wanted = [(name, event) for name, (event, _) in EVENT_TRIGGERS.items()]
    return Installed(
        version=version,
        readable=all(rights[:2]),
        at_home=at_home,
        missing=tuple(name for name, event in wanted if (name, event) not in triggers),
        disabled=tuple(name for name, event in wanted if not triggers.get((name, event), True)),
        owner=rights[2],
    )


def installed_version(session: Session) -> int | None:
    """The version that is installed; None for none, or for one that our role may not look at."""
    found = read_installed(session)
    return found.version or None if found else None


_LARGER: Final = """
    select t.id, t.size, s.max_rows_bytes
      from keepstream.schema_settings s,
           (select id, pg_table_size(id) + coalesce((select sum(pg_table_size(p.relid))
                                                       from pg_partition_tree(id) p where p.relid <> id), 0)
              from unnest(%s::oid[]) wanted (id)) t (id, size)
     where t.size > s.max_rows_bytes
     order by t.size desc
"""


@dataclass(frozen=True, slots=True)
class Larger:
    """A table, by OID, with more bytes than the event triggers send when DDL rewrites it: that limit, too."""

    oid: int
    size_bytes: int
    limit_bytes: int


def larger_than_sent(session: Session, tables: Sequence[int]) -> list[Larger]:
    """Of the tables with these OIDs, with their partitions, the largest first. They must be installed."""
    with wrapped("comparing tables with what the event triggers send"):
        return [Larger(*map(int, row)) for row in session.execute(_LARGER, [list(tables)])]


def count_followed(session: Session) -> dict[str, int]:
    """How many objects of each class have a state."""
    with wrapped("counting what is followed"):
        return dict(
            session.execute(
                "select class, count(*) from keepstream.schema_state where class not like '% acl'"
                " group by 1 order by 1"
            )
        )


_OTHERS: Final = r"""
    select exists (select from pg_catalog.pg_replication_slots
                    where slot_name like 'keepstream\_%%' and slot_name <> %s
                      and database = current_database())
"""


def used_by_others(session: Session, slot: str) -> bool:
    """Whether another pipeline than that of `slot` reads from this database."""
    with wrapped("looking for other pipelines' slots"):
        row = session.execute(_OTHERS, [slot]).fetchone()
    return bool(row and row[0])
