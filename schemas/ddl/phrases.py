"""Small parts of statements that several kinds of objects share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from schemas.ddl.kinds import Kind
from schemas.ddl.message import State
from schemas.ddl.step import Literal, Name, Phase, Piece, Step

Pieces = tuple[Piece, ...]


def named(state: State) -> tuple[str, str]:
    """(schema, name) of a state."""
    return state["schema"], state["name"]


def name(*parts: str) -> Name:
    return Name(parts)


def of(state: State) -> Name:
    """The qualified name of a state's object."""
    return Name(named(state))


def listed(parts: Iterable[Pieces], between: str = ", ") -> Pieces:
    """All pieces, with SQL between the parts."""
    found: list[Piece] = []
    for part in parts:
        found += [between, *part] if found else part
    return tuple(found)


def names(parts: Iterable[str]) -> Pieces:
    return listed((Name((part,)),) for part in parts)


def options(given: Sequence[str] | None) -> dict[str, str]:
    """`{"fillfactor=70"}` of pg_class, by name."""
    pairs = (each.partition("=") for each in given or ())
    return {key: value for key, _, value in pairs}


def with_options(given: Sequence[str] | None) -> Pieces:
    """` with (fillfactor='70')`, or nothing."""
    found = options(given)
    return (" with (", *_assigned(found), ")") if found else ()


def _assigned(found: Mapping[str, str]) -> Pieces:
    # A reloption's namespace stands before a dot; both are plain words.
    return listed((Name((key,)), "=", Literal(value)) for key, value in found.items())


def changed_options(before: Sequence[str] | None, after: Sequence[str] | None) -> Iterator[Pieces]:
    """`set (…)` and `reset (…)`, each if there is something for it."""
    was, now = options(before), options(after)
    gone = [key for key in was if key not in now]
    if gone:
        yield ("reset (", *names(gone), ")")
    new = {key: value for key, value in now.items() if was.get(key) != value}
    if new:
        yield ("set (", *_assigned(new), ")")


def comment(
    about: Pieces,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any],
    told: tuple[str, ...],
    *,
    needs: tuple[str, str] | None = None,
    column: str = "",
) -> Iterator[Step]:
    """COMMENT ON `about`, where that changed. `told`: the object's name for people. `needs`, `column`: as
    `Step` has them."""
    was = before.get("comment") if before else None
    now = after.get("comment")
    if was != now:
        statement = ("comment on ", *about, " is ", Literal(now))
        yield Step(Kind.COMMENT, Phase.LAST, told, statement, needs=needs, column=column)


def moved(
    kind: Kind, what: str, before: State, after: State, *, suffix: str = "", set_schema: Kind | None = None
) -> Iterator[Step]:
    """RENAME and SET SCHEMA of an object that is `what`. `suffix`: a function's arguments."""
    here, there = named(before), named(after)
    if here[0] != there[0]:
        statement: Pieces = (f"alter {what} ", Name(here), suffix, " set schema ", Name((there[0],)))
        yield Step(set_schema or kind, Phase.RENAME, here, statement, needs=needed(what, here))
    if here[1] != there[1]:
        at = (there[0], here[1])
        statement = (f"alter {what} ", Name(at), suffix, " rename to ", Name((there[1],)))
        yield Step(kind, Phase.RENAME, at, statement, needs=needed(what, at))


_RELATIONS = ("table", "view", "materialized view", "sequence")


def needed(what: str, at: tuple[str, ...]) -> tuple[str, str] | None:
    """What must be there for an ALTER of it (`Step.needs`): it, if it is a relation."""
    return (at[0], at[1]) if what in _RELATIONS else None
