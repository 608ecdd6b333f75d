"""How a table joins a running pipeline: the messages that stand in the log at that place.

The source transaction that adds the table to the publication emits three kinds of transactional
logical messages, so that definition and rows stand in the log at exactly the commit from which on the
table's changes follow:

    keepstream.join        Join as JSON
    keepstream.join.rows   rows in COPY's text form, columns as Join.columns, whole lines
    keepstream.join.end    the table's schema.name

The applier runs `before`, copies the rows, runs `after`, all inside the transaction.
"""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict

JOIN: Final = "keepstream.join"
ROWS: Final = "keepstream.join.rows"
END: Final = "keepstream.join.end"
ROWS_CHUNK_BYTES: Final = 256 * 1024


class Join(BaseModel):
    """A joining table. `foreign_keys` is SQL that only a replica runs which has all tables they name."""

    model_config = ConfigDict(frozen=True)

    schema_name: str
    table: str
    columns: tuple[str, ...]
    before: str
    after: str
    foreign_keys: str = ""
