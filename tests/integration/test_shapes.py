"""What capture takes for harmless is: a replica that knows the streamed rows, and what the catalog says of
those from before a column, has the source's rows, whatever order of statements led there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from connectors.postgres.catalog.shape import read_shape
from connectors.postgres.catalog.tables import read_columns
from connectors.postgres.session import Session, connect
from pipeline.capture.entries.shapes import KnownShape, check_shape, first_shape
from schemas.errors import RefusedData
from tests.fix_postgres import Database, Row, Server

ADD = {
    "add constant": "add {new} int default 5",
    "add null": "add {new} int",
    "add volatile": "add {new} int default 100 + (random() * 1e6)::int",
    "add generated": "add {new} int generated always as (id * 2) stored",
    "add both": "add {new} int default 5, add {new}g int generated always as (id * 2) stored",
}
ALTER = {
    "compute": "alter {newest} type int using {newest} + 1000",
    "compute a known one": "alter v type int using v + 1000",
    "drop default": "alter {newest} drop default",
    "set default": "alter {newest} set default 5",
}
OTHERS = ("insert", "update", "delete", "truncate", "cluster", "commit")
STEPS = st.lists(st.sampled_from((*ADD, *ALTER, *OTHERS)), max_size=8)


@dataclass
class Migrated:
    """A table with two rows that is migrated, and what the stream would tell of its rows: all of those that
    a statement wrote, with the columns of its time."""

    connection: psycopg.Connection[Row]
    columns: int = 0
    newest: str = "v"
    told: dict[Any, dict[str, Any]] = field(default_factory=dict)

    def take(self, step: str) -> None:
        if step in ADD:
            self.columns += 1
            new = f"c{self.columns}"
            self.connection.execute(f"alter table t {ADD[step].format(new=new)}")
            self.newest = self.newest if step == "add generated" else new
        elif step in ALTER:
            self.connection.execute(f"alter table t {ALTER[step].format(newest=self.newest)}")
        else:
            getattr(self, f"_{step}")()

    def _insert(self) -> None:
        self._learn("insert into t (id) select coalesce(max(id), 0) + 1 from t returning *")

    def _update(self) -> None:
        self._learn(f"update t set {self.newest} = 7 where id = (select max(id) from t) returning *")

    def _delete(self) -> None:
        query = "delete from t where id = (select min(id) from t) returning id"
        for (gone,) in self.connection.execute(query).fetchall():
            del self.told[gone]

    def _truncate(self) -> None:
        self.connection.execute("truncate t")
        self.told.clear()

    def _cluster(self) -> None:
        self.connection.execute("cluster t using t_pkey")

    def _commit(self) -> None:
        self.connection.commit()

    def _learn(self, query: str) -> None:
        for row in self.rows(query):
            self.told[row["id"]] = row

    def rows(self, query: str) -> list[dict[str, Any]]:
        cursor = self.connection.execute(query)
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor]


def accepted(session: Session, oid: int, anchored: KnownShape) -> dict[str, int | None] | None:
    """By column, what its rows from before it hold, as the log would tell; None where capture stops."""
    shape = read_shape(session, oid, "p")
    assert shape is not None
    try:
        check_shape("t", anchored, shape)
    except RefusedData:
        return None
    columns = [column for column in read_columns(session, oid) if not column.generated]
    return {c.name: int(c.missing) if c.missing is not None else None for c in columns}


@pytest.fixture(scope="module")
def database(source_server: Server) -> Iterator[Database]:
    made = source_server.new_database()
    yield made
    made.drop()


@given(STEPS)
@example(["add constant", "truncate", "insert", "insert"])
@example(["truncate", "insert", "add constant", "insert"])
@example(["truncate", "insert", "add constant", "compute"])
@example(["add volatile", "add constant", "truncate"])
@example(["add volatile", "add constant"])
@example(["add constant", "insert", "compute", "truncate", "insert", "compute"])
@example(["cluster", "add constant", "add null"])
@example(["add constant", "drop default", "cluster", "add constant"])
@example(["add volatile", "set default", "add generated"])
@example(["add both"])
def test_whatever_is_accepted_leaves_a_replica_with_the_rows_of_the_source(
    database: Database, steps: list[str]
) -> None:
    with (
        connect(database.dsn, purpose="test") as session,
        database.connect(autocommit=False) as connection,
    ):
        connection.execute("drop table if exists t")
        connection.execute("create table t (id int primary key, v int); insert into t values (1, 1), (2, 2)")
        connection.commit()
        ((oid,),) = connection.execute("select 't'::regclass::oid").fetchall()
        before = read_shape(session, oid, "p")
        assert before is not None
        migrated = Migrated(connection)
        migrated.told = {row["id"]: row for row in migrated.rows("table t")}
        for step in steps:
            migrated.take(step)
        connection.commit()
        missing = accepted(session, oid, first_shape(before))
        if missing is not None:
            replica = {key: missing | row for key, row in migrated.told.items()}
            there = {row["id"]: {name: row[name] for name in missing} for row in migrated.rows("table t")}
            assert there == {key: {name: row[name] for name in missing} for key, row in replica.items()}
