"""What belongs to a table or view: constraints, indexes, triggers, rules and policies.

The same OID is the same object: of it only that can differ which ALTER can change. Another OID with the same
name and definition is what ALTER … TYPE and REINDEX make of it, on a replica as on the source.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from schemas.ddl.command import Command
from schemas.ddl.kinds import Kind
from schemas.ddl.message import State
from schemas.ddl.phrases import Pieces, changed_options, comment, named
from schemas.ddl.step import Manner, Name, Phase, Step

Member = Mapping[str, Any]

_KINDS: Final = {
    "p": Kind.KEY,
    "u": Kind.UNIQUE,
    "c": Kind.CHECK,
    "x": Kind.EXCLUSION,
    "f": Kind.FOREIGN_KEY,
    "t": Kind.TRIGGER,
}
_OF_INDEX: Final = ("p", "u", "x")
_DEFERRABLE: Final = re.compile(r"( DEFERRABLE)?( INITIALLY DEFERRED)?( NOT ENFORCED)?(?: NOT VALID)?$")
_WITH: Final = re.compile(r" WITH \(([^()]*)\)")
_ENABLE: Final = {"O": "enable", "D": "disable", "A": "enable always", "R": "enable replica"}


def of_table(before: State | None, after: State, command: Command) -> Iterator[Step]:
    """All members of a table that is there; `before` None: it is new."""
    yield from _constraints(before, after, command)
    yield from _indexes(before, after, command)
    yield from _triggers(before, after)
    yield from _rules(before, after)
    yield from _policies(before, after)


def of_view(before: State | None, after: State, command: Command) -> Iterator[Step]:
    """Those that a view or materialized view can have."""
    if "indexes" in after:
        yield from _indexes(before, after, command)
    if "triggers" in after:
        yield from _triggers(before, after)
    if "rules" in after:
        yield from _rules(before, after)


def _known(state: State | None, members: str) -> dict[int, Member]:
    return {member["oid"]: member for member in (state or {}).get(members) or ()}


def _pairs(
    before: State | None, after: State, members: str
) -> tuple[list[tuple[Member, Member]], list[Member], list[Member]]:
    """(those that are the same object, those that went, those that are new)"""
    was, now = _known(before, members), _known(after, members)
    same = [(was[oid], member) for oid, member in now.items() if oid in was]
    gone = {oid: member for oid, member in was.items() if oid not in now}
    new: list[Member] = []
    for oid, member in now.items():
        if oid in was:
            continue
        twin = next((each for each in gone.values() if _is_alike(before, each, after, member)), None)
        if twin is None:
            new.append(member)
        else:
            del gone[twin["oid"]]
            same.append((twin, member))
    return same, list(gone.values()), new


def _is_alike(before: State | None, was: Member, after: State, now: Member) -> bool:
    """A key that is made anew is not the replica identity that the one before it was."""
    if (was["name"], was["def"]) != (now["name"], now["def"]):
        return False
    return _is_identity(before, was) == _is_identity(after, now)


def _is_identity(table: State | None, member: Member) -> bool:
    index = _known(table, "indexes").get(member.get("index") or member["oid"])
    return index is not None and bool(index.get("replica_identity"))


# Constraints


def _constraints(before: State | None, after: State, command: Command) -> Iterator[Step]:
    same, gone, new = _pairs(before, after, "constraints")
    for member in gone:
        if member["type"] in _KINDS and not _is_given(member):
            yield _drop_constraint(after, member, command)
    for member in new:
        if member["type"] in _KINDS:
            yield from _add_constraint(before, after, member, command)
    for was, now in same:
        if now["type"] in _KINDS:
            yield from _alter_constraint(before, after, was, now)
    for member in [*new, *(now for _, now in same)]:
        was_member = next((w for w, n in same if n is member), None)
        about = ("constraint ", Name((member["name"],)), " on ", Name(named(after)))
        since = 18 if member["type"] == "n" else 0  # servers before have no such constraint
        for step in comment(about, was_member, member, named(after), needs=named(after)):
            yield _with_key(step, member) if member["type"] == "f" else replace(step, since=since)


def _is_given(member: Member) -> bool:
    """By the table's parent, and taken away by it."""
    return bool(member["parent"]) or bool(member["inherited"] and not member["local"])


def _drop_constraint(after: State, member: Member, command: Command) -> Step:
    is_key = member["type"] == "f"
    change = ("drop constraint if exists ", Name((member["name"],)))
    return _alter(
        _KINDS[member["type"]],
        Phase.DROP_DEPENDANT if is_key else Phase.DROP_MEMBER,
        after,
        change,
        member=member["name"],
        manner=Manner.FORGET_KEY if is_key else Manner.RUN,
        drops=True,
        only=command.children_keep(named(after), member["name"], among="constraints"),
    )


