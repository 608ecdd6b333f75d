"""What TRUNCATE has emptied and ALTER TABLE written anew, also of partitions whose rows a publication sends
under the name of their whole.

pgoutput says nothing of a TRUNCATE of such a partition by its own name, but it stands in the WAL, and so do
the rows that ALTER TABLE … SET LOGGED writes. So for a moment our slot is copied for `test_decoding`, another
output plugin of PostgreSQL's own: that tells of each, from where our slot stands on. The copy goes with the
session at the latest.
"""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final, LiteralString

import psycopg

from connectors.postgres.catalog.publication import TableName
from connectors.postgres.session import Session, wrapped
from schemas.identifiers import unquoted

_COPY: Final = "select pg_copy_logical_replication_slot(%(slot)s, %(copy)s, true, 'test_decoding')"
_MAKE: Final = "select pg_create_logical_replication_slot(%(copy)s, 'test_decoding', true)"
_DROP: Final = "select pg_drop_replication_slot(%(copy)s)"
_LOADED_WITHIN_MS: Final = 1000
"""The plugin is looked for before a new slot waits for open transactions."""
_READ: Final = """
    select data, xid::text::bigint
      from pg_logical_slot_get_changes(%(copy)s, %(end)s, %(count)s,
                                       'skip-empty-xacts', '1', 'include-xids', '0')
     where data ~ %(statement)s
"""
# Rows that are written anew look like new ones: only how many there are with them and without tells.
_COUNT: Final = """
    select substring(data from '^(.*?): INSERT:'), count(*)
      from pg_logical_slot_get_changes(%(copy)s, %(end)s, %(count)s,
                                       'skip-empty-xacts', '1', 'include-xids', '0',
                                       'include-rewrites', %(rewrites)s)
     where data ~ %(statement)s
     group by 1
"""
_AT_ONCE: Final = 20_000
"""The server keeps so many changes, or one transaction's, until it has all of them."""
_AT_MOST: Final = 5_000_000
"""It reads from the oldest transaction that was open on, each time anew: where that stays the same, more."""
_END: Final = "select pg_current_wal_flush_lsn()::text"
_IS_PAST: Final = """
    select confirmed_flush_lsn >= %(end)s::pg_lsn, confirmed_flush_lsn::text, restart_lsn::text
      from pg_replication_slots where slot_name = %(copy)s
"""
_NAMED: Final = """
    select n.nspname, c.relname
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
      join unnest(%s::text[], %s::text[]) as named (schema, name)
        on (named.schema, named.name) = (n.nspname, c.relname)
     where c.relkind in ('r', 'p', 'f')
"""
_NAME: Final = r'("([^"]|"")*"|[^[:space:]".,:]+)\.("([^"]|"")*"|[^[:space:]".,:]+)'
_STATEMENT: Final = rf"^table {_NAME}(, {_NAME})*: TRUNCATE: (\(no-flags\)|restart_seqs|cascade)"
_INSERT: Final = rf"^table {_NAME}: INSERT:"
_TABLE: Final = re.compile(r'("(?:[^"]|"")*"|[^\s".,:]+)\.("(?:[^"]|"")*"|[^\s".,:]+)')
_CANNOT: Final = (
    psycopg.errors.UndefinedFile,  # the plugin
    psycopg.errors.ConfigurationLimitExceeded,  # max_replication_slots
    psycopg.errors.ProgramLimitExceeded,  # a row that text cannot carry
    psycopg.errors.InternalError_,  # one of its values, which takes more memory as text than there may be
    psycopg.errors.InsufficientPrivilege,
)


_TOLD_ELSEWHERE: Final = (
    psycopg.errors.QueryCanceled,  # it waits for open transactions, with the plugin
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.ObjectNotInPrerequisiteState,  # wal_level, or a slot that was invalidated
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.UndefinedObject,
)


class Lack(Enum):
    """What a server needs, and has not, to tell what its WAL says of partitions."""

    PLUGIN = "test_decoding"
    SLOT = "a replication slot to spare"


