"""When the look-out for added columns asks the catalog."""

from __future__ import annotations

from typing import Any, cast

import pytest

from connectors.postgres.catalog.shape import Shape, ShapeColumn
from connectors.postgres.session import Session
from pipeline.capture.entries.shapes import SHAPES, first_shape
from pipeline.capture.versions import added
from pipeline.capture.versions.added import AddedColumns
from schemas.entries import Entries
from schemas.table import Column, ReplicaIdentity, TableSchema

NO_SESSION = cast("Session", None)


class Catalog:
    """Stands for the query of all published tables."""

    def __init__(self) -> None:
        self.asked = 0
        self.tables: tuple[TableSchema, ...] = ()

    def __call__(self, *_: Any) -> tuple[TableSchema, ...]:
        self.asked += 1
        return self.tables


@pytest.fixture
def catalog(monkeypatch: pytest.MonkeyPatch) -> Catalog:
    catalog = Catalog()
    monkeypatch.setattr(added, "published_tables", catalog)
    return catalog


def version(*columns: str) -> TableSchema:
    made = tuple(Column(name, 25, -1, "text", key=name == "id") for name in columns)
    return TableSchema("public", "t", ReplicaIdentity.DEFAULT, made)


def entries(filenode: int, *columns: str) -> Entries:
    made = tuple(ShapeColumn(i, name, "9") for i, name in enumerate(columns, 1))
    shape = Shape(7, filenode, len(made), made)
    return Entries.parse(["catalog:1:2"]).put(SHAPES, first_shape(shape))


def test_what_had_nothing_to_tell_is_asked_again_only_when_a_column_changed(catalog: Catalog) -> None:
    lookout = AddedColumns("dbname=x", "p", purpose="test")
    lookout.look(NO_SESSION, (), entries(100, "id"))
    assert catalog.asked == 1
    lookout.look(NO_SESSION, (), entries(100, "id"))
    lookout.look(NO_SESSION, (), entries(200, "id"))  # VACUUM FULL: another file, the same columns
    assert catalog.asked == 1
    lookout.look(NO_SESSION, (), entries(200, "id", "added"))
    assert catalog.asked == 2


def test_a_table_that_has_grown_is_looked_at_until_the_log_knows_it(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[TableSchema] = []
    lookout = AddedColumns("dbname=x", "p", purpose="test")
    monkeypatch.setattr(lookout, "_try_send", sent.append)
    before, now = version("id"), version("id", "added")
    catalog.tables = (now,)
    lookout.look(NO_SESSION, (before,), entries(100, "id", "added"))
    lookout.look(NO_SESSION, (before,), entries(100, "id", "added"))  # it could not be locked
    assert sent == [now, now]
    lookout.look(NO_SESSION, (now,), entries(100, "id", "added"))
    lookout.look(NO_SESSION, (now,), entries(100, "id", "added"))
    assert (sent, catalog.asked) == ([now, now], 3)
