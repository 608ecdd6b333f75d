"""From what objects were and are to the steps of a replica, in an order that PostgreSQL takes."""

from __future__ import annotations

from typing import Any

import pytest

from connectors.postgres.ddl.render import shown
from schemas.ddl.diff import steps
from schemas.ddl.kinds import Kind
from schemas.ddl.message import SENT, TOO_LARGE, ObjectChange, SchemaMessage
from schemas.ddl.step import Manner


def column(num: int, name: str, type_: str = "integer", oid: int = 23, **more: Any) -> dict[str, Any]:
    values = {
        "num": num,
        "name": name,
        "type": type_,
        "type_oid": oid,
        "typmod": -1,
        "collation": None,
        "not_null": False,
        "default": None,
        "identity": "",
        "identity_options": None,
        "generated": "",
        "storage": "x" if oid in (25, 1043) else "p",
        "compression": "",
        "statistics": None,
        "options": None,
        "missing": None,
        "has_missing": False,
        "local": True,
        "inherited": 0,
        "comment": None,
    }
    return values | more


def table(name: str = "t", *columns: dict[str, Any], **more: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "schema": "crm",
        "name": name,
        "owner": "crm",
        "acl": None,
        "comment": None,
        "kind": "r",
        "persistence": "p",
        "columns": list(columns),
        "constraints": [],
        "indexes": [],
        "triggers": [],
        "rules": [],
        "policies": [],
        "row_security": False,
        "force_row_security": False,
        "replica_identity": "d",
        "partition_of": None,
        "partition_bound": None,
        "partition_key": None,
        "inherits": [],
        "options": None,
        "access_method": "heap",
        "of_type": None,
        "published": ["keepstream_crm"],
    }
    return values | more


def constraint(oid: int, name: str, type_: str, definition: str, **more: Any) -> dict[str, Any]:
    values = {"oid": oid, "name": name, "type": type_, "def": definition, "validated": True, "local": True}
    values |= {"inherited": 0, "parent": 0, "index": 0, "references": None, "enforced": True, "comment": None}
    return values | more


def index(oid: int, name: str, definition: str, **more: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"oid": oid, "name": name, "def": definition, "unique": False, "primary": False}
    values |= {"constraint": False, "valid": True, "parent": 0, "parent_name": None}
    return values | {"replica_identity": False, "clustered": False, "comment": None} | more


def change(
    before: dict[str, Any] | None, after: dict[str, Any] | None, *, oid: int = 7, rewritten: str = ""
) -> ObjectChange:
    return ObjectChange("table", oid, before, after, rewritten)


def sql(*changes: ObjectChange) -> list[str]:
    return [shown(step) for step in steps(SchemaMessage("1", 0, changes=changes))]


ID = column(1, "id")


def test_servers_before_18_hear_nothing_of_a_not_null_s_name_beside_columns_or_its_no_inherit() -> None:
    own = constraint(9, "nn", "n", "NOT NULL k NO INHERIT")
    given = column(2, "k", local=False, inherited=1, not_null=True)
    mine = column(3, "own", not_null=True)
    alone = constraint(8, "x_own_not_null", "n", "NOT NULL own NO INHERIT")
    made = table("x", given, mine, inherits=[["crm", "h"]], constraints=[own, alone])
    message = SchemaMessage("1", 0, changes=(change(None, made),))
    until_17, since_18 = (
        [shown(step) for step in steps(message, version) if step.kind is Kind.CREATE_TABLE]
        for version in (17, 18)
    )
    assert until_17 == [
        'create table "crm"."x" ("own" integer not null) inherits ("crm"."h");',
        'alter table only "crm"."x" alter column "k" set not null;',
    ]
    assert since_18 == [
        'create table "crm"."x" ("own" integer not null no inherit, constraint "nn" NOT NULL k NO INHERIT)'
        ' inherits ("crm"."h");',
        'alter table only "crm"."x" alter column "k" set not null;',
    ]


def test_a_replica_without_the_parent_is_told_of_the_not_null_that_a_new_column_has_from_it() -> None:
    added = column(2, "k", local=False, inherited=1, not_null=True, has_missing=True, missing="5")
    given = constraint(9, "h_k_not_null", "n", "NOT NULL k", local=False, inherited=1)
    before = table("x", ID, inherits=[["crm", "h"]])
    after = table("x", ID, added, inherits=[["crm", "h"]], constraints=[given])
    made = """add column "k" integer default '5' constraint "h_k_not_null" not null;"""
    assert sql(change(before, after))[0].endswith(made)


def test_nothing_changed_asks_for_nothing() -> None:
    assert sql(change(table("t", ID), table("t", ID))) == []


def test_older_rows_get_the_constant_that_they_have_on_the_source() -> None:
    added = column(2, "x", default="now()", has_missing=True, missing="5")
    assert sql(change(table("t", ID), table("t", ID, added))) == [
        """alter table "crm"."t" add column "x" integer default '5';""",
        """alter table only "crm"."t" alter column "x" set default now();""",
    ]


