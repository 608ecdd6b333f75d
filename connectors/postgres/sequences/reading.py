"""Reading where sequences stand. They are not part of any snapshot: a value read after S is at least S's.

What a sequence's value is read with locks it until the transaction ends, so they are read a few at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql

from connectors.postgres.session import Session, wrapped
from schemas.errors import OperatorNeeded
from schemas.identifiers import qualified
from schemas.sequence import SequenceValue

AT_ONCE: Final = 500
_UNCALLED_AT_ONCE: Final = 100
DROPPED: Final = (psycopg.errors.UndefinedTable, psycopg.errors.InternalError_)
"""What PostgreSQL says of a sequence that was dropped after it was found: by its OID an internal error."""


@dataclass(frozen=True, slots=True)
class Cycle:
    """Between which values a sequence goes round."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class KnownSequence:
    """A sequence of this server. readable: our role may read its value. settable: it may set it. cycle: None
    where it ends instead."""

    oid: int
    schema: str
    name: str
    ascending: bool
    lowest: int
    highest: int
    readable: bool
    settable: bool
    cycle: Cycle | None

    @property
    def key(self) -> tuple[str, str]:
        return self.schema, self.name

    @property
    def qualified_name(self) -> str:
        """For messages; not SQL."""
        return qualified(self.schema, self.name)


_COLUMNS: Final = """
    select c.oid::bigint, n.nspname, c.relname, s.seqincrement > 0, s.seqmin, s.seqmax,
           pg_catalog.has_sequence_privilege(c.oid, 'select'),
           pg_catalog.has_sequence_privilege(c.oid, 'update'), s.seqcycle
      from pg_catalog.pg_sequence s
      join pg_catalog.pg_class c on c.oid = s.seqrelid
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
"""

_ALL: Final = f"""{_COLUMNS}
     where c.relpersistence <> 't' and n.nspname <> 'keepstream'
     order by n.nspname, c.relname
"""

_NAMED: Final = f"""{_COLUMNS}
      join unnest(%s::text[], %s::text[]) as w(schema, name) on w.schema = n.nspname and w.name = c.relname
"""

# A partition's default names the sequence that the partitioned table above it owns.
_FOLLOWED: Final = f"""
    with published as (
        select t.relid as oid
          from pg_catalog.pg_publication p, lateral pg_catalog.pg_get_publication_tables(p.pubname) t
         where p.pubname = %s
    ), tables as (
        select oid from published
         union
        select above.relid::oid from published, pg_catalog.pg_partition_ancestors(published.oid) above(relid)
    ), used as (
        select d.objid as oid from tables t
          join pg_catalog.pg_depend d on d.refobjid = t.oid
           and d.refclassid = 'pg_catalog.pg_class'::regclass and d.classid = d.refclassid
           and d.deptype in ('a', 'i')
         union
        select d.refobjid from tables t
          join pg_catalog.pg_attrdef a on a.adrelid = t.oid
          join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_attrdef'::regclass and d.objid = a.oid
           and d.refclassid = 'pg_catalog.pg_class'::regclass
    )
    {_COLUMNS}
     where c.relpersistence <> 't' and n.nspname <> 'keepstream'
       and (c.oid in (select oid from used)
            or n.oid in (select o.relnamespace from tables t join pg_catalog.pg_class o on o.oid = t.oid))
     order by n.nspname, c.relname
"""  # noqa: S608 - of constants

_VALUES: Final = """
    select o::bigint, pg_catalog.pg_sequence_last_value(o) from unnest(%s::oid[]) o
"""


def list_all(conn: Session) -> list[KnownSequence]:
    """All sequences but temporary ones and Keepstream's."""
    with wrapped("listing sequences"):
        return [_known(*row) for row in conn.execute(_ALL)]


def list_followed(conn: Session, publication: str) -> list[KnownSequence]:
    """Those that published tables own or take values from, and all others in these tables' schemas."""
    with wrapped("listing sequences"):
        return [_known(*row) for row in conn.execute(_FOLLOWED, [publication])]


