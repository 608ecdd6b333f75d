"""SQL in which a schema or table gets another name."""

from __future__ import annotations

import pytest

from schemas.ddl.message import ObjectChange
from schemas.ddl.renaming import AS_QUALIFIER, AS_RELATION, with_names
from schemas.ddl.requalify import requalified


@pytest.mark.parametrize(
    ("text", "renamed"),
    [
        ("CREATE INDEX i ON crm.t (a)", "CREATE INDEX i ON Z.t (a)"),
        ('alter table "crm"."t"', 'alter table "Z"."t"'),
        ("nextval('crm.s'::regclass)", "nextval('Z.s'::regclass)"),
        ("CHECK (note <> 'crm.t' AND crm > 0)", "CHECK (note <> 'crm.t' AND crm > 0)"),
        ("AS $f$select crm.x$f$ || crm.y()", "AS $f$select crm.x$f$ || Z.y()"),
        ('crm_.a, x.crm.b, "a crm.c", $crm.d', 'crm_.a, x.crm.b, "a crm.c", $crm.d'),
    ],
)
def test_a_schemas_name_is_one_before_a_dot_and_outside_of_texts(text: str, renamed: str) -> None:
    assert with_names(text, {"crm": "Z", '"crm"': '"Z"'}, AS_QUALIFIER) == renamed


def test_a_relations_name_is_whole() -> None:
    names = {"crm.t": "crm.u"}
    assert (
        with_names("crm.t, crm.tt, crm.t.a, 'crm.t'", names, AS_RELATION) == "crm.u, crm.tt, crm.u.a, 'crm.t'"
    )


def test_a_change_names_its_schema_as_it_is_called_now() -> None:
    state = {
        "schema": "s",
        "schema_oid": 7,
        "name": "s",
        "inherits": [["s", "p"], ["other", "s"]],
        "partition_of": ["s", "w"],
        "columns": [{"name": "s", "default": "s.f('s.x'::text)"}],
    }
    change = requalified(ObjectChange("table", 9, None, state), {7: "z"})
    assert change.after == {
        "schema": "z",
        "schema_oid": 7,
        "name": "s",
        "inherits": [["z", "p"], ["other", "s"]],
        "partition_of": ["z", "w"],
        "columns": [{"name": "s", "default": "\"z\".f('s.x'::text)"}],
    }
    assert requalified(change, {8: "y"}) is change
