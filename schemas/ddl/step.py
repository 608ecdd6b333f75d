"""One step of following a schema change: a statement for a replica, and what it is about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum, IntEnum

from schemas.ddl.kinds import Kind
from schemas.identifiers import qualified


@dataclass(frozen=True, slots=True)
class Name:
    """A name in a statement, qualified or not; it is quoted where that is written."""

    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Literal:
    """A text in a statement, or NULL."""

    text: str | None


@dataclass(frozen=True, slots=True)
class Since:
    """A part of a statement that servers before this version do not know, and go without."""

    version: int
    pieces: tuple[Piece, ...]


Piece = str | Name | Literal | Since
"""Of a statement: a str is SQL, from a fixed list or as PostgreSQL wrote it."""


class Phase(IntEnum):
    """When a step's turn is among all of one message. What goes first makes room for what comes later."""

    EMPTY = 0
    RENAME = 5
    MAKE = 10
    DROP_DEPENDANT = 20
    DROP_MEMBER = 30
    TABLE = 40
    MEMBER = 50
    ATTACH = 55
    FOREIGN_KEY = 60
    DEPENDANT = 65
    VIEW = 70
    DROP = 80
    OWNER = 85
    LAST = 90
    GRANTS = 95


class Manner(Enum):
    """How a step is taken.

    RUN            its statement
    EMPTY          the table loses its rows, which follow in messages
    AWAIT          the table loses its rows, which do not: they are to be copied
    KEY            a foreign key: kept in keepstream.deferred_ddl where it cannot be made
    FORGET_KEY     a foreign key goes, be it one that could not be made
    DEFAULT        a default: the same as KEY
    FORCE          what would bind our own role: kept in keepstream.deferred_ddl
    FORGET_FORCE   it is not wanted any more
    SILENT         a trigger or rule that is then kept still if it would act on our writes
    NOTHING        nobody knows how to make this one; only named
    """

    RUN = "run"
    EMPTY = "empty"
    AWAIT = "empty, until it is copied anew"
    KEY = "key"
    FORGET_KEY = "forget key"
    DEFAULT = "default"
    FORCE = "force"
    FORGET_FORCE = "forget force"
    SILENT = "silent"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Step:
    """kind: by which a policy is chosen. object: (schema, name) or (name,), as it is called when the step is
    taken. statement: without a semicolon.

    needs: a table or other relation that the statement alters, if it must be there for it. drops: that it is
    not there is as good. inherited: PostgreSQL does it itself where the replica's table has a parent.
    column: whose it is; renamed: what that, or the constraint, is called then. since: the server's version
    that knows it. member: of a foreign key, trigger or rule: its name. whole, unlisted: as `ObjectChange` has
    them; bound: of that partition, before the change; is_published: the log has its rows under its own name,
    once it is none. roles: that the statement names; member_of: one that ours must be a member of; role: as
    which it is run, if that is not ours. is_new: it is a part of making the object; of_owner: it is about
    what the owner itself holds.
    """

    kind: Kind
    phase: Phase
    object: tuple[str, ...]
    statement: tuple[Piece, ...] = ()
    manner: Manner = Manner.RUN
    needs: tuple[str, str] | None = None
    drops: bool = False
    inherited: bool = False
    column: str = ""
    renamed: str = ""
    member: str = ""
    since: int = 0
    whole: tuple[str, ...] = ()
    bound: str = ""
    is_published: bool = False
    unlisted: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    member_of: str = ""
    role: str = ""
    is_new: bool = False
    of_owner: bool = False

    def on(self, version: int) -> Step:
        """As a server of this version takes it."""
        if not any(isinstance(piece, Since) for piece in self.statement):
            return self
        return replace(self, statement=tuple(_known(self.statement, version)))

    @property
    def table(self) -> tuple[str, str]:
        """Schema and name of an object that has both."""
        return self.object[0], self.object[1]

    @property
    def holder(self) -> tuple[str, str]:
        """The table under whose name its rows are in the log."""
        return (self.whole[0], self.whole[1]) if self.whole else self.table

    @property
    def last_name(self) -> str:
        """With which its statement ends; empty where it does not."""
        last = self.statement[-1]
        return last.parts[-1] if isinstance(last, Name) else ""

    @property
    def new_name(self) -> tuple[str, str] | None:
        """Of a table that it renames or moves."""
        if self.phase is not Phase.RENAME or self.column or self.member or len(self.object) != 2:
            return None
        name = self.last_name
        if not name:
            return None
        return (name, self.object[1]) if self.statement[-2] == " set schema " else (self.object[0], name)

    @property
    def shown(self) -> str:
        """What it is about, for people: `schema.name`, with column or member."""
        inner = self.column or self.member
        return qualified(*self.object, *([inner] if inner else []))


def _known(pieces: Iterable[Piece], version: int) -> Iterator[Piece]:
    for piece in pieces:
        if not isinstance(piece, Since):
            yield piece
        elif piece.version <= version:
            yield from piece.pieces