def _add_constraint(before: State | None, after: State, member: Member, command: Command) -> Iterator[Step]:
    if member["type"] == "t":
        return  # CREATE CONSTRAINT TRIGGER makes it
    index = _known(before, "indexes").get(member["index"])
    definition: Pieces = (member["def"],)
    if index is not None and not index["constraint"] and member["type"] in "pu":
        what = "primary key" if member["type"] == "p" else "unique"
        definition = (f"{what} using index ", Name((index["name"],)), _suffix(member["def"]))
    is_key = member["type"] == "f"
    yield _alter(
        _KINDS[member["type"]],
        Phase.FOREIGN_KEY if is_key else Phase.MEMBER,
        after,
        ("add constraint ", Name((member["name"],)), " ", *definition),
        member=member["name"],
        manner=Manner.KEY if is_key else Manner.RUN,
        inherited=_is_given(member),
        only=is_key and after.get("kind") == "r",
    )
    made = _known(after, "indexes").get(member["index"]) if member["type"] in _OF_INDEX else None
    if made is not None and not _is_given(member) and after.get("kind") == "r":
        yield from _with_parameters(after, {"def": ""}, made)


def _suffix(definition: str) -> str:
    found = _DEFERRABLE.search(definition)
    return (found[1] or "") + (found[2] or "") if found else ""


def _alter_constraint(before: State | None, after: State, was: Member, now: Member) -> Iterator[Step]:
    is_key = now["type"] == "f"
    is_renamed = was["name"] != now["name"] and not _is_told_by_index(before, now)
    if is_renamed and _is_given(now) and now["index"]:
        index = Name((after["schema"], was["name"]))  # ALTER TABLE renames none that a parent gave
        renaming: Pieces = ("alter index ", index, " rename to ", Name((now["name"],)))
        yield Step(
            _KINDS[now["type"]],
            Phase.RENAME,
            named(after),
            renaming,
            needs=named(after),
            member=now["name"],
        )
    elif is_renamed:
        change: Pieces = ("rename constraint ", Name((was["name"],)), " to ", Name((now["name"],)))
        yield replace(_constraint_step(Phase.RENAME, after, was, change), renamed=now["name"])
    label = Name((now["name"],))
    if is_key and _deferring(was) != _deferring(now):
        yield _constraint_step(Phase.MEMBER, after, now, ("alter constraint ", label, _deferring(now)))
    if is_key and _is_enforced(was) != _is_enforced(now):
        enforcing = " enforced" if _is_enforced(now) else " not enforced"
        yield _constraint_step(Phase.FOREIGN_KEY, after, now, ("alter constraint ", label, enforcing))
    elif now["validated"] and not was["validated"]:
        phase = Phase.FOREIGN_KEY if is_key else Phase.MEMBER
        yield _constraint_step(phase, after, now, ("validate constraint ", label))


def _constraint_step(phase: Phase, after: State, member: Member, change: Pieces) -> Step:
    """A foreign key may be one that this replica could not make: then this waits with it."""
    return _alter(
        _KINDS[member["type"]],
        phase,
        after,
        change,
        member=member["name"],
        manner=Manner.KEY if member["type"] == "f" else Manner.RUN,
        inherited=_is_given(member),
    )


def _with_key(step: Step, key: Member) -> Step:
    """A comment on a foreign key waits with it, too."""
    return replace(step, member=key["name"], manner=Manner.KEY)


def _is_enforced(member: Member) -> bool:
    return not member["def"].endswith(" NOT ENFORCED")


def _deferring(member: Member) -> str:
    found = _DEFERRABLE.search(member["def"])
    assert found is not None
    deferrable = " deferrable" if found[1] else " not deferrable"
    initially = " initially deferred" if found[2] else ""
    return deferrable + initially


# Indexes


def _indexes(before: State | None, after: State, command: Command) -> Iterator[Step]:
    same, gone, new = _pairs(before, after, "indexes")
    same = [(was, now) for was, now in same if _is_made(after, was) or not _is_made(after, now)]
    new = [now for now in _known(after, "indexes").values() if all(now is not n for _, n in same)]
    for member in gone:
        if not member["constraint"] and not member["parent"]:
            statement = ("drop index if exists ", Name((after["schema"], member["name"])))
            yield _index_step(Phase.DROP_MEMBER, after, member, statement, drops=True)
    for member in new:
        if _is_made(after, member) and not member["constraint"]:
            yield from _create_index(after, member, command)
    for was, now in same:
        yield from _alter_index(before, after, was, now)
    for member in [*new, *(now for _, now in same)]:
        was_member = next((w for w, n in same if n is member), None)
        about = ("index ", Name((after["schema"], member["name"])))
        yield from comment(about, was_member, member, named(after), needs=named(after))
    yield from _clustered(before, after)


