"""Columns of a table: from what they were to what they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from schemas.ddl.command import Command
from schemas.ddl.kinds import Kind
from schemas.ddl.message import State
from schemas.ddl.phrases import Pieces, changed_options, comment, listed, named
from schemas.ddl.step import Literal, Manner, Name, Phase, Piece, Since, Step

Column = Mapping[str, Any]

_STORAGE: Final = {"p": "plain", "m": "main", "e": "external", "x": "extended"}
_COMPRESSION: Final = {"p": "pglz", "l": "lz4"}
_USUALLY_EXTENDED: Final = (17, 25, 114, 1042, 1043, 3802)
"""bytea, text, json, bpchar, varchar, jsonb."""
_FIRST_OF_NO_BASE_TYPE: Final = 10_000
"""Below this OID every type is built into PostgreSQL, and no domain."""
_NO_INHERIT: Final = " NO INHERIT"
_NAMED_SINCE: Final = 18
"""PostgreSQL has NOT NULL as a constraint with a name."""
_IDENTITY: Final = {"a": "always", "d": "by default"}


def is_inherited(column: Column) -> bool:
    """Whether PostgreSQL does to it what it does to the parent's."""
    return bool(column["inherited"]) and not column["local"]


def type_of(column: Column) -> str:
    """SQL."""
    collation = column.get("collation")
    return f"{column['type']} collate {collation}" if collation else str(column["type"])


# New ones


def definition(table: State, column: Column, *, default: Pieces = ()) -> Pieces:
    """As CREATE TABLE and ADD COLUMN have it. `default`: instead of its own."""
    parts: list[Piece] = [Name((column["name"],)), f" {type_of(column)}"]
    if column["generated"]:
        stored = "virtual" if column["generated"] == "v" else "stored"
        parts.append(f" generated always as ({column['default']}) {stored}")
    elif column["identity"]:
        parts += [" ", *_identity(column)]
    elif default or column["default"] is not None:
        parts += [" default ", *(default or (column["default"],))]
    if column["not_null"]:
        parts += _not_null(table, column)
    return tuple(parts)


def _identity(column: Column) -> Pieces:
    given = column["identity_options"]
    clause = f"generated {_IDENTITY[column['identity']]} as identity"
    if not given:
        return (clause,)
    return (f"{clause} (sequence name ", Name(tuple(given["sequence"])), f" {sequence_options(given)})")


def sequence_options(given: Mapping[str, Any]) -> str:
    """`start with 1 increment by 1 …`."""
    cycle = "cycle" if given["cycle"] else "no cycle"
    return (
        f"start with {given['start']} increment by {given['increment']} minvalue {given['min']}"
        f" maxvalue {given['max']} cache {given['cache']} {cycle}"
    )


def not_null_constraint(table: State, column: Column) -> Mapping[str, Any] | None:
    """The constraint that PostgreSQL 18 has for it; None on others."""
    for constraint in table["constraints"]:
        if constraint["type"] == "n" and _quoted_in(column["name"], constraint["def"]):
            found: Mapping[str, Any] = constraint
            return found
    return None


def _quoted_in(column: str, definition: str) -> bool:
    rest = definition.removeprefix("NOT NULL ").removesuffix(" NOT VALID").removesuffix(_NO_INHERIT)
    return rest in (column, '"' + column.replace('"', '""') + '"')


def _keeps_null_default(column: Column) -> bool:
    """Whether DEFAULT NULL stays as such, because it is coerced to a length or to a domain."""
    return bool(column["typmod"] >= 0) or may_be_of_domain(column)


def may_be_of_domain(column: Column) -> bool:
    """Such a type may have a default of its own, which fills columns that have none."""
    return bool(column["type_oid"] >= _FIRST_OF_NO_BASE_TYPE)


def _not_null(table: State, column: Column) -> Pieces:
    """Of a new column. PostgreSQL has no words here for one that is NOT VALID."""
    constraint = not_null_constraint(table, column)
    if constraint is None:
        return (" not null",)
    is_parents = bool(table["inherits"]) and column["local"] and not constraint["local"]
    if not constraint["validated"] or is_parents:
        return ()
    name: Pieces = ()
    if constraint["name"] != _usual_name(table["name"], column):
        name = (" constraint ", Name((constraint["name"],)))
    alone = (Since(_NAMED_SINCE, (_NO_INHERIT.lower(),)),) if is_alone(constraint) else ()
    return (*name, " not null", *alone)


