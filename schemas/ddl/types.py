"""Types: enums, domains, composite and range types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from schemas.ddl.columns import type_of
from schemas.ddl.command import Command
from schemas.ddl.kinds import Kind
from schemas.ddl.message import ObjectChange, State
from schemas.ddl.phrases import Pieces, comment, listed, moved, named
from schemas.ddl.rights import owner_and_grants
from schemas.ddl.step import Literal, Name, Phase, Piece, Step

_NAMED_SINCE: Final = 18
_KINDS: Final = {
    "enum": Kind.ENUM,
    "domain": Kind.DOMAIN,
    "composite": Kind.COMPOSITE,
    "range": Kind.RANGE,
}


def type_steps(change: ObjectChange, command: Command) -> Iterator[Step]:
    """All that a type's change asks for."""
    before, after = command.in_renamed_schema(change.before), change.after
    word = "domain" if change.class_ == "domain" else "type"
    kind = _KINDS[change.class_]
    if after is None:
        if before is not None:
            statement = (f"drop {word} if exists ", Name(named(before)))
            yield Step(Kind.DROP_TYPE, Phase.DROP, named(before), statement, drops=True)
        return
    if before is None:
        yield Step(kind, Phase.MAKE, named(after), tuple(_CREATE[change.class_](after)))
    else:
        yield from moved(kind, word, before, after)
        yield from _ALTER[change.class_](before, after)
    yield from _inner_comments(before, after)
    yield from comment((f"{word} ", Name(named(after))), before, after, named(after))
    yield from owner_and_grants((f"{word} ", Name(named(after))), before, after)


def _inner_comments(before: State | None, after: State) -> Iterator[Step]:
    """Of a composite type's attributes and a domain's CHECKs."""
    for key, about, between in (("attributes", "column", "."), ("constraints", "constraint", " on domain ")):
        identity = "num" if key == "attributes" else "oid"
        was = {member[identity]: member for member in (before or {}).get(key) or ()}
        for member in after.get(key) or ():
            if member.get("def", "").startswith("NOT NULL"):
                continue  # servers before 18 know it by no name
            label, place = Name((member["name"],)), Name(named(after))
            names = (place, between, label) if key == "attributes" else (label, between, place)
            yield from comment((f"{about} ", *names), was.get(member[identity]), member, named(after))


# Enums


def _create_enum(after: State) -> Iterator[Piece]:
    yield from ("create type ", Name(named(after)), " as enum (")
    yield from listed((Literal(label),) for _, label in after["labels"])
    yield ")"


def _alter_enum(before: State, after: State) -> Iterator[Step]:
    """Labels keep their OID when they are renamed. None can be dropped."""
    was = dict(map(tuple, before["labels"]))
    type_name: Pieces = ("alter type ", Name(named(after)))
    for oid, label in after["labels"]:
        if oid in was and was[oid] != label:
            change = (*type_name, " rename value ", Literal(was[oid]), " to ", Literal(label))
            yield Step(Kind.ENUM_RENAME, Phase.TABLE, named(after), change)
    kept = [label for oid, label in after["labels"] if oid in was]
    previous = None
    for oid, label in after["labels"]:
        if oid not in was:
            place: Pieces = ()
            if previous is not None:
                place = (" after ", Literal(previous))
            elif kept:
                place = (" before ", Literal(kept[0]))
            adding = (*type_name, " add value ", Literal(label), *place)
            yield Step(Kind.ENUM_VALUE, Phase.TABLE, named(after), adding)
        previous = label


# Domains


def _create_domain(after: State) -> Iterator[Piece]:
    yield from ("create domain ", Name(named(after)), f" as {after['base']}")
    if after["collation"]:
        yield f" collate {after['collation']}"
    if after["default"] is not None:
        yield f" default {after['default']}"
    if after["not_null"]:
        constraint = _not_null(after)
        yield from ("" if constraint is None else (" constraint ", Name((constraint["name"],))))
        yield " not null"
    for constraint in _checks(after).values():
        yield from (" constraint ", Name((constraint["name"],)), f" {constraint['def']}")


def _checks(state: State) -> dict[int, Mapping[str, Any]]:
    return {c["oid"]: c for c in state["constraints"] if not c["def"].startswith("NOT NULL")}