@dataclass(frozen=True, slots=True)
class Truncate:
    """tables: that it emptied, by their names of then. xid: its transaction (32 bits).
    names_lost: no table has one of the names now."""

    tables: frozenset[TableName]
    xid: int
    names_lost: bool = False


def read_truncates(session: Session, slot: str) -> list[Truncate] | None:
    """Each that was committed behind what the slot's consumer has confirmed, in that order. None: the server
    cannot tell. The session must be in autocommit."""
    found = _read(session, slot, _READ, {"statement": _STATEMENT}, _end(session))
    if found is None:
        return None
    truncates = [Truncate(tables_of_line(data), xid) for data, xid in found]
    names = frozenset[TableName]().union(*(each.tables for each in truncates))
    with wrapped("reading names of tables"):
        lost = names - {*session.execute(_NAMED, [[s for s, _ in names], [n for _, n in names]])}
    return [replace(each, names_lost=bool(each.tables & lost)) for each in truncates]


def reading_lacks(session: Session, slot: str | None) -> Lack | None:
    """What keeps the WAL from being read so; only a slot of that plugin tells, which goes at once. `slot`:
    ours; None: there is none yet. The session must be in autocommit."""
    values = {"slot": slot, "copy": _new_name()}
    with wrapped("looking for the output plugin test_decoding"):
        try:
            with session.transaction():
                session.execute(f"set local statement_timeout = {_LOADED_WITHIN_MS}")
                session.execute(_MAKE if slot is None else _COPY, values)
                session.execute(_DROP, values)
        except psycopg.errors.UndefinedFile:
            return Lack.PLUGIN
        except psycopg.errors.ConfigurationLimitExceeded:
            return Lack.SLOT
        except _TOLD_ELSEWHERE:
            return None
    return None


def read_rewritten(session: Session, slot: str) -> frozenset[TableName] | None:
    """The tables of which ALTER TABLE wrote rows anew, as SET LOGGED does; else as `read_truncates`. VACUUM
    FULL, CLUSTER and SET TABLESPACE copy them as they are, and do not count."""
    end, counts = _end(session), Counter[str]()
    for rewrites, sign in (("1", 1), ("0", -1)):
        found = _read(session, slot, _COUNT, {"statement": _INSERT, "rewrites": rewrites}, end)
        if found is None:
            return None
        for data, count in found:
            counts[data] += sign * count
    rewritten = (tables_of_line(data) for data, count in counts.items() if count > 0)
    return frozenset[TableName]().union(*rewritten)


def _end(session: Session) -> str:
    """Of the WAL of now."""
    (end,) = session.execute(_END).fetchone() or ("",)
    return str(end)


def _read(
    session: Session, slot: str, query: LiteralString, values: Mapping[str, str], end: str
) -> list[tuple[Any, ...]] | None:
    values = {**values, "slot": slot, "copy": _new_name(), "end": end}
    with wrapped(f"reading the WAL behind slot {slot}"):
        try:
            session.execute(_COPY, values)
            try:
                return list(_read_copy(session, query, values))
            finally:
                with suppress(psycopg.Error):
                    session.execute(_DROP, values)
        except _CANNOT:
            return None


def _new_name() -> str:
    return f"keepstream_truncates_{secrets.token_hex(8)}"


def _read_copy(
    session: Session, query: LiteralString, values: Mapping[str, str]
) -> Iterator[tuple[Any, ...]]:
    """Up to `end`."""
    count, at, oldest, is_past = _AT_ONCE, "", "", False
    while not is_past:
        yield from session.execute(query, {**values, "count": count}).fetchall()
        before, older = at, oldest
        is_past, at, oldest = session.execute(_IS_PAST, values).fetchone() or (True, "", "")
        is_past = is_past or at == before
        count = min(2 * count, _AT_MOST) if oldest == older else _AT_ONCE


def tables_of_line(line: str) -> frozenset[TableName]:
    """Of `test_decoding`'s line, which begins with them."""
    found, at = set[TableName](), len("table ")
    while (table := _TABLE.match(line, at)) is not None:
        schema, name = table.groups()
        found.add((unquoted(schema), unquoted(name)))
        at = table.end() + len(", ")
    return frozenset(found)