def not_null_beside(table: State, column: Column) -> Pieces:
    """`constraint … not null …`, as CREATE TABLE has it of a column that a parent gives the table; nothing if
    the constraint is the parent's, too."""
    constraint = not_null_constraint(table, column)
    if constraint is None or not constraint["local"]:
        return ()
    return _stated(constraint)


def _stated(constraint: Mapping[str, Any]) -> Pieces:
    return ("constraint ", Name((constraint["name"],)), f" {constraint['def']}")


def _is_given(constraint: Mapping[str, Any]) -> bool:
    """By the table's parent."""
    return bool(constraint["inherited"]) and not constraint["local"]


def is_alone(constraint: Mapping[str, Any]) -> bool:
    """Whether children do not get it."""
    return bool(constraint["def"].removesuffix(" NOT VALID").endswith(_NO_INHERIT))


def _usual_name(table: str, column: Column) -> str:
    return f"{table}_{column['name']}_not_null"


def created(table: State, column: Column) -> Iterator[Step]:
    """What CREATE TABLE cannot say of a column."""
    usual = {"storage": column["storage"], "compression": "", "statistics": None, "options": None}
    yield from _stored(table, usual, column)
    yield from _comment(table, None, column)


def altered_view_column(view: State, was: Column | None, column: Column) -> Iterator[Step]:
    """What a view's definition, materialized or not, does not say of a column; `was`: None of a new one."""
    default = column["default"]
    if default != (was["default"] if was else None):
        what: Pieces = ("drop default",) if default is None else ("set default ", default)
        alter = ("alter table only ", Name(named(view)), " alter column ", Name((column["name"],)), " ")
        yield Step(Kind.DEFAULT, Phase.LAST, named(view), (*alter, *what), needs=named(view))
    if was is None:
        yield from created(view, column)
    else:
        yield from _stored(view, was, column)
        yield from _comment(view, was, column)


# Changed ones


