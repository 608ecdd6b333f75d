"""Setting a replica's sequences to where the source's stood. setval() is not undone by a rollback, which
does no harm: what is set is where the sequence shall stand however the transaction ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import psycopg

from connectors.postgres.sequences.reading import (
    AT_ONCE,
    DROPPED,
    KnownSequence,
    list_named,
    read_values,
)
from connectors.postgres.session import Session, wrapped
from schemas.errors import RetryLater
from schemas.sequence import SequenceValue, last_of


@dataclass(frozen=True, slots=True)
class Setting:
    """What to set: the sequence here, and the value from there."""

    here: KnownSequence
    value: SequenceValue


@dataclass(frozen=True, slots=True)
class Behind:
    """settings: what can be set. missing: what is not there. refused: what is behind and stays so, because
    our role may not read or set it, or it cannot hold the value."""

    settings: tuple[Setting, ...] = ()
    missing: tuple[SequenceValue, ...] = ()
    refused: tuple[Setting, ...] = ()

    def with_one(
        self, here: KnownSequence | None, current: SequenceValue | None, wanted: Sequence[SequenceValue]
    ) -> Behind:
        """The same and one more sequence. `current`: where it stands, if that may be read."""
        value = wanted[-1]
        if here is None:
            return replace(self, missing=(*self.missing, value))
        if current is not None:
            value = last_of(current, wanted)
            if value is current:
                return self
            if here.settable and here.lowest <= value.last_value <= here.highest:
                return replace(self, settings=(*self.settings, Setting(here, value)))
        return replace(self, refused=(*self.refused, Setting(here, value)))

    def portions(self) -> Iterator[Sequence[Setting]]:
        """The settings, as many at once as one transaction should lock."""
        for start in range(0, len(self.settings), AT_ONCE):
            yield self.settings[start : start + AT_ONCE]


_SET: Final = """
    select pg_catalog.setval(s.oid::regclass, s.last_value, s.is_called)
      from unnest(%s::oid[], %s::bigint[], %s::boolean[]) as s(oid, last_value, is_called)
"""
# Unlike what a transaction sets, it lets single statements fail.
_LOCK_TIMEOUT: Final = "set lock_timeout = '10s'"
_NO_LOCK_TIMEOUT: Final = "set lock_timeout = 0"
_ALTERED: Final = (*DROPPED, psycopg.errors.NumericValueOutOfRange)


def find_behind(conn: Session, wanted: Iterable[SequenceValue]) -> Behind:
    """Compare with where this server's sequences stand; of several values of one the later ones follow the
    earlier. The session must be in autocommit."""
    by_key: dict[tuple[str, str], list[SequenceValue]] = {}
    for value in wanted:
        by_key.setdefault(value.key, []).append(value)
    keys = list(by_key)
    found = Behind()
    for start in range(0, len(keys), AT_ONCE):
        some = {key: by_key[key] for key in keys[start : start + AT_ONCE]}
        known = {each.key: each for each in list_named(conn, some)}
        with _limited_waits(conn):
            current = {value.key: value for value in read_values(conn, known.values())}
        for key, values in some.items():
            found = found.with_one(known.get(key), current.get(key), values)
    return found


@contextlib.contextmanager
def _limited_waits(conn: Session) -> Iterator[None]:
    with wrapped("limiting waits for sequences"):
        conn.execute(_LOCK_TIMEOUT)
    yield
    with wrapped("limiting waits for sequences"):
        conn.execute(_NO_LOCK_TIMEOUT)


def set_sequences(conn: Session, settings: Sequence[Setting]) -> None:
    """Set them; each stays locked until the transaction ends, so at most AT_ONCE. Raises RetryLater
    (`sequence-altered`) where one is not as it was found any more."""
    values = [
        [setting.here.oid for setting in settings],
        [setting.value.last_value for setting in settings],
        [setting.value.is_called for setting in settings],
    ]
    with wrapped("setting sequences"):
        try:
            conn.execute(_SET, values)
        except _ALTERED as error:
            raise RetryLater(
                "a sequence was altered or dropped while it was to be set",
                code="sequence-altered",
                hint="Nothing need be done: it is looked at again.",
            ) from error


def advance_sequences(conn: Session, wanted: Iterable[SequenceValue]) -> Behind:
    """Set those that are behind; returns what was found. The session must be in autocommit."""
    behind = find_behind(conn, wanted)
    for some in behind.portions():
        set_sequences(conn, some)
    return behind
