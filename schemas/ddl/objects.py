"""All but tables and types: schemas, extensions, sequences, views, functions, and what nobody follows."""

from __future__ import annotations

from collections.abc import Iterator

from schemas.ddl.columns import altered_view_column, sequence_options
from schemas.ddl.command import Command
from schemas.ddl.kinds import Kind
from schemas.ddl.members import of_view
from schemas.ddl.message import ObjectChange, State
from schemas.ddl.phrases import (
    Pieces,
    changed_options,
    comment,
    moved,
    named,
    with_options,
)
from schemas.ddl.rights import owner_and_grants
from schemas.ddl.step import Manner, Name, Phase, Step


def schema_steps(change: ObjectChange, command: Command) -> Iterator[Step]:
    before, after = change.before, change.after
    if after is None:
        if before is not None:
            statement: Pieces = ("drop schema if exists ", Name((before["name"],)))
            yield Step(Kind.DROP_SCHEMA, Phase.DROP, (before["name"],), statement, drops=True)
        return
    about: Pieces = ("schema ", Name((after["name"],)))
    if before is None:
        yield Step(Kind.SCHEMA, Phase.MAKE, (after["name"],), ("create schema if not exists ", about[1]))
    elif before["name"] != after["name"]:
        statement = ("alter schema ", Name((before["name"],)), " rename to ", about[1])
        yield Step(Kind.SCHEMA, Phase.RENAME, (before["name"],), statement)
    yield from comment(about, before, after, (after["name"],))
    yield from owner_and_grants(about, before, {**after, "schema": None})


def extension_steps(change: ObjectChange, command: Command) -> Iterator[Step]:
    before, after = change.before, change.after
    if after is None:
        if before is not None:
            statement: Pieces = ("drop extension if exists ", Name((before["name"],)))
            yield Step(Kind.EXTENSION, Phase.DROP, (before["name"],), statement, drops=True)
        return
    about = Name((after["name"],))
    if before is None:
        statement = ("create extension if not exists ", about, " with schema ", Name((after["schema"],)))
        yield Step(Kind.EXTENSION, Phase.MAKE, (after["name"],), statement)
        return
    if before["version"] != after["version"]:
        statement = ("alter extension ", about, " update")
        yield Step(Kind.EXTENSION, Phase.TABLE, (after["name"],), statement)
    if before["schema"] != after["schema"]:
        statement = ("alter extension ", about, " set schema ", Name((after["schema"],)))
        yield Step(Kind.EXTENSION, Phase.RENAME, (after["name"],), statement)


def sequence_steps(change: ObjectChange, command: Command) -> Iterator[Step]:
    before, after = command.in_renamed_schema(change.before), change.after
    if after is None:
        if before is not None:
            statement: Pieces = ("drop sequence if exists ", Name(named(before)))
            yield Step(Kind.SEQUENCE, Phase.DROP, named(before), statement, drops=True)
        return
    about: Pieces = ("sequence ", Name(named(after)))
    if before is None:
        word = "create unlogged sequence " if after["persistence"] == "u" else "create sequence "
        statement = (word, about[1], f" as {after['type']} {sequence_options(after)}")
        yield Step(Kind.SEQUENCE, Phase.MAKE, named(after), statement)
    else:
        yield from _altered_sequence(before, after)
    if (before or {}).get("owned_by") != after["owned_by"]:
        owner = after["owned_by"]
        to = Name(tuple(owner)) if owner else "none"
        statement = ("alter ", *about, " owned by ", to)
        yield Step(Kind.SEQUENCE, Phase.LAST, named(after), statement, needs=named(after))
    yield from comment(about, before, after, named(after))
    yield from owner_and_grants(about, before, after)


_NUMBERS = ("type", "start", "increment", "min", "max", "cache", "cycle")


def _altered_sequence(before: State, after: State) -> Iterator[Step]:
    """A table takes its own sequences along into another schema."""
    if after["owned_by"] is not None and before["schema"] != after["schema"]:
        before = {**before, "schema": after["schema"]}
    yield from moved(Kind.SEQUENCE, "sequence", before, after)
    if any(before[key] != after[key] for key in _NUMBERS):
        change = f" as {after['type']} {sequence_options(after)}"
        statement = ("alter sequence ", Name(named(after)), change)
        yield Step(Kind.SEQUENCE, Phase.TABLE, named(after), statement, needs=named(after))


