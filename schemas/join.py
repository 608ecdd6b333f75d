"""How a table joins a running pipeline: the messages that stand in the log at that place.

The source transaction that adds the table to the publication emits transactional logical messages,
so that definition and rows stand in the log at exactly the commit from which on the table's changes
follow:

    keepstream.join        the definition (`Join`) as JSON
    keepstream.join.rows   none or more: rows in COPY's text form, columns as Join.columns, whole lines
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final

JOIN_PREFIX: Final = "keepstream.join"
JOIN_ROWS_PREFIX: Final = "keepstream.join.rows"


@dataclass(frozen=True, slots=True)
class Join:
    """A joining table. `ddl` makes it, with indexes, constraints and triggers; `foreign_keys` are those
    of its foreign keys whose other table is replicated, too. `columns`: those that the rows have.
    parent: (schema, name) of the partitioned table that `attach` makes it a partition of, where that is
    there; () if it is none."""

    schema: str
    table: str
    columns: tuple[str, ...]
    ddl: tuple[str, ...]
    foreign_keys: tuple[str, ...]
    parent: tuple[str, ...] = ()
    attach: tuple[str, ...] = ()

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
            tuple(value["foreign_keys"]),
            tuple(value.get("parent", ())),
            tuple(value.get("attach", ())),
        )