def _not_null(state: State) -> Mapping[str, Any] | None:
    """Its NOT NULL as a constraint, which it is in PostgreSQL 17 and later."""
    return next((c for c in state["constraints"] if c["def"].startswith("NOT NULL")), None)


def _alter_domain(before: State, after: State) -> Iterator[Step]:
    was, now = _checks(before), _checks(after)
    for oid, constraint in was.items():
        if oid not in now:
            yield _domain(after, ("drop constraint if exists ", Name((constraint["name"],))))
        elif constraint["name"] != now[oid]["name"]:
            label, new = Name((constraint["name"],)), Name((now[oid]["name"],))
            yield _domain(after, ("rename constraint ", label, " to ", new))
    if before["default"] != after["default"]:
        default = after["default"]
        yield _domain(after, ("drop default",) if default is None else (f"set default {default}",))
    if before["not_null"] != after["not_null"]:
        yield _domain(after, ("set not null",) if after["not_null"] else ("drop not null",))
    yield from _named_not_null(before, after)
    for oid, constraint in now.items():
        label = Name((constraint["name"],))
        if oid not in was:
            yield _domain(after, ("add constraint ", label, f" {constraint['def']}"))
        elif constraint["validated"] and not was[oid]["validated"]:
            yield _domain(after, ("validate constraint ", label))


def _named_not_null(before: State, after: State) -> Iterator[Step]:
    """SET NOT NULL gives it a usual name. Servers before 18 copy no other."""
    constraint, known = _not_null(after), _not_null(before)
    if constraint is None:
        return
    was = f"{after['name']}_not_null" if known is None else known["name"]
    if was != constraint["name"]:
        change = ("rename constraint ", Name((was,)), " to ", Name((constraint["name"],)))
        yield _domain(after, change, since=_NAMED_SINCE)


def _domain(after: State, change: Pieces, *, since: int = 0) -> Step:
    statement = ("alter domain ", Name(named(after)), " ", *change)
    return Step(Kind.DOMAIN, Phase.TABLE, named(after), statement, since=since)


# Composite and range types


def _create_composite(after: State) -> Iterator[Piece]:
    yield from ("create type ", Name(named(after)), " as (")
    yield from listed((Name((a["name"],)), f" {type_of(a)}") for a in after["attributes"])
    yield ")"


def _alter_composite(before: State, after: State) -> Iterator[Step]:
    was = {attribute["num"]: attribute for attribute in before["attributes"]}
    now = {attribute["num"]: attribute for attribute in after["attributes"]}
    for number, old in was.items():
        label = Name((old["name"],))
        if number not in now:
            yield _composite(after, ("drop attribute if exists ", label, " cascade"))
            continue
        new = now[number]
        if old["name"] != new["name"]:
            yield _composite(after, ("rename attribute ", label, " to ", Name((new["name"],)), " cascade"))
        if _typed(old) != _typed(new):
            change = ("alter attribute ", Name((new["name"],)), f" type {type_of(new)} cascade")
            yield _composite(after, change)
    for number, new in now.items():
        if number not in was:
            yield _composite(after, ("add attribute ", Name((new["name"],)), f" {type_of(new)} cascade"))


def _typed(attribute: Mapping[str, Any]) -> tuple[object, ...]:
    return attribute["type_oid"], attribute["typmod"], attribute["collation"]


def _composite(after: State, change: Pieces) -> Step:
    """CASCADE takes typed tables along, and nothing else."""
    return Step(Kind.COMPOSITE, Phase.TABLE, named(after), ("alter type ", Name(named(after)), " ", *change))


def _create_range(after: State) -> Iterator[Piece]:
    yield from ("create type ", Name(named(after)), f" as range ({after['def']})")


def _alter_range(before: State, after: State) -> Iterator[Step]:
    """The name of its multirange type is that one's own."""
    was, now = before.get("multirange"), after.get("multirange")
    if was and now and was != now:
        statement = ("alter type ", Name((after["schema"], was)), " rename to ", Name((now,)))
        yield Step(Kind.RANGE, Phase.RENAME, named(after), statement)


_CREATE: Final = {
    "enum": _create_enum,
    "domain": _create_domain,
    "composite": _create_composite,
    "range": _create_range,
}
_ALTER: Final = {
    "enum": _alter_enum,
    "domain": _alter_domain,
    "composite": _alter_composite,
    "range": _alter_range,
}
