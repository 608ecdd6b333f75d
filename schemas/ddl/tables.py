"""Tables: made, dropped, and altered from what they were to what they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from schemas.ddl.columns import ColumnDiff, created, definition, is_inherited, not_null_beside
from schemas.ddl.command import Command
from schemas.ddl.kinds import Kind
from schemas.ddl.members import of_table
from schemas.ddl.message import SENT, TOO_LARGE, ObjectChange, State
from schemas.ddl.phrases import (
    Pieces,
    changed_options,
    comment,
    listed,
    moved,
    named,
    with_options,
)
from schemas.ddl.rights import owner_and_grants
from schemas.ddl.step import Manner, Name, Phase, Piece, Since, Step

_HEAP = "heap"


def table_steps(change: ObjectChange, command: Command) -> Iterator[Step]:
    """All that a table's change asks for."""
    before, after = command.in_renamed_schema(change.before), change.after
    if after is None:
        if before is not None:
            yield _dropped(before)
        return
    if before is None:
        if change.rewritten == TOO_LARGE:  # a partition: the whole loses its rows
            yield Step(Kind.ATTACH_PARTITION, Phase.EMPTY, named(after), manner=Manner.AWAIT)
        yield from _made(after, command)
    else:
        if change.rewritten in (SENT, TOO_LARGE):
            is_attached = before["partition_of"] is None and after["partition_of"] is not None
            kind = Kind.ATTACH_PARTITION if is_attached else Kind.ALTER_TYPE
            manner = Manner.EMPTY if change.rewritten == SENT else Manner.AWAIT
            yield Step(kind, Phase.EMPTY, named(before), manner=manner, needs=named(before))
        yield from moved(Kind.RENAME_TABLE, "table", before, after, set_schema=Kind.SET_SCHEMA)
        yield from _parents(before, after, command)
        yield from ColumnDiff(before, after, command).steps()
    yield from of_table(before, after, command)
    yield from _properties(before, after, command)
    yield from comment(("table ", Name(named(after))), before, after, named(after), needs=named(after))
    yield from owner_and_grants(("table ", Name(named(after))), before, after)


def _dropped(before: State) -> Step:
    statement = ("drop table if exists ", Name(named(before)))
    return Step(Kind.DROP_TABLE, Phase.DROP, named(before), statement, drops=True)


# New ones


def _made(after: State, command: Command) -> Iterator[Step]:
    yield Step(Kind.CREATE_TABLE, Phase.TABLE, named(after), tuple(_create(after)))
    if after["partition_of"] is not None:
        yield _attach(after, kind=Kind.CREATE_TABLE)
    for column in after["columns"]:
        label = ("alter column ", Name((column["name"],)))
        if column["not_null"] and (after["of_type"] or _is_not_null_itself(after, column)):
            yield from _not_null(after, column)
        if _is_written(after, column) or column["default"] is None or column["generated"]:
            yield from created(after, column)
            continue
        yield _alter(Kind.CREATE_TABLE, after, (*label, " set default ", column["default"]))


def _not_null(after: State, column: dict[str, Any]) -> Iterator[Step]:
    """Of a column that CREATE TABLE does not write, on servers that have no words for it there."""
    stated = not_null_beside(after, column)
    if stated and after["of_type"]:
        yield replace(_alter(Kind.CREATE_TABLE, after, ("add ", *stated), only=True), since=18)
    change = ("alter column ", Name((column["name"],)), " set not null")
    yield _alter(Kind.CREATE_TABLE, after, change, only=True)


def _create(after: State) -> Iterator[Piece]:
    yield "create unlogged table " if after["persistence"] == "u" else "create table "
    yield Name(named(after))
    if after["of_type"]:
        yield f" of {after['of_type']}"
    else:
        columns = [
            definition(after, _of_its_own(after, each))
            for each in after["columns"]
            if _is_written(after, each)
        ]
        yield " ("
        yield from listed(columns)
        beside = listed(
            not_null_beside(after, each) for each in after["columns"] if _is_not_null_itself(after, each)
        )
        if beside:
            yield Since(18, ((", ", *beside) if columns else beside))
        yield ")"
    if after["inherits"]:
        yield " inherits ("
        yield from listed((Name(tuple(parent)),) for parent in after["inherits"])
        yield ")"
    if after["partition_key"]:
        yield f" partition by {after['partition_key']}"
    if after["access_method"] not in (None, _HEAP):
        yield " using "
        yield Name((after["access_method"],))
    yield from with_options(after["options"])


def _is_written(after: State, column: object) -> bool:
    """A table that inherits gets its parents' columns from them, and a typed one its type's; a partition is
    made before it is one."""
    assert isinstance(column, dict)
    if after["of_type"]:
        return False
    return not after["inherits"] or not is_inherited(column)