def list_named(conn: Session, keys: Iterable[tuple[str, str]]) -> list[KnownSequence]:
    """Those of these schemas and names that there are."""
    names = list(keys)
    with wrapped("listing sequences"):
        rows = conn.execute(_NAMED, [[schema for schema, _ in names], [name for _, name in names]])
        return [_known(*row) for row in rows]


def _known(
    oid: int,
    schema: str,
    name: str,
    ascending: bool,
    lowest: int,
    highest: int,
    readable: bool,
    settable: bool,
    cycles: bool,
) -> KnownSequence:
    cycle = (Cycle(lowest, highest) if ascending else Cycle(highest, lowest)) if cycles else None
    return KnownSequence(oid, schema, name, ascending, lowest, highest, readable, settable, cycle)


def read_values(
    conn: Session, sequences: Iterable[KnownSequence], *, skip_locked: bool = False
) -> list[SequenceValue]:
    """Where they stand now; without those that we may not read, and that were dropped meanwhile. The session
    should be in autocommit. skip_locked: also without those that others keep locked for longer than the
    session's lock_timeout; else RetryLater (`lock-timeout`)."""
    values: list[SequenceValue] = []
    readable = [each for each in sequences if each.readable]
    with wrapped("reading sequences"):
        for start in range(0, len(readable), AT_ONCE):
            values += _read_some(conn, readable[start : start + AT_ONCE], skip_locked=skip_locked)
    return values


def _read_some(
    conn: Session, sequences: Sequence[KnownSequence], *, skip_locked: bool
) -> list[SequenceValue]:
    try:
        last: dict[int, int | None] = dict(
            conn.execute(_VALUES, [[each.oid for each in sequences]]).fetchall()
        )
        uncalled = _read_uncalled(conn, [each for each in sequences if last[each.oid] is None])
    except (psycopg.errors.LockNotAvailable, *DROPPED) as error:
        if isinstance(error, psycopg.errors.LockNotAvailable) and not skip_locked:
            raise
        if len(sequences) == 1:
            return []
        middle = len(sequences) // 2
        return [
            value
            for half in (sequences[:middle], sequences[middle:])
            for value in _read_some(conn, half, skip_locked=skip_locked)
        ]
    found = {oid: (value, True) for oid, value in last.items() if value is not None} | uncalled
    return [
        SequenceValue(each.schema, each.name, each.ascending, *found[each.oid])
        for each in sequences
        if each.oid in found
    ]


def read_all(conn: Session) -> list[SequenceValue]:
    """Where all stand now. Raises OperatorNeeded (`privilege-missing`) where we may not read one."""
    known = list_all(conn)
    hidden = [each for each in known if not each.readable]
    if hidden:
        raise OperatorNeeded(
            f"our role may not read {len(hidden)} sequences, among them {hidden[0].qualified_name}",
            code="privilege-missing",
            hint=f"Run on the source: {readable_sql(conn.info.user, hidden[:1])} or grant pg_read_all_data.",
        )
    return read_values(conn, known)


def readable_sql(role: str, sequences: Iterable[KnownSequence]) -> str:
    """What lets `role` read them."""
    names = sql.SQL(", ").join(sql.Identifier(each.schema, each.name) for each in sequences)
    return sql.SQL("grant select on sequence {} to {};").format(names, sql.Identifier(role)).as_string()


def _read_uncalled(conn: Session, sequences: Sequence[KnownSequence]) -> dict[int, tuple[int, bool]]:
    """(last_value, is_called) by OID of such as had not given out anything yet."""
    found: dict[int, tuple[int, bool]] = {}
    for start in range(0, len(sequences), _UNCALLED_AT_ONCE):
        some = sequences[start : start + _UNCALLED_AT_ONCE]
        query = sql.SQL(" union all ").join(
            sql.SQL("select {}::bigint, last_value, is_called from {}").format(
                each.oid, sql.Identifier(each.schema, each.name)
            )
            for each in some
        )
        found |= {oid: (last, called) for oid, last, called in conn.execute(query)}
    return found