class ColumnDiff:
    """The columns of a table that was and is there."""

    def __init__(self, before: State, after: State, command: Command) -> None:
        self._before, self._after, self._command = before, after, command
        self._table = named(after)
        self._was = {column["num"]: column for column in before["columns"]}
        self._now = {column["num"]: column for column in after["columns"]}

    def steps(self) -> Iterator[Step]:
        if self._is_typed:  # its columns come and go with its type's attributes, also on a replica
            for number in self._was.keys() & self._now.keys():
                yield from self._altered(self._was[number], self._now[number])
            return
        for number, column in self._now.items():
            was = self._was.get(number)
            if was is not None and was["name"] != column["name"]:
                yield self._renamed(was, column)
        gone = [was for number, was in self._was.items() if number not in self._now]
        for was in sorted(gone, key=lambda was: not was["generated"]):  # PostgreSQL refuses what others need
            yield self._dropped(was)
        for number, column in self._now.items():
            if number in self._was:
                yield from self._altered(self._was[number], column)
        for number, column in self._now.items():
            if number not in self._was:
                yield from self._added(column)

    @property
    def _is_typed(self) -> bool:
        return bool(self._before["of_type"]) and self._before["of_type"] == self._after["of_type"]

    def _renamed(self, was: Column, now: Column) -> Step:
        change = ("rename column ", Name((was["name"],)), " to ", Name((now["name"],)))
        return self._step(
            Kind.RENAME_COLUMN,
            was,
            change,
            phase=Phase.RENAME,
            inherited=bool(was["inherited"]),
            renamed=now["name"],
        )

    def _dropped(self, was: Column) -> Step:
        change = ("drop column if exists ", Name((was["name"],)))
        only = self._command.children_keep(self._table, was["name"])
        return self._step(Kind.DROP_COLUMN, was, change, inherited=is_inherited(was), drops=True, only=only)

    def _added(self, column: Column) -> Iterator[Step]:
        plain = not column["generated"] and not column["identity"]
        has_missing, missing = self._command.missing(column["name"])
        default: Pieces = ()
        if plain and not self._command.rewrites:
            # NULL is said, too: a domain's default would fill older rows.
            default = (Literal(missing if has_missing else None),)
        change = ("add column ", *definition(self._after, column, default=default))
        inherited = is_inherited(column)
        yield self._step(Kind.ADD_COLUMN, column, change, inherited=inherited)
        if default and inherited and missing is not None and not column["has_missing"]:
            yield from self._emptied(column)
        if default and (column["default"] is not None or has_missing or _keeps_null_default(column)):
            yield self._defaulted(column, kind=Kind.ADD_COLUMN)
        constraint = not_null_constraint(self._after, column)
        if constraint is not None and not constraint["validated"]:
            yield from self._named_not_null(constraint, column)
        yield from created(self._after, column)

    def _emptied(self, column: Column) -> Iterator[Step]:
        """Its parent's gave it the other children's value, which older rows of a table with a column list do
        not have."""
        if self._after["kind"] == "r":
            label = Name((column["name"],))
            statement: Pieces = ("update only ", Name(self._table), " set ", label, " = null where ", label)
            yield Step(
                Kind.ADD_COLUMN,
                Phase.TABLE,
                self._table,
                (*statement, " is not null"),
                needs=self._table,
                column=column["name"],
            )

    def _defaulted(self, column: Column, *, kind: Kind = Kind.DEFAULT) -> Step:
        what: Pieces = ("drop default",) if column["default"] is None else ("set default ", column["default"])
        change = ("alter column ", Name((column["name"],)), " ", *what)
        manner = Manner.RUN if column["default"] is None else Manner.DEFAULT
        return self._step(kind, column, change, only=True, manner=manner)

    def _altered(self, was: Column, now: Column) -> Iterator[Step]:
        inherited = bool(now["inherited"])  # also one of its own: its parent's alone can be altered
        retyped = (was["type_oid"], was["typmod"], was.get("collation")) != (
            now["type_oid"],
            now["typmod"],
            now.get("collation"),
        )
        computed = bool(was["generated"])
        is_default_new = not computed and not now["generated"] and was["default"] != now["default"]
        if was["identity"] and not now["identity"]:
            yield self._of(Kind.IDENTITY, now, "drop identity if exists", inherited=self._is_partition)
        if computed and not now["generated"]:
            yield self._of(Kind.GENERATED, now, "drop expression if exists", inherited=inherited)
        if retyped and not self._is_typed:
            yield from self._retyped(was, now, inherited=inherited)
        elif computed and was["default"] != now["default"] and self._is_computed_anew(now):
            change = ("alter column ", Name((now["name"],)), f" set expression as ({now['default']})")
            yield self._step(Kind.GENERATED, now, change, inherited=inherited, since=17)
        if is_default_new or (retyped and not computed and now["default"] is not None):
            yield self._defaulted(now)
        yield from self._not_null(was, now)
        if now["identity"]:
            yield from self._identified(was, now)
        yield from _stored(self._after, was, now)
        yield from _comment(self._after, was, now)

    def _is_computed_anew(self, column: Column) -> bool:
        """Otherwise its expression only names what is called otherwise now, which a replica's does, too."""
        rewritten = self._command.rewrites or self._command.rewrites_unseen
        return column["generated"] == "v" or (bool(column["generated"]) and rewritten)

    def _retyped(self, was: Column, now: Column, *, inherited: bool) -> Iterator[Step]:
        if was["default"] is not None and not was["generated"]:
            # before the parent's type changes, too, which takes this one along
            change: Pieces = ("alter column ", Name((now["name"],)), " drop default")
            yield self._step(Kind.ALTER_TYPE, now, change, phase=Phase.DROP_MEMBER, only=True)
        label = Name((now["name"],))
        using: Pieces = ()
        if self._command.rewrites:
            using = (f" using null::{now['type']}",)  # there is no row: those of the source follow
        elif not now["generated"]:
            by_text = "::text" if self._command.rewrites_unseen else ""  # USING may have said anything
            using = (" using ", label, f"{by_text}::{now['type']}")
        change = ("alter column ", label, f" type {type_of(now)}", *using)
        yield self._step(Kind.ALTER_TYPE, now, change, inherited=inherited)

    def _not_null(self, was: Column, now: Column) -> Iterator[Step]:
        constraint = not_null_constraint(self._after, now)
        if was["not_null"] and not now["not_null"]:
            # partitions can keep theirs since 18; before, ONLY is refused of a table that has some
            since = 0 if self._can_be_alone else _NAMED_SINCE
            yield self._of(Kind.NOT_NULL, now, "drop not null", only=True, only_since=since)
        elif not was["not_null"] and now["not_null"]:
            if constraint is None or (constraint["validated"] and not self._is_named(constraint, now)):
                only = constraint is None and self._can_be_alone
                inherited = constraint is not None and _is_given(constraint)
                yield self._of(Kind.NOT_NULL, now, "set not null", inherited=inherited, only=only)
            else:
                yield from self._named_not_null(constraint, now)
        elif constraint is not None:
            yield from self._same_not_null(was, now, constraint)

    @property
    def _can_be_alone(self) -> bool:
        """Whether ONLY may leave its children as they are: each that changed has a change of its own."""
        return bool(self._after["kind"] == "r")

    def _is_named(self, constraint: Mapping[str, Any], column: Column) -> bool:
        is_usual = constraint["name"] == _usual_name(self._after["name"], column)
        return not is_usual or is_alone(constraint)

    def _named_not_null(self, constraint: Mapping[str, Any], column: Column) -> Iterator[Step]:
        """Servers before 18 know neither its name nor NOT VALID."""
        change = ("add ", *_stated(constraint))
        inherited = _is_given(constraint)
        yield self._step(Kind.NOT_NULL, column, change, since=_NAMED_SINCE, inherited=inherited)
        if constraint["validated"]:
            only = is_alone(constraint)
            yield self._of(Kind.NOT_NULL, column, "set not null", inherited=inherited, only=only)

    def _same_not_null(self, was: Column, now: Column, constraint: Mapping[str, Any]) -> Iterator[Step]:
        before = not_null_constraint(self._before, was)
        if before is None:
            return
        label = Name((constraint["name"],))
        if before["name"] != constraint["name"]:
            change: Pieces = ("rename constraint ", Name((before["name"],)), " to ", label)
            inherited = bool(constraint["inherited"])  # also one of its own goes by its parent's name
            yield self._step(Kind.NOT_NULL, now, change, since=_NAMED_SINCE, inherited=inherited)
        if is_alone(before) != is_alone(constraint):
            how = _NO_INHERIT.lower() if is_alone(constraint) else " inherit"
            yield self._step(Kind.NOT_NULL, now, ("alter constraint ", label, how), since=_NAMED_SINCE)
        if constraint["inherited"] and constraint["local"] and not before["local"]:
            change = ("alter column ", Name((now["name"],)), " set not null")
            yield self._step(Kind.NOT_NULL, now, change, since=_NAMED_SINCE, only=self._can_be_alone)
        if now["inherited"] and before["inherited"] and not constraint["inherited"]:
            yield self._of(Kind.NOT_NULL, now, "set not null")  # before 18 it went with the parent's
        if constraint["validated"] and not before["validated"]:
            change = ("validate constraint ", label)
            inherited = _is_given(constraint)
            yield self._step(Kind.NOT_NULL, now, change, since=_NAMED_SINCE, inherited=inherited)
            only = is_alone(constraint)
            yield self._of(Kind.NOT_NULL, now, "set not null", inherited=inherited, only=only)

    def _identified(self, was: Column, now: Column) -> Iterator[Step]:
        """A partition's is its root's."""
        alone: dict[str, Any] = {"inherited": self._is_partition}
        label = ("alter column ", Name((now["name"],)), " ")
        if not was["identity"]:
            yield self._step(Kind.IDENTITY, now, (*label, "add ", *_identity(now)), **alone)
            return
        if was["identity"] != now["identity"]:
            how = f"set generated {_IDENTITY[now['identity']]}"
            yield self._step(Kind.IDENTITY, now, (*label, how), **alone)
        before, after = was["identity_options"] or {}, now["identity_options"] or {}
        numbers = [key for key in after if key != "sequence" and before.get(key) != after[key]]
        if numbers:
            how = " ".join(f"set {_option(key, after[key])}" for key in numbers)
            yield self._step(Kind.IDENTITY, now, (*label, how), **alone)
        yield from self._moved_sequence(now, before.get("sequence"), after.get("sequence"))

    def _moved_sequence(
        self, column: Column, before: list[str] | None, after: list[str] | None
    ) -> Iterator[Step]:
        """SET SCHEMA of a table takes the sequence along; RENAME does not."""
        if before and after and before[1] != after[1]:
            statement = ("alter sequence ", Name((after[0], before[1])), " rename to ", Name((after[1],)))
            yield Step(Kind.IDENTITY, Phase.TABLE, self._table, statement, column=column["name"])

    @property
    def _is_partition(self) -> bool:
        return self._after["partition_of"] is not None

    def _of(
        self,
        kind: Kind,
        column: Column,
        what: str,
        *,
        inherited: bool = False,
        only: bool = False,
        only_since: int = 0,
    ) -> Step:
        change = ("alter column ", Name((column["name"],)), f" {what}")
        return self._step(kind, column, change, inherited=inherited, only=only, only_since=only_since)

    def _step(
        self,
        kind: Kind,
        column: Column,
        change: Pieces,
        *,
        phase: Phase = Phase.TABLE,
        inherited: bool = False,
        only: bool = False,
        only_since: int = 0,
        manner: Manner = Manner.RUN,
        since: int = 0,
        drops: bool = False,
        renamed: str = "",
    ) -> Step:
        """`only_since`: the server's version from which on its children are left as they are."""
        alone: Pieces = (Since(only_since, ("only ",)) if only_since else "only ",) if only else ()
        statement = ("alter table ", *alone, Name(self._table), " ", *change)
        return Step(
            kind,
            phase,
            self._table,
            statement,
            manner=manner,
            needs=self._table,
            drops=drops,
            inherited=inherited,
            column=column["name"],
            renamed=renamed,
            since=since,
        )