def test_older_rows_get_null_even_where_a_domain_has_a_default() -> None:
    added = column(2, "x", "crm.pos", 99999)
    assert sql(change(table("t", ID), table("t", ID, added))) == [
        'alter table "crm"."t" add column "x" crm.pos default NULL;',
        'alter table only "crm"."t" alter column "x" drop default;',
    ]


def test_a_generated_column_is_computed_anew_only_where_the_source_did_that() -> None:
    """Its expression has another text, too, where a column that it uses is renamed."""
    before, after = (table("t", column(1, "x", generated="s", default=expression)) for expression in "ab")
    assert sql(change(before, after)) == []
    statement = """alter table "crm"."t" alter column "x" set expression as (b);"""
    assert sql(change(before, after, rewritten="unpublished")) == [statement]


def test_a_type_that_anything_was_made_of_needs_no_cast_where_a_replica_has_no_rows() -> None:
    before, after = table("t", column(1, "x", "text[]", 1009)), table("t", column(1, "x", "date", 1082))
    by_text = """alter table "crm"."t" alter column "x" type date using "x"::text::date;"""
    assert sql(change(before, after, rewritten="unpublished")) == [by_text]
    assert sql(change(before | {"kind": "p"}, after | {"kind": "p"})) == [by_text]


def test_a_column_of_the_same_name_is_dropped_before_the_new_one_is_added() -> None:
    before, after = table("t", ID, column(2, "x")), table("t", ID, column(3, "x", "text", 25))
    assert sql(change(before, after)) == [
        'alter table "crm"."t" drop column if exists "x";',
        'alter table "crm"."t" add column "x" text default NULL;',
    ]


def test_what_is_computed_of_a_column_is_dropped_before_it() -> None:
    before = table("t", ID, column(2, "x"), column(3, "y", generated="s", default="(x + 1)"))
    assert sql(change(before, table("t", ID))) == [
        'alter table "crm"."t" drop column if exists "y";',
        'alter table "crm"."t" drop column if exists "x";',
    ]


@pytest.mark.parametrize(("rewritten", "manner"), [(SENT, Manner.EMPTY), (TOO_LARGE, Manner.AWAIT)])
def test_a_rewritten_table_is_emptied_first_and_its_type_converts_no_row(
    rewritten: str, manner: Manner
) -> None:
    before = table("t", ID, column(2, "x", default="5"))
    after = table("t", ID, column(2, "x", "text", 25, default="'5'::text"))
    found = steps(SchemaMessage("1", 0, changes=(change(before, after, rewritten=rewritten),)))
    assert (found[0].manner, found[0].kind) == (manner, Kind.ALTER_TYPE)
    assert [shown(step) for step in found[1:]] == [
        'alter table only "crm"."t" alter column "x" drop default;',
        'alter table "crm"."t" alter column "x" type text using null::text;',
        """alter table only "crm"."t" alter column "x" set default '5'::text;""",
    ]


def test_a_change_of_type_without_rewrite_keeps_the_rows() -> None:
    before, after = (
        table("t", column(1, "x", "character varying(5)", 1043)),
        table("t", column(1, "x", "text", 25)),
    )
    assert sql(change(before, after)) == ['alter table "crm"."t" alter column "x" type text using "x"::text;']


def test_what_a_parent_gives_its_children_is_marked_as_that() -> None:
    parent = table("p", ID, kind="p", partition_key="LIST (id)")
    child = table("c", column(1, "id", local=False, inherited=1), partition_of=["crm", "p"])
    new = column(2, "x", has_missing=True, missing="5", default="5")
    given = column(2, "x", has_missing=True, missing="5", default="5", local=False, inherited=1)
    found = steps(
        SchemaMessage(
            "1",
            0,
            changes=(
                change(child, {**child, "columns": [*child["columns"], given]}, oid=8),
                change(parent, {**parent, "columns": [ID, new | {"has_missing": False, "missing": None}]}),
            ),
        )
    )
    added = [step for step in found if "add column" in shown(step)]
    assert [(step.object, step.inherited) for step in added] == [(("crm", "p"), False), (("crm", "c"), True)]
    assert shown(added[0]) == """alter table "crm"."p" add column "x" integer default '5';"""


def test_a_foreign_key_comes_after_the_key_that_it_needs_and_goes_before_it() -> None:
    key = constraint(20, "t_pkey", "p", "PRIMARY KEY (id)", index=30)
    reference = constraint(21, "r_t", "f", "FOREIGN KEY (id) REFERENCES crm.t(id)", references=["crm", "t"])
    t, r = table("t", ID), table("r", ID)
    with_key, with_reference = {**t, "constraints": [key]}, {**r, "constraints": [reference]}
    assert sql(change(r, with_reference, oid=6), change(t, with_key)) == [
        'alter table "crm"."t" add constraint "t_pkey" PRIMARY KEY (id);',
        'alter table only "crm"."r" add constraint "r_t" FOREIGN KEY (id) REFERENCES crm.t(id);',
    ]
    assert sql(change(with_key, t), change(with_reference, r, oid=8)) == [
        'alter table "crm"."r" drop constraint if exists "r_t";',
        'alter table "crm"."t" drop constraint if exists "t_pkey";',
    ]


