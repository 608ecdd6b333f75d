"""How a table joins a running pipeline: the messages that stand in the log at that place.

The source transaction that adds the table to the publication emits transactional logical messages,
so that definition and rows stand in the log at exactly the commit from which on the table's changes
follow:

    keepstream.join        the definition (`Join`) as JSON
    keepstream.join.empty  the same, instead: the table has more rows than go this way. None follow, and each
                           replica leaves the table's changes out until it has copied them (decision 017)
    keepstream.join.rows   none or more: rows in COPY's text form, columns as Join.columns, whole lines
    keepstream.join.keys   none or one: its foreign keys (`JoinKeys`) as JSON, after its rows
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

JOIN_PREFIX: Final = "keepstream.join"
JOIN_EMPTY_PREFIX: Final = "keepstream.join.empty"
"""A prefix of its own: a release that does not know it stops, and does not take the table for complete."""
JOIN_ROWS_PREFIX: Final = "keepstream.join.rows"
JOIN_KEYS_PREFIX: Final = "keepstream.join.keys"
DEFINING: Final = (JOIN_PREFIX, JOIN_EMPTY_PREFIX)
"""Whose content is a `Join`."""


def is_join(prefix: str) -> bool:
    """Whether a message of this prefix is about a joining table, be it of a later version's kind."""
    return prefix == JOIN_PREFIX or prefix.startswith(f"{JOIN_PREFIX}.")


@dataclass(frozen=True, slots=True)
class Join:
    """A joining table. `ddl` makes it, with indexes, constraints and triggers, without foreign keys.
    `columns`: those that the rows have. parent: (schema, name) of the partitioned table that `attach` makes
    it a partition of, where that is there; () if it is none. rights: owner and privileges of the table and of
    the sequences that go with it, as `rights_now` tells them; earlier releases tell none."""

    schema: str
    table: str
    columns: tuple[str, ...]
    ddl: tuple[str, ...]
    parent: tuple[str, ...] = ()
    attach: tuple[str, ...] = ()
    rights: tuple[Mapping[str, Any], ...] = ()

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, content: bytes) -> Join:
        """Raises ValueError or KeyError for anything that `to_json` did not write."""
        value = json.loads(content)
        return cls(
            value["schema"],
            value["table"],
            tuple(value["columns"]),
            tuple(value["ddl"]),
            tuple(value["parent"]),
            tuple(value["attach"]),
            tuple(map(dict, value.get("rights", ()))),
        )


@dataclass(frozen=True, slots=True)
class JoinKey:
    """A foreign key: its name for people, the table that it names, and the SQL that makes it. `inherited`: a
    partition has it from its parent, and as a plain table it needs one of its own."""

    name: str
    referenced: str
    statement: str
    inherited: bool = False


@dataclass(frozen=True, slots=True)
class JoinKeys:
    """The foreign keys that a joining table has a part in. own: its own, to tables that are replicated.
    left_out: its own to others. awaited: those of replicated tables to this one, which were left out until
    now."""

    own: tuple[JoinKey, ...] = ()
    left_out: tuple[JoinKey, ...] = ()
    awaited: tuple[JoinKey, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.own or self.left_out or self.awaited)

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, content: bytes) -> JoinKeys:
        """Raises ValueError, KeyError or TypeError for anything that `to_json` did not write."""

        def keys(value: list[dict[str, Any]]) -> tuple[JoinKey, ...]:
            return tuple(JoinKey(**key) for key in value)

        value = json.loads(content)
        return cls(keys(value["own"]), keys(value["left_out"]), keys(value["awaited"]))
