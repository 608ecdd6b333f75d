"""Privileges as values: what GRANT and REVOKE lead from some of them to others, and in which order."""

from __future__ import annotations

import pytest

from connectors.postgres.ddl.render import shown
from schemas.ddl.acl import Held, acts, owned_by, parse_acl
from schemas.ddl.diff import steps
from schemas.ddl.message import ObjectChange, SchemaMessage
from tests.unit.test_ddl_diff import column, table

OWNER = "crm=arwd/crm"


def sql(before: dict[str, object] | None, after: dict[str, object]) -> list[str]:
    made = SchemaMessage("1", 0, changes=(ObjectChange("table", 7, before, after),))
    return [shown(step) for step in steps(made) if step.kind in ("owner", "grants")]


def granted(*items: str, **more: object) -> dict[str, object]:
    return table("t", column(1, "id"), acl=list(items), part_acl=None, **more)


def test_a_role_is_named_as_it_is_quoted() -> None:
    held = parse_acl(['"a ""b""=c"=r*/"d/e"', "=w/crm"])
    assert held == {Held("d/e", 'a "b"=c', "r"): True, Held("crm", "", "w"): False}
    with pytest.raises(ValueError, match="not understood"):
        parse_acl(["reader"])


def test_what_nobody_granted_is_what_an_owner_has_of_itself() -> None:
    assert sql(table("t", acl=None), granted("crm=arwdDxt/crm")) == []
    assert sql(table("t", acl=None), granted("crm=arwdDxtm/crm")) == []
    assert sql(table("t", acl=None), granted("crm=rwdDxtm/crm")) == [
        'revoke insert on table "crm"."t" from "crm" cascade;'
    ]


def test_a_message_that_says_nothing_of_rights_changes_none() -> None:
    silent = {key: value for key, value in table("t").items() if key not in ("owner", "acl")}
    assert sql(granted(OWNER, "reader=r/crm"), silent) == []


def test_an_option_is_given_before_it_is_used_and_taken_with_what_came_of_it() -> None:
    plain, chain = (OWNER,), (OWNER, "b=r*/a", "a=r*/crm", "c=r/b")
    on = 'on table "crm"."t"'
    assert sql(granted(*plain), granted(*chain)) == [
        f'grant select {on} to "a" with grant option;',
        f'set local role "a"; grant select {on} to "b" with grant option; reset role;',
        f'set local role "b"; grant select {on} to "c"; reset role;',
    ]
    assert sql(granted(*chain), granted(*plain)) == [f'revoke select {on} from "a" cascade;']
    assert sql(granted(*chain), granted(OWNER, "a=r/crm")) == [
        f'revoke grant option for select {on} from "a" cascade;'
    ]


def test_what_is_lost_together_with_an_option_is_given_again() -> None:
    was, now = parse_acl(["a=r*/crm", "c=r/a"]), parse_acl(["a=w/crm", "b=r*/crm", "c=r/b"])
    done = [(act.gives, act.grantor, act.grantee, *act.words) for act in acts(was, now, "crm")]
    assert done == [
        (False, "crm", "a", "select"),
        (True, "crm", "a", "update"),
        (True, "crm", "b", "select"),
        (True, "b", "c", "select"),
    ]


def test_a_new_owner_stands_for_the_old_one() -> None:
    held = parse_acl(["crm=arw/crm", "boss=r*/crm", "c=r/boss"])
    assert owned_by(held, was="crm", now="boss") == parse_acl(["boss=ar*w/boss", "c=r/boss"])
    assert sql(granted("crm=rw/crm", "c=r/crm"), granted("boss=rw/boss", "c=r/boss", owner="boss")) == [
        'alter table "crm"."t" owner to "boss";'
    ]


def test_what_a_table_loses_its_columns_lose_too() -> None:
    part = [{"num": 1, "acl": ["reader=rw/crm"]}]
    before = {**granted(OWNER, "reader=r/crm"), "part_acl": part}
    assert sql(before, {**granted(OWNER), "part_acl": part}) == [
        'revoke select on table "crm"."t" from "reader" cascade;',
        'grant select ("id") on table "crm"."t" to "reader";',
    ]
    assert sql(before, {**granted(OWNER), "part_acl": None})[1:] == [
        'revoke update ("id") on table "crm"."t" from "reader" cascade;'
    ]


def test_a_new_table_is_its_owners_before_it_is_granted() -> None:
    found = sql(None, granted(OWNER, "=r/crm"))
    assert found[0] == 'alter table "crm"."t" owner to "crm";'
    assert found[-1] == 'grant select on table "crm"."t" to public;'