def test_what_a_change_of_type_or_a_renaming_remade_is_left_alone() -> None:
    """Another OID with the same definition; or another definition, of other names, with the same OID."""
    definition = "CREATE INDEX i ON crm.t USING btree (id)"
    before = table("t", ID, indexes=[index(30, "i", definition)])
    assert sql(change(before, {**before, "indexes": [index(31, "i", definition)]})) == []
    moved = "CREATE INDEX i ON crm.u USING btree (id)"
    assert sql(change(before, {**before, "indexes": [index(30, "i", moved)]})) == []


def test_a_unique_index_becomes_a_key_under_the_keys_name() -> None:
    plain = index(30, "i", "CREATE UNIQUE INDEX i ON crm.t USING btree (id)", unique=True)
    key = constraint(20, "k", "u", "UNIQUE (id) DEFERRABLE INITIALLY DEFERRED", index=30)
    after = table("t", ID, indexes=[plain | {"name": "k", "constraint": True}], constraints=[key])
    assert sql(change(table("t", ID, indexes=[plain]), after)) == [
        'alter table "crm"."t" add constraint "k" unique using index "i" DEFERRABLE INITIALLY DEFERRED;'
    ]


def test_an_unfinished_concurrent_index_is_none_until_it_is_valid() -> None:
    made = index(30, "i", "CREATE INDEX i ON crm.t USING btree (id)")
    unfinished = table("t", ID, indexes=[made | {"valid": False}])
    assert sql(change(table("t", ID), unfinished)) == []
    assert sql(change(unfinished, table("t", ID, indexes=[made]))) == [f"{made['def']};"]


def test_views_go_before_the_table_and_sequences_after_it() -> None:
    view = {**table("v"), "def": " SELECT 1;", "columns": []}
    sequence = {"schema": "crm", "name": "s", "owned_by": ["crm", "t", "id"]}
    assert sql(
        ObjectChange("sequence", 5, sequence, None),
        change(table("t", ID), None),
        ObjectChange("view", 9, view, None),
    ) == [
        'drop view if exists "crm"."v";',
        'drop table if exists "crm"."t";',
        'drop sequence if exists "crm"."s";',
    ]


def test_labels_of_an_enum_come_at_their_place() -> None:
    common = {"schema": "crm", "name": "e", "owner": "crm", "acl": None, "comment": None}
    before = common | {"labels": [[1, "a"], [2, "b"]]}
    after = common | {"labels": [[5, "0"], [1, "a"], [4, "a'2"], [2, "B"], [3, "c"]]}
    assert sql(ObjectChange("enum", 7, before, after)) == [
        """alter type "crm"."e" rename value 'b' to 'B';""",
        """alter type "crm"."e" add value '0' before 'a';""",
        """alter type "crm"."e" add value 'a''2' after 'a';""",
        """alter type "crm"."e" add value 'c' after 'B';""",
    ]


def keyed(key: str, of_index: str) -> dict[str, Any]:
    held = index(5, of_index, f"CREATE UNIQUE INDEX {of_index} ON crm.t (id)", constraint=True)
    return table("t", ID, constraints=[constraint(4, key, "p", "PRIMARY KEY (id)", index=5)], indexes=[held])


def test_a_key_s_new_name_is_given_once_whichever_of_key_and_index_is_told_first() -> None:
    old, half, new = keyed("a", "a"), keyed("a", "b"), keyed("b", "b")
    assert sql(change(old, new)) == ['alter table "crm"."t" rename constraint "a" to "b";']
    assert sql(change(old, half)) == ['alter index "crm"."a" rename to "b";']
    assert sql(change(half, new)) == []


def test_a_renamed_schema_takes_its_tables_along() -> None:
    schema = {"schema": "crm", "name": "crm", "owner": "crm", "acl": None, "comment": None}
    renamed = ObjectChange("schema", 3, schema, schema | {"name": "sales", "schema": "sales"})
    moved = change(table("t", ID), {**table("t", ID), "schema": "sales"})
    assert sql(renamed, moved) == ['alter schema "crm" rename to "sales";']


def test_children_of_a_renamed_parent_stay_its_children() -> None:
    parent = table("p", ID, kind="p", partition_key="LIST (id)")
    child = table("c", column(1, "id", local=False, inherited=1), partition_of=["crm", "p"])
    assert sql(
        change(parent, {**parent, "name": "q"}), change(child, {**child, "partition_of": ["crm", "q"]}, oid=8)
    ) == ['alter table "crm"."p" rename to "q";']


@pytest.mark.parametrize("class_", ["other", "of a later version"])
def test_what_nobody_knows_is_named_and_not_made(class_: str) -> None:
    made = ObjectChange(class_, 3, None, {"tag": "CREATE CAST", "identity": "(a as b)"})
    (step,) = steps(SchemaMessage("1", 0, changes=(made,)))
    assert (step.kind, step.shown, step.manner) == (Kind.OTHER, "CREATE CAST (a as b)", Manner.NOTHING)