def _is_not_null_itself(after: State, column: dict[str, Any]) -> bool:
    """Whether it is NOT NULL by a constraint of its own, and a parent's otherwise."""
    return not (after["of_type"] or _is_written(after, column)) and bool(not_null_beside(after, column))


def _of_its_own(after: State, column: dict[str, Any]) -> dict[str, Any]:
    """A partition's identity is its root's, and comes with it."""
    return column if after["partition_of"] is None else column | {"identity": ""}


# Changed ones


def _parents(before: State, after: State, command: Command) -> Iterator[Step]:
    was, now = command.called_now(before["partition_of"]), after["partition_of"]
    if was != now:
        if was is not None:
            change: Pieces = (" detach partition ", Name(named(after)))
            yield _of_parent(Kind.DETACH_PARTITION, Phase.DROP_MEMBER, was, change, after)
        if now is not None:
            yield _attach(after, kind=Kind.ATTACH_PARTITION)
    inherited = [command.called_now(parent) for parent in before["inherits"]]
    for parent in inherited:
        if parent not in after["inherits"]:
            yield _inherits(after, "no inherit ", parent, Phase.DROP_MEMBER)
    for parent in after["inherits"]:
        if parent not in inherited:
            yield _inherits(after, "inherit ", parent, Phase.ATTACH)


def _attach(after: State, *, kind: Kind) -> Step:
    change = (" attach partition ", Name(named(after)), f" {after['partition_bound']}")
    return _of_parent(kind, Phase.ATTACH, after["partition_of"], change, after)


def _of_parent(kind: Kind, phase: Phase, parent: list[str], change: Pieces, table: State) -> Step:
    statement = ("alter table ", Name((parent[0], parent[1])), *change)
    return Step(
        kind,
        phase,
        named(table),
        statement,
        needs=(parent[0], parent[1]),
        drops=kind is Kind.DETACH_PARTITION,
        is_published=bool(table["published"]),
    )


def _inherits(after: State, what: str, parent: list[str] | None, phase: Phase) -> Step:
    assert parent is not None
    statement = ("alter table ", Name(named(after)), f" {what}", Name((parent[0], parent[1])))
    return Step(Kind.INHERITANCE, phase, named(after), statement, needs=named(after))


def _properties(before: State | None, after: State, command: Command) -> Iterator[Step]:
    if before is not None:
        yield from _stored(before, after)
    was, now = (before or {}).get("row_security", False), after["row_security"]
    if was != now:
        how = "enable" if now else "disable"
        yield _alter(Kind.ROW_SECURITY, after, (f"{how} row level security",))
    forced, forces = (before or {}).get("force_row_security", False), after["force_row_security"]
    if forced != forces:
        yield _alter(
            Kind.ROW_SECURITY,
            after,
            ("force row level security" if forces else "no force row level security",),
            only=True,
            manner=Manner.FORCE if forces else Manner.FORGET_FORCE,
        )
    yield from _identity(before, after)


def _stored(before: State, after: State) -> Iterator[Step]:
    for change in changed_options(before["options"], after["options"]):
        yield _alter(Kind.STORAGE, after, change)
    if before["persistence"] != after["persistence"]:
        how = "logged" if after["persistence"] == "p" else "unlogged"
        yield _alter(Kind.STORAGE, after, (f"set {how}",))
    if before["access_method"] != after["access_method"] and after["access_method"]:
        yield _alter(Kind.STORAGE, after, ("set access method ", Name((after["access_method"],))))
    if before["of_type"] != after["of_type"]:
        how = f"of {after['of_type']}" if after["of_type"] else "not of"
        yield _alter(Kind.INHERITANCE, after, (how,))


def _identity(before: State | None, after: State) -> Iterator[Step]:
    was, now = (_replica_identity(before) if before else ("d", "")), _replica_identity(after)
    if was == now:
        return
    how = {"d": "default", "n": "nothing", "f": "full", "i": "using index "}[now[0]]
    name: Pieces = (Name((now[1],)),) if now[0] == "i" and now[1] else ()
    if now[0] != "i" or name:
        yield _alter(Kind.KEY, after, (f"replica identity {how}", *name), only=True)


def _replica_identity(state: State) -> tuple[str, str]:
    letter = state["replica_identity"]
    chosen = [index["name"] for index in state.get("indexes", ()) if index["replica_identity"]]
    return letter, chosen[0] if letter == "i" and chosen else ""


def _alter(
    kind: Kind, table: State, change: Pieces, *, only: bool = False, manner: Manner = Manner.RUN
) -> Step:
    statement = ("alter table only " if only else "alter table ", Name(named(table)), " ", *change)
    return Step(kind, Phase.LAST, named(table), statement, manner=manner, needs=named(table))