def view_steps(change: ObjectChange, command: Command) -> Iterator[Step]:
    before, after = command.in_renamed_schema(change.before), change.after
    is_stored = change.class_ == "matview"
    kind, word = (Kind.MATVIEW, "materialized view") if is_stored else (Kind.VIEW, "view")
    if after is None:
        if before is not None:
            statement = (f"drop {word} if exists ", Name(named(before)))
            yield Step(kind, Phase.DROP_DEPENDANT, named(before), statement, drops=True)
        return
    if before is None:
        how = f"create {word} " if is_stored else "create or replace view "
        yield Step(kind, Phase.VIEW, named(after), (how, *_view(after, is_stored=is_stored)))
    else:
        yield from moved(kind, word, before, after)
        yield from _altered_view(kind, word, before, after)
    yield from of_view(before, after, command)
    yield from _view_columns(before, after)
    yield from comment((f"{word} ", Name(named(after))), before, after, named(after))
    yield from owner_and_grants((f"{word} ", Name(named(after))), before, after)


def _view(after: State, *, is_stored: bool) -> Pieces:
    definition = after["def"].rstrip().removesuffix(";")
    rest = " with no data" if is_stored and not after["populated"] else ""
    return (Name(named(after)), *with_options(after["options"]), f" as {definition}{rest}")


def _altered_view(kind: Kind, word: str, before: State, after: State) -> Iterator[Step]:
    is_stored = kind is Kind.MATVIEW
    for was, now in zip(before["columns"], after["columns"], strict=False):
        if was[0] != now[0]:
            statement: Pieces = (
                f"alter {word} ",
                Name(named(after)),
                " rename column ",
                Name((was[0],)),
                " to ",
                Name((now[0],)),
            )
            yield Step(kind, Phase.RENAME, named(after), statement, needs=named(after))
    if before["def"] != after["def"] and not is_stored:
        statement = ("create or replace view ", *_view(after, is_stored=False))
        yield Step(kind, Phase.VIEW, named(after), statement)
    for change in changed_options(before["options"], after["options"]):
        statement = (f"alter {word} ", Name(named(after)), " ", *change)
        yield Step(kind, Phase.LAST, named(after), statement, needs=named(after))
    if is_stored and before["populated"] != after["populated"]:
        how = "" if after["populated"] else " with no data"
        statement = ("refresh materialized view ", Name(named(after)), how)
        yield Step(kind, Phase.LAST, named(after), statement, needs=named(after))


def _view_columns(before: State | None, after: State) -> Iterator[Step]:
    was = (before or {}).get("column_details") or ()
    for place, column in enumerate(after.get("column_details") or ()):
        yield from altered_view_column(after, was[place] if place < len(was) else None, column)


def function_steps(change: ObjectChange, command: Command) -> Iterator[Step]:
    before, after = command.in_renamed_schema(change.before), change.after
    state = after or before
    if state is None:
        return
    word = "procedure" if state["kind"] == "p" else "function"
    suffix = f"({state['arguments']})"
    if after is None:
        statement = (f"drop {word} if exists ", Name(named(state)), suffix)
        yield Step(Kind.FUNCTION, Phase.DROP, named(state), statement, drops=True)
        return
    if before is not None:
        yield from moved(Kind.FUNCTION, word, before, after, suffix=suffix)
    if before is None or before["def"] != after["def"]:
        yield Step(Kind.FUNCTION, Phase.MAKE, named(after), (after["def"].rstrip(),))
    yield from comment((f"{word} ", Name(named(after)), suffix), before, after, named(after))
    yield from owner_and_grants((f"{word} ", Name(named(after)), suffix), before, after)


def other_steps(change: ObjectChange, command: Command) -> Iterator[Step]:
    """Named, and not followed."""
    state = change.after or change.before or {}
    identity = str(state.get("identity") or change.name)
    tag = str(state.get("tag") or "")
    yield Step(Kind.OTHER, Phase.LAST, (f"{tag} {identity}".strip(),), manner=Manner.NOTHING)
