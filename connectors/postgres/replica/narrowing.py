"""Whether a type of the replica's takes every value of one of the source's as it is.

Another type is accepted only where PostgreSQL cannot round, cut or normalise a value's text without a word.
What a type refuses aloud (a number that is too large, a label that an enum lacks, a composite value with too
many attributes) is left to it; `lacking_labels` tells of the labels beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from connectors.postgres.catalog.held_types import COMPOSITE, ENUM, HeldColumns, HeldType
from schemas.pgtypes import FIRST_USER_OID, element_of, scale_of

_TEXT, _VARCHAR, _NUMERIC = 25, 1043, 1700

# By pg_type's names; any text goes into `text`, and into `character varying` without a length.
_WIDER: Final = {
    "int2": {"int4", "int8", "numeric"},
    "int4": {"int8", "numeric"},
    "int8": {"numeric"},
    "jsonb": {"json"},
}
_TIMES: Final = frozenset({1083, 1114, 1184, 1266})
_TIME_DIGITS: Final = 6
_LENGTHS: Final = frozenset({1043, 1562})


@dataclass(frozen=True, slots=True)
class LackingLabels:
    """`there`: the replica's enum, perhaps deep inside, that lacks labels of the source's."""

    source: HeldType
    there: HeldType

    @property
    def labels(self) -> tuple[str, ...]:
        """In the source's order."""
        return tuple(label for label in self.source.labels if label not in self.there.labels)


@dataclass(frozen=True, slots=True)
class Narrowing:
    """Where a value could change: `there` is the replica's, perhaps deep inside. `holder`: the composite
    type of the replica that has it as `attribute`; None if none does. reordered: the attributes of a
    composite type stand in another order, and each value would become another one's."""

    source: HeldType
    there: HeldType
    holder: HeldType | None = None
    attribute: str = ""
    reordered: bool = False


def narrowing(source: HeldType, there: HeldType) -> Narrowing | None:
    """The first place at which a value could change; None if there is none. What a type consists of is
    compared as far as `source` tells it."""
    if there.oid == _TEXT or (there.oid == _VARCHAR and there.modifier < 0):
        return None
    if source.oid < FIRST_USER_OID and there.oid == source.oid:
        return None if _is_as_wide(there, source.modifier) else Narrowing(source, there)
    if there.name == source.name or (source.is_array and there.is_array):
        return _narrowing_inside(source, there)
    if there.name in _WIDER.get(source.name, ()):
        rounds = there.oid == _NUMERIC and there.modifier >= 0
        return Narrowing(source, there) if rounds else None
    return None if there.kind == ENUM else Narrowing(source, there)


def lacking_labels(source: HeldType, there: HeldType) -> LackingLabels | None:
    """The first enum that would refuse a label; None if there is none. Of types without a `narrowing`."""
    found = LackingLabels(source, there)
    if there.kind == ENUM:
        return found if found.labels else None
    inside = (
        lacking_labels(ours, theirs)
        for (_, ours), (_, theirs) in zip(source.parts, there.parts, strict=False)
    )
    return next(filter(None, inside), None)


def lacking_in(
    columns: HeldColumns, there: HeldColumns, enums: Mapping[tuple[str, str], HeldType]
) -> Iterator[LackingLabels]:
    """Of a table of the source's: enums that would refuse a label in the replica's columns, and, where it has
    none of that name yet, the replica's `enums` that such a column would be made of."""
    for name, source in columns.items():
        if name not in there:
            pairs = ((each, enums.get((each.schema, each.name))) for each in source.enums())
            found = [lacking_labels(each, theirs) for each, theirs in pairs if theirs]
        else:
            fits = narrowing(source, there[name]) is None
            found = [lacking_labels(source, there[name])] if fits else []
        yield from filter(None, found)


def _narrowing_inside(source: HeldType, there: HeldType) -> Narrowing | None:
    names, their_names = ([name for name, _ in each.parts] for each in (source, there))
    if names != their_names and sorted(names) == sorted(their_names):
        return Narrowing(source, there, reordered=True)
    for (_, ours), (attribute, theirs) in zip(source.parts, there.parts, strict=False):
        found = narrowing(ours, theirs)
        wraps = there.kind == COMPOSITE and found is not None and not found.reordered
        if found is not None and found.holder is None and wraps:
            return Narrowing(found.source, found.there, there, attribute)
        if found is not None:
            return found
    return None


def _is_as_wide(there: HeldType, modifier: int) -> bool:
    """Of two modifiers of one type: whether the replica's takes every value as it is."""
    if there.modifier in (modifier, -1):
        return True
    oid = element_of(there.oid) or there.oid
    if oid in _TIMES:
        return there.modifier >= (modifier if modifier >= 0 else _TIME_DIGITS)
    if modifier < 0:
        return False
    if oid == _NUMERIC:
        return _written_alike(scale_of(modifier), scale_of(there.modifier))
    return oid in _LENGTHS and there.modifier >= modifier


def _written_alike(ours: int, theirs: int) -> bool:
    """Of two scales: whether the replica's neither rounds nor writes digits (1.50 as 1.500)."""
    return theirs >= ours and max(theirs, 0) == max(ours, 0)