def _is_made(table: State, index: Member) -> bool:
    """What CREATE INDEX CONCURRENTLY left behind unfinished is none; a partitioned table's own waits for its
    partitions."""
    return bool(index["valid"]) or table.get("kind") == "p"


def _create_index(after: State, member: Member, command: Command) -> Iterator[Step]:
    definition = member["def"]
    if after.get("kind") == "p" and (member["valid"] or command.has_child_index(member["oid"])):
        definition = _with_partitions(member)
    yield _index_step(Phase.MEMBER, after, member, (definition,), inherited=bool(member["parent"]))
    yield from _counted(after, {}, member)


def _with_partitions(member: Member) -> str:
    """PostgreSQL writes ON ONLY, and makes those of the partitions on its own without it."""
    unique = "UNIQUE " if member["unique"] else ""
    for label in (member["name"], '"' + member["name"].replace('"', '""') + '"'):
        start = f"CREATE {unique}INDEX {label} ON "
        if member["def"].startswith(f"{start}ONLY "):
            return start + str(member["def"]).removeprefix(f"{start}ONLY ")
    return str(member["def"])


def _alter_index(before: State | None, after: State, was: Member, now: Member) -> Iterator[Step]:
    schema = after["schema"]
    label = Name((schema, now["name"]))
    if was["name"] != now["name"] and (not now["constraint"] or _lacks_constraint(after, now)):
        statement: Pieces = ("alter index ", Name((schema, was["name"])), " rename to ", Name((now["name"],)))
        yield _index_step(Phase.RENAME, after, now, statement, inherited=False)
    yield from _with_parameters(after, was, now)
    yield from _counted(after, was, now)
    if now["parent"] and not was["parent"] and not _is_attached(before, after):
        statement = ("alter index ", Name(tuple(now["parent_name"])), " attach partition ", label)
        yield _index_step(Phase.DEPENDANT, after, now, statement)


def _with_parameters(after: State, was: Member, now: Member) -> Iterator[Step]:
    label = Name((after["schema"], now["name"]))
    for change in changed_options(_with(was), _with(now)):
        yield _index_step(Phase.LAST, after, now, ("alter index ", label, " ", *change))


def _counted(after: State, was: Member, now: Member) -> Iterator[Step]:
    """Statistics targets of expressions."""
    before, targets = dict(was.get("statistics") or ()), dict(now.get("statistics") or ())
    for number in sorted(before.keys() | targets.keys()):
        target = targets.get(number, -1)
        if before.get(number, -1) != target:
            index = Name((after["schema"], now["name"]))
            statement: Pieces = ("alter index ", index, f" alter column {number} set statistics {target}")
            yield _index_step(Phase.LAST, after, now, statement)


def _lacks_constraint(after: State, index: Member) -> bool:
    """ALTER INDEX renames its constraint, too, which the message does not tell where somebody else is
    altering the table."""
    return not any(
        member["index"] == index["oid"] and member["name"] == index["name"]
        for member in after.get("constraints") or ()
        if member["type"] in _OF_INDEX
    )


def _is_told_by_index(before: State | None, constraint: Member) -> bool:
    """Whether an earlier message told the name as its index's."""
    index = _known(before, "indexes").get(constraint["index"])
    return constraint["type"] in _OF_INDEX and index is not None and index["name"] == constraint["name"]


def _is_attached(before: State | None, after: State) -> bool:
    """By ATTACH PARTITION of the table, which takes fitting indexes along."""
    return bool((before or {}).get("partition_of") != after.get("partition_of"))


def _with(member: Member) -> list[str]:
    found = _WITH.search(member["def"])
    pairs = [pair.strip() for pair in found[1].split(",")] if found else []
    return [pair.replace("'", "") for pair in pairs if pair]


def _clustered(before: State | None, after: State) -> Iterator[Step]:
    was = [m["name"] for m in _known(before, "indexes").values() if m.get("clustered")]
    now = [m["name"] for m in _known(after, "indexes").values() if m.get("clustered")]
    if was != now:
        change: Pieces = ("cluster on ", Name((now[0],))) if now else ("set without cluster",)
        if now or before is not None:
            yield _alter(Kind.STORAGE, Phase.LAST, after, change)


def _index_step(
    phase: Phase,
    table: State,
    member: Member,
    statement: Pieces,
    *,
    drops: bool = False,
    inherited: bool = False,
) -> Step:
    return Step(
        Kind.INDEX,
        phase,
        named(table),
        statement,
        needs=named(table),
        drops=drops,
        inherited=inherited,
        member=member["name"],
    )


# Triggers, rules and policies


