"""A first copy that brings owners and privileges along."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.ddl.kinds import DEFAULTS, Kind, Policy
from schemas.errors import RetryLater
from tests.copying import copy
from tests.fix_ddl import dump
from tests.fix_postgres import Database
from tests.fix_roles import Roles
from tests.integration.test_copy_kills import copy_again, run_killed_at

FOLLOWED = {**DEFAULTS, Kind.OWNER: Policy.APPLY, Kind.GRANTS: Policy.APPLY}
OBJECTS = """
    grant usage on schema public to <reader>;
    create schema crm authorization <app>;
    grant usage on schema crm to <chief>;
    set role <app>;
    create type crm.mood as enum ('good');
    revoke usage on type crm.mood from public;
    create table crm.t (
        gone int, id serial primary key, i int generated always as identity, mood crm.mood default 'good'
    );
    alter table crm.t drop gone;
    insert into crm.t (id) values (1);
    grant select (id), update (mood) on crm.t to <reader>;
    grant usage on all sequences in schema crm to <reader>;
    grant select on crm.t to <chief> with grant option;
    create table crm.p (id int, d int, primary key (id, d)) partition by range (d);
    create table crm.p1 partition of crm.p for values from (0) to (9);
    grant select on crm.p to <reader>;
    create view crm.v as select id from crm.t;
    grant select on crm.v to public;
    create function crm.f(int) returns int language sql as 'select 1';
    revoke all on function crm.f from public;
    alter default privileges in schema crm grant select on tables to <reader>;
    alter default privileges revoke execute on functions from public;
    set role <chief>;
    grant select on crm.t to <boss>;
    reset role;
    create table crm.owned (id int primary key);
    alter table crm.owned owner to <boss>;
"""


def test_a_copy_has_the_sources_owners_and_privileges_also_after_a_kill(
    roles: Roles, source: Database, replica: Database, tmp_path: Path
) -> None:
    source.execute_as_admin(roles.fill(OBJECTS))
    run_killed_at("copy.before_completion", tmp_path / "kills", source, replica, policies=FOLLOWED)
    copy_again(source, replica, policies=FOLLOWED)
    assert dump(replica, rights=True) == dump(source, rights=True)


def test_a_copy_waits_for_roles_before_it_makes_anything(
    roles: Roles, source: Database, replica: Database
) -> None:
    late = f"late_{roles.app}"
    source.execute_as_admin(
        f"create role {late}; create table t (id int primary key); grant select on t to {late}"
    )
    try:
        with pytest.raises(RetryLater) as waiting:
            copy(source, replica, policies={**FOLLOWED, Kind.OWNER: Policy.IGNORE})
        assert waiting.value.code == "role-missing"
        assert f'create role "{late}";' in waiting.value.hint
        copy(source, replica)
        assert replica.execute("select to_regclass('t') is not null") == [(True,)]
    finally:
        source.execute_as_admin(f"drop owned by {late}; drop role {late}")
