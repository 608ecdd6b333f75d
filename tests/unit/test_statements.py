"""The SQL of the exact path, word for word."""

from __future__ import annotations

from typing import Any

import pytest

from connectors.postgres.apply import statements
from connectors.postgres.apply.catalog import TargetColumn, TargetTable
from connectors.postgres.apply.statements import Old, Statement
from connectors.postgres.catalog.held_types import HeldType
from schemas.errors import OperatorNeeded
from schemas.table import Column, ReplicaIdentity, TableSchema


def table(identity: ReplicaIdentity = ReplicaIdentity.DEFAULT, *, key: str = "id") -> TableSchema:
    full = identity is ReplicaIdentity.FULL
    return TableSchema(
        "crm",
        "Kunde",
        identity,
        tuple(Column(name, 25, -1, "text", full or name == key) for name in ("id", "name", "note")),
    )


def target(
    *,
    columns: dict[str, dict[str, Any]] | None = None,
    key: tuple[str, ...] = ("id",),
    kind: str = "r",
) -> TargetTable:
    flags: dict[str, Any] = {"generated": False, "identity_always": False}
    made = {
        name: TargetColumn(name, "text", **(flags | given), held=HeldType(25, -1, "text", "b"))
        for name, given in (columns or {"id": {}, "name": {}, "note": {}}).items()
    }
    return TargetTable("crm", "Kunde", kind, made, key, (), ())


def values(statement: Statement, new: list[bytes | None], old: list[bytes | None]) -> list[bytes | None]:
    return statements.bind(statement.refs)(new, old)


ROW: list[bytes | None] = [b"1", b"Ada", None]


def test_insert_names_every_column_and_keeps_identity_values() -> None:
    statement = statements.insert(table(), target())
    assert statement.sql == (
        b'insert into "crm"."Kunde" ("id", "name", "note") overriding system value values ($1, $2, $3)'
    )
    assert values(statement, ROW, []) == ROW
    assert statement.what == "insert of crm.Kunde by (id)"


def test_columns_that_the_replica_generates_are_not_written() -> None:
    there = target(columns={"note": {}, "id": {}, "name": {"generated": True}})
    statement = statements.insert(table(), there)
    assert b'("id", "note")' in statement.sql
    assert values(statement, ROW, []) == [b"1", None]


def test_a_table_whose_every_column_is_generated_still_gets_its_row() -> None:
    there = target(columns={name: {"generated": True} for name in ("id", "name", "note")})
    assert statements.insert(table(), there).sql == b'insert into "crm"."Kunde" default values'


def test_update_leaves_absent_columns_and_the_unchanged_key_alone() -> None:
    statement = statements.update(table(), target(), absent=(2,), old=Old.NOTHING)
    assert statement.sql == b'update only "crm"."Kunde" set "name" = $1 where "id" = $2'
    assert values(statement, ROW, []) == [b"Ada", b"1"]


def test_update_of_a_key_finds_the_row_by_the_old_one() -> None:
    statement = statements.update(table(), target(), absent=(), old=Old.KEY)
    assert statement.sql == (
        b'update only "crm"."Kunde" set "id" = $1, "name" = $2, "note" = $3 where "id" = $4'
    )
    assert values(statement, ROW, [b"7"]) == [b"1", b"Ada", None, b"7"]


def test_update_that_can_set_nothing_still_proves_that_the_row_is_there() -> None:
    statement = statements.update(table(), target(), absent=(1, 2), old=Old.NOTHING)
    assert statement.sql == b'select from only "crm"."Kunde" where "id" = $1'


def test_an_identity_column_that_may_have_changed_replaces_the_row() -> None:
    there = target(columns={"id": {"identity_always": True}, "name": {}, "note": {}, "own": {}})
    statement = statements.update(table(), there, absent=(2,), old=Old.KEY)
    assert statement.sql == (
        b'with old as (delete from only "crm"."Kunde" where "id" = $3 returning *) '
        b'insert into "crm"."Kunde" ("id", "name", "note", "own") overriding system value '
        b'select $1, $2, "old"."note", "old"."own" from old'
    )
    assert values(statement, ROW, [b"7"]) == [b"1", b"Ada", b"7"]


def test_an_identity_column_of_an_unchanged_key_is_not_set() -> None:
    there = target(columns={"id": {"identity_always": True}, "name": {}, "note": {}})
    statement = statements.update(table(), there, absent=(), old=Old.NOTHING)
    assert statement.sql == b'update only "crm"."Kunde" set "name" = $1, "note" = $2 where "id" = $3'


def test_delete_goes_by_the_old_key() -> None:
    statement = statements.delete(table(), target(), Old.KEY)
    assert statement.sql == b'delete from only "crm"."Kunde" where "id" = $1'
    assert values(statement, [], [b"1"]) == [b"1"]


def test_a_key_is_compared_by_the_operator_of_its_index() -> None:
    there = target(columns={"id": {"equals": "operator(public.=)"}, "name": {}, "note": {}})
    statement = statements.delete(table(), there, Old.KEY)
    assert statement.sql == b'delete from only "crm"."Kunde" where "id" operator(public.=) $1'


def test_full_identity_uses_the_replicas_own_key() -> None:
    statement = statements.delete(table(ReplicaIdentity.FULL), target(key=("name",)), Old.ROW)
    assert statement.sql == b'delete from only "crm"."Kunde" where "name" = $1'
    assert values(statement, [], ROW) == [b"Ada"]
    assert statement.what == "delete of crm.Kunde by (name)"


def test_full_identity_without_a_key_compares_every_column_and_takes_one_row() -> None:
    statement = statements.delete(table(ReplicaIdentity.FULL), target(key=()), Old.ROW)
    text = statement.sql.decode()
    assert text.startswith(
        'delete from only "crm"."Kunde" where ctid = (select ctid from only "crm"."Kunde" where'
    )
    assert text.endswith("limit 1)")
    assert text.count("is not distinct from null") == 6
    assert values(statement, [], ROW) == ROW


def test_rows_of_a_partitioned_table_are_found_in_all_partitions() -> None:
    statement = statements.delete(table(ReplicaIdentity.FULL), target(key=(), kind="p"), Old.ROW)
    assert b'where (tableoid, ctid) = (select tableoid, ctid from "crm"."Kunde" where' in statement.sql


def test_a_change_that_identifies_no_row_stops() -> None:
    with pytest.raises(OperatorNeeded) as caught:
        statements.delete(table(key="none"), target(), Old.NOTHING)
    assert caught.value.code == "identity-missing"
    assert caught.value.hint == 'Run on the source: alter table only "crm"."Kunde" replica identity full;'


def test_truncate_takes_all_tables_at_once_and_never_cascades() -> None:
    assert (
        statements.truncate([target(), target(kind="p")], restart_identity=True)
        == b'truncate only "crm"."Kunde", "crm"."Kunde" restart identity'
    )


def test_what_empties_tables_without_truncate_keeps_away_from_a_parents_children() -> None:
    targets = [target(), target(kind="p")]
    assert statements.lock_for_delete(targets) == (
        b'lock table only "crm"."Kunde", "crm"."Kunde" in row exclusive mode'
    )
    assert [statements.delete_all(each) for each in targets] == [
        b'delete from only "crm"."Kunde"',
        b'delete from "crm"."Kunde"',
    ]
