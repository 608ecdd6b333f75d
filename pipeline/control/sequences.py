"""Whether a replica's sequences are at or past where the source's stood at one moment (P23)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from psycopg import sql

from connectors.postgres.sequences.reading import (
    Cycle,
    KnownSequence,
    list_followed,
    list_named,
    read_values,
)
from connectors.postgres.session import Session, limit_waits
from schemas.sequence import SequenceValue


@dataclass(frozen=True, slots=True)
class Stood:
    """A sequence of the source, and where it stood."""

    sequence: KnownSequence
    value: SequenceValue


@dataclass(frozen=True, slots=True)
class Lagging:
    """wanted: where the source's stood. standing: where the replica's stands; None if that cannot be read.
    may_set: whether the replica's role may set it to that."""

    wanted: SequenceValue
    standing: SequenceValue | None
    may_set: bool

    def __str__(self) -> str:
        at = "cannot be read" if self.standing is None else f"is at {self.standing.last_value}"
        return f"{self.wanted.qualified_name} {at}, the source's was at {self.wanted.last_value}"

    @property
    def setting_sql(self) -> str:
        """What sets it by hand on the replica."""
        name = sql.Literal(sql.Identifier(self.wanted.schema, self.wanted.name).as_string()).as_string()
        called = "true" if self.wanted.is_called else "false"
        return f"select pg_catalog.setval({name.strip()}, {self.wanted.last_value}, {called});"


def sequences_hint(lagging: Lagging, replica: str) -> str:
    """What mends that a sequence stays behind."""
    by_hand = f"or set it there: {lagging.setting_sql}"
    if lagging.may_set:
        return f"Capture and apply of {replica} set it while they run: see `keepstream status`; {by_hand}"
    name = sql.Identifier(lagging.wanted.schema, lagging.wanted.name).as_string()
    return (
        f"Let {replica}'s role read and set it: grant select, update on sequence {name} to ROLE;"
        f" widen its MINVALUE and MAXVALUE if they are narrower than the source's; {by_hand}"
    )


@dataclass(slots=True)
class AwaitedSequences:
    """What is still awaited of where the source's sequences stood. missing: the replica does not have them.
    hidden: our role may not read them on the source."""

    awaited: dict[tuple[str, str], Stood]
    hidden: tuple[str, ...] = ()
    missing: set[str] = field(default_factory=set)
    compared: int = 0

    def look(
        self, replica: Session, source_now: Callable[[], Mapping[tuple[str, str], SequenceValue]]
    ) -> list[Lagging]:
        """Those that are behind now; the others are not looked at again. `source_now`: where the source's
        that are still awaited stand now, because one that was set back there goes back here."""
        limit_waits(replica)
        known = {each.key: each for each in list_named(replica, self.awaited)}
        self.missing |= {one.value.qualified_name for key, one in self.awaited.items() if key not in known}
        self.awaited = {key: one for key, one in self.awaited.items() if key in known}
        standing = {value.key: value for value in read_values(replica, known.values(), skip_locked=True)}
        if all(is_reached(one, standing.get(key), None) for key, one in self.awaited.items()):
            self.awaited = {}
        else:
            now = source_now()
            self.awaited = {
                key: one
                for key, one in self.awaited.items()
                if key in now and not is_reached(one, standing.get(key), now[key])
            }
        return [
            Lagging(one.value, standing.get(key), may_set(known[key], one.value))
            for key, one in self.awaited.items()
        ]


def may_set(here: KnownSequence, value: SequenceValue) -> bool:
    """Whether our role may set a sequence of this server to a value that it can hold."""
    return here.readable and here.settable and here.lowest <= value.last_value <= here.highest


def read_awaited(source: Session, publication: str) -> AwaitedSequences:
    """Where they stand now on the source."""
    limit_waits(source)
    known = list_followed(source, publication)
    by_key = {each.key: each for each in known}
    values = read_values(source, known)
    hidden = tuple(each.qualified_name for each in known if not each.readable)
    awaited = {value.key: Stood(by_key[value.key], value) for value in values}
    return AwaitedSequences(awaited, hidden, compared=len(awaited))


def read_now(source: Session, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], SequenceValue]:
    """Where these stand now, without those that were dropped."""
    return {value.key: value for value in read_values(source, list_named(source, keys))}


def is_reached(one: Stood, standing: SequenceValue | None, now: SequenceValue | None) -> bool:
    """Whether a replica's sequence stands at or past where the source's stood, or, if that was set back
    meanwhile, at or past where it stands now. Of one that goes round and round only `now` tells."""
    if standing is None:
        return False
    if one.sequence.cycle is not None and now is not None:
        return _steps(one, standing) <= _steps(one, now)
    if one.sequence.cycle is not None:
        return standing == one.value
    if now is not None and one.value.passed(now):
        return not now.passed(standing)
    return not one.value.passed(standing)


def _steps(one: Stood, value: SequenceValue) -> int:
    """How far a cycling sequence has gone from where it stood, in half steps."""
    cycle: Cycle | None = one.sequence.cycle
    assert cycle is not None
    sign = 1 if one.sequence.ascending else -1

    def place(of: SequenceValue) -> int:
        return 2 * sign * of.last_value + of.is_called

    return (place(value) - place(one.value)) % (2 * (abs(cycle.last - cycle.first) + 1))