def _option(key: str, value: object) -> str:
    words = {"start": "start with", "increment": "increment by", "min": "minvalue", "max": "maxvalue"}
    if key == "cycle":
        return "cycle" if value else "no cycle"
    return f"{words.get(key, key)} {value}"


def _storage(column: Column) -> str:
    return _STORAGE.get(column["storage"], str(column["storage"]).lower())


def _is_stored_unusually(column: Column) -> bool:
    """Otherwise than its type says, as far as that can be told."""
    how = _storage(column)
    return how == "external" or (how != "extended" and column["type_oid"] in _USUALLY_EXTENDED)


def _stored(table: State, was: Column, now: Column) -> Iterator[Step]:
    """How its values are stored and counted: each table's own."""
    label = Name((now["name"],))
    changes: list[Pieces] = []
    is_same_type = was.get("type_oid") == now["type_oid"]
    if was["storage"] != now["storage"] if is_same_type else _is_stored_unusually(now):
        changes.append(("alter column ", label, f" set storage {_storage(now)}"))
    if (was["compression"] or "") != (now["compression"] or ""):
        method = _COMPRESSION.get(now["compression"] or "", now["compression"] or "default")
        changes.append(("alter column ", label, f" set compression {method}"))
    if _target(was) != _target(now):
        changes.append(("alter column ", label, f" set statistics {_target(now)}"))
    changed = changed_options(was["options"], now["options"])
    changes += [("alter column ", label, " ", *change) for change in changed]
    if changes:
        statement = ("alter table only ", Name(named(table)), " ", *listed(changes))
        yield Step(Kind.STORAGE, Phase.LAST, named(table), statement, needs=named(table), column=now["name"])


def _target(column: Column) -> int:
    return -1 if column["statistics"] is None else int(column["statistics"])


def _comment(table: State, was: Column | None, now: Column) -> Iterator[Step]:
    about = ("column ", Name((*named(table), now["name"])))
    yield from comment(about, was, now, named(table), needs=named(table), column=now["name"])