def _triggers(before: State | None, after: State) -> Iterator[Step]:
    """Those of partitions come and go with their parent's."""
    same, gone, new = _pairs(before, after, "triggers")
    for member in gone:
        if not member["parent"]:
            statement = ("drop trigger if exists ", Name((member["name"],)), " on ", Name(named(after)))
            yield _member_step(Kind.TRIGGER, Phase.DROP_DEPENDANT, after, member, statement, drops=True)
    for member in new:
        if not member["parent"]:
            yield from _made(Kind.TRIGGER, after, member)
    for was, now in same:
        yield from _altered(Kind.TRIGGER, after, was, now)
    for member in [*new, *(now for _, now in same)]:
        if not member["parent"]:
            was_member = next((w for w, n in same if n is member), None)
            yield from _comment(Kind.TRIGGER, after, was_member, member)


def _rules(before: State | None, after: State) -> Iterator[Step]:
    same, gone, new = _pairs(before, after, "rules")
    for member in gone:
        statement = ("drop rule if exists ", Name((member["name"],)), " on ", Name(named(after)))
        yield _member_step(Kind.RULE, Phase.DROP_DEPENDANT, after, member, statement, drops=True)
    for member in new:
        yield from _made(Kind.RULE, after, member)
    for was, now in same:
        yield from _altered(Kind.RULE, after, was, now)
    for member in [*new, *(now for _, now in same)]:
        was_member = next((w for w, n in same if n is member), None)
        yield from _comment(Kind.RULE, after, was_member, member)


def _comment(kind: Kind, after: State, was: Member | None, now: Member) -> Iterator[Step]:
    about = (f"{kind.value} ", Name((now["name"],)), " on ", Name(named(after)))
    yield from comment(about, was, now, named(after), needs=named(after))


def _made(kind: Kind, after: State, member: Member) -> Iterator[Step]:
    statement = (member["def"].rstrip(";"),)
    yield _member_step(kind, Phase.DEPENDANT, after, member, statement, manner=Manner.SILENT)
    if member["enabled"] != "O":
        yield _enabling(kind, after, member)


def _altered(kind: Kind, after: State, was: Member, now: Member) -> Iterator[Step]:
    """OR REPLACE keeps the OID; so does what renames its table, and then it changes nothing."""
    if was["name"] != now["name"]:
        old, new = Name((was["name"],)), Name((now["name"],))
        renaming = (f"alter {kind.value} ", old, " on ", Name(named(after)), " rename to ", new)
        yield _member_step(kind, Phase.RENAME, after, was, renaming)
    elif was["def"] != now["def"] and not now.get("parent"):
        create = f"CREATE {kind.value.upper()} "
        if now["def"].startswith(create):
            replacing = "CREATE OR REPLACE " + now["def"].removeprefix("CREATE ").rstrip(";")
            yield _member_step(kind, Phase.DEPENDANT, after, now, (replacing,), manner=Manner.SILENT)
    if was["enabled"] != now["enabled"]:
        yield _enabling(kind, after, now)


def _enabling(kind: Kind, after: State, member: Member) -> Step:
    change = f"{_ENABLE[member['enabled']]} {kind.value} "
    statement = ("alter table only ", Name(named(after)), f" {change}", Name((member["name"],)))
    return _member_step(kind, Phase.DEPENDANT, after, member, statement, manner=Manner.SILENT)


def _policies(before: State | None, after: State) -> Iterator[Step]:
    was = {member["name"]: member for member in (before or {}).get("policies") or ()}
    now = {member["name"]: member for member in after.get("policies") or ()}
    for label, member in was.items():
        if label not in now or now[label]["def"] != member["def"]:
            statement: Pieces = ("drop policy if exists ", Name((label,)), " on ", Name(named(after)))
            yield _member_step(Kind.POLICY, Phase.DROP_DEPENDANT, after, member, statement, drops=True)
    for label, member in now.items():
        is_new = label not in was or was[label]["def"] != member["def"]
        if is_new:
            yield _member_step(Kind.POLICY, Phase.DEPENDANT, after, member, (member["def"].rstrip(";"),))
        yield from _comment(Kind.POLICY, after, None if is_new else was[label], member)


def _member_step(
    kind: Kind,
    phase: Phase,
    table: State,
    member: Member,
    statement: Pieces,
    *,
    manner: Manner = Manner.RUN,
    drops: bool = False,
) -> Step:
    return Step(
        kind,
        phase,
        named(table),
        statement,
        manner=manner,
        needs=named(table),
        drops=drops,
        member=member["name"],
    )


def _alter(
    kind: Kind,
    phase: Phase,
    table: State,
    change: Pieces,
    *,
    member: str = "",
    manner: Manner = Manner.RUN,
    drops: bool = False,
    inherited: bool = False,
    only: bool = False,
) -> Step:
    statement = ("alter table only " if only else "alter table ", Name(named(table)), " ", *change)
    return Step(
        kind,
        phase,
        named(table),
        statement,
        manner=manner,
        needs=named(table),
        drops=drops,
        inherited=inherited,
        member=member,
    )
