"""Owners and privileges of objects, columns and the sequences of identity columns, and default privileges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from schemas.ddl.acl import PUBLIC, Acl, Act, Held, acts, default_acl, owned_by, parse_acl
from schemas.ddl.command import Command
from schemas.ddl.kinds import Kind
from schemas.ddl.message import ObjectChange, State
from schemas.ddl.phrases import Pieces, listed, needed
from schemas.ddl.step import Name, Phase, Piece, Step

_NAMED_AS: Final = {"view": "table", "materialized view": "table"}
"""By GRANT, where that is not what ALTER calls it."""
_CLASSES: Final = {**_NAMED_AS, "procedure": "function", "domain": "type"}


def owner_and_grants(about: Pieces, before: State | None, after: State) -> Iterator[Step]:
    """Of the object that ALTER names by `about`; `before` None: it is new. A state of a message that lacks
    owner or privileges says nothing of them."""
    if after.get("owner") is None:
        return
    right = _Rights(about, before, after)
    yield from right.owner()
    yield from right.grants()


def default_acl_steps(change: ObjectChange, command: Command) -> Iterator[Step]:
    """ALTER DEFAULT PRIVILEGES of one role, for one kind of object, in one schema or in all."""
    before, after = change.before, change.after
    state = after or before
    if state is None:
        return
    role, schema, objects = state["owner"], state["schema"], state["objects"]
    was, now = (parse_acl(each["acl"]) if each is not None else None for each in (before, after))
    usual: Acl = {}
    if schema is None:  # in a schema they only come on top of those
        usual = default_acl(objects, role, [*(was or ()), *(now or ())])
    place: Pieces = (" in schema ", Name((schema,))) if schema is not None else ()
    for act in acts(usual if was is None else was, usual if now is None else now, role):
        statement = ("alter default privileges for role ", Name((role,)), *place, " ")
        statement += _statement(act, (f"{objects}s",), cascade=False)
        told = (schema, role) if schema is not None else (role,)
        roles = (role, act.grantee) if act.grantee != PUBLIC else (role,)
        yield Step(Kind.GRANTS, Phase.GRANTS, told, statement, roles=roles, member_of=role)


def _statement(act: Act, label: Pieces, *, column: str = "", cascade: bool = True) -> Pieces:
    named: Pieces = (" (", Name((column,)), ")") if column else ()
    privileges = listed((word, *named) for word in act.words)
    to: Piece = "public" if act.grantee == PUBLIC else Name((act.grantee,))
    if act.gives:
        ending: Pieces = (" with grant option",) if act.option else ()
        return ("grant ", *privileges, " on ", *label, " to ", to, *ending)
    option = "grant option for " if act.option else ""
    return (f"revoke {option}", *privileges, " on ", *label, " from ", to, " cascade" if cascade else "")


class _Rights:
    """Those of one object."""

    def __init__(self, about: Pieces, before: State | None, after: State) -> None:
        self._word = str(about[0]).strip()
        self._about = about
        self._before, self._after = before, after
        self._owner: str = after["owner"]
        self._told = tuple(part for part in (after.get("schema"), after["name"]) if part)

    def owner(self) -> Iterator[Step]:
        before = self._before
        if before is not None and before.get("owner") in (None, self._owner):
            return
        if before is not None and self._after.get("owned_by"):
            return  # its table takes it along
        statement = ("alter ", *self._about, " owner to ", Name((self._owner,)))
        owner = self._owner
        yield self._step(Kind.OWNER, Phase.OWNER, statement, roles=(owner,), member_of=owner)

    def grants(self) -> Iterator[Step]:
        """Behind the owner's: so the new one stands for the old one."""
        label = (_NAMED_AS.get(self._word, self._word) + " ", *self._about[1:])
        done = list(self._acts(self._word, self._before, self._after))
        for act in done:
            yield self._grant(act, label)
        yield from self._of_parts(done, label)

    def _acts(self, word: str, before: State | None, after: State) -> Iterator[Act]:
        was, now = (before or {}).get("acl"), after.get("acl")
        if was is None and now is None:
            return
        class_ = _CLASSES.get(word, word)
        now_held = parse_acl(now) if now is not None else None
        was_held = parse_acl(was) if was is not None else default_acl(class_, self._owner, now_held or ())
        if now_held is None:
            now_held = default_acl(class_, self._owner, was_held)
        yield from acts(self._as_owned(was_held), now_held, self._owner)

    def _as_owned(self, acl: Acl) -> Acl:
        former = (self._before or {}).get("owner")
        return owned_by(acl, was=former, now=self._owner) if former not in (None, self._owner) else acl

    def _of_parts(self, done: Sequence[Act], label: Pieces) -> Iterator[Step]:
        """What a table loses, its columns lose, too."""
        was, now = _parts(self._before), _parts(self._after)
        if "part_acl" not in self._after:
            return
        for key in sorted({*was, *now}):
            part = now.get(key) or was[key]
            if part.get("sequence"):
                yield from self._of_sequence(was.get(key), now.get(key), tuple(part["sequence"]))
            elif (name := _column_name(self._after, key[0])) is not None:
                held = parse_acl((was.get(key) or {}).get("acl") or ())
                left = _without(self._as_owned(held), done)
                for act in acts(left, parse_acl((now.get(key) or {}).get("acl") or ()), self._owner):
                    yield self._grant(act, label, column=name)

    def _of_sequence(self, was: State | None, now: State | None, name: tuple[str, ...]) -> Iterator[Step]:
        label: Pieces = ("sequence ", Name(name))
        for act in self._acts("sequence", was, now or {}):
            yield self._grant(act, label)

    def _grant(self, act: Act, label: Pieces, *, column: str = "") -> Step:
        role = "" if act.grantor == self._owner else act.grantor
        return self._step(
            Kind.GRANTS,
            Phase.GRANTS,
            _statement(act, label, column=column),
            roles=tuple(name for name in (act.grantee, role) if name != PUBLIC),
            role=role,
            member_of=role,
            of_owner=act.grantee == self._owner,
            column=column,
        )

    def _step(self, kind: Kind, phase: Phase, statement: Pieces, **more: Any) -> Step:
        needs = needed(self._word, self._told)
        is_new = self._before is None
        return Step(kind, phase, self._told, statement, needs=needs, is_new=is_new, **more)


def _parts(state: State | None) -> dict[tuple[Any, bool], Mapping[str, Any]]:
    """By the number of the column, and whether it is about its sequence."""
    found = (state or {}).get("part_acl") or ()
    return {(part["num"], bool(part.get("sequence"))): part for part in found}


def _column_name(state: State, number: object) -> str | None:
    """A view's columns are told without their numbers, and none of them goes."""
    for place, column in enumerate(state["columns"], start=1):
        named = column if isinstance(column, Mapping) else {"num": place, "name": column[0]}
        if named["num"] == number:
            return str(named["name"])
    return None


def _without(acl: Acl, done: Sequence[Act]) -> Acl:
    found = dict(acl)
    for act in done:
        for letter in act.privileges:
            held = Held(act.grantor, act.grantee, letter)
            if act.gives or held not in found:
                continue
            if act.option:
                found[held] = False
            else:
                del found[held]
    return found
