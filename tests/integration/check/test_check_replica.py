"""`check` of a replica: what must not be there, what would fire, and what our role may do there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.postgres.ddl import left_out
from connectors.postgres.replica import progress
from connectors.postgres.replica.leftovers import UserObject
from connectors.postgres.session import connect
from pipeline.check import refusal
from pipeline.config import parse_config
from schemas.errors import OperatorNeeded
from schemas.finding import Severity
from schemas.lsn import Lsn, Position
from tests.checking import CUSTOMER, by_code, configure, errors, preflight
from tests.fix_apply import adopt
from tests.fix_postgres import Database
from tests.postgres_releases import needs_release


def test_a_replica_that_is_not_empty_is_refused(owning: Database, replica: Database, log: Path) -> None:
    replica.execute("create table mine (x int)")
    findings = preflight(configure(owning.dsn, log, replica.dsn))
    found = by_code(findings)["replica-not-empty"]
    assert found.message == "is not empty: it has table public.mine"
    error = refusal(findings)
    assert isinstance(error, OperatorNeeded)
    assert error.exit_code == 4
    assert str(error) == "replica standby: content: is not empty: it has table public.mine"


def test_tables_that_joined_without_their_rows_are_named_with_what_copies_them(
    owning: Database, replica: Database, log: Path
) -> None:
    with connect(replica.dsn, purpose="test") as session:
        progress.install(session)
        adopt(session, "crm", stream=bytes(16), position=Position(Lsn(1)))
        left_out.await_copy(session, "crm", ("public", "big"), replica="standby")
        left_out.add(session, "crm", ("public", "ignored"))
    command = "`keepstream snapshot standby public.big`"
    ways = {
        "": f"`keepstream run` copies them, exactly, as soon as it can; or at once: {command}.",
        "    copy_awaited: manual\n": f"{command} copies them, exactly.",
    }
    for setting, fix in ways.items():
        config = configure(owning.dsn, log, replica.dsn, of_replica=setting)
        (found,) = [each for each in preflight(config) if each.code == "table-awaits-copy"]
        assert (found.severity, found.subject, found.fix) == (Severity.WARNING, "public.big", fix)


def test_the_source_as_its_own_replica_is_refused(owning: Database, log: Path) -> None:
    config = configure(owning.dsn, log, owning.owner_dsn)
    assert errors(preflight(config)) == ["replica-is-source"]


def test_one_database_named_twice_is_refused(owning: Database, replica: Database, log: Path) -> None:
    text = f"name: crm\nsource: {owning.dsn}\nlog: file://{log}\nreplicas:\n"
    text += f"  a: {replica.dsn}\n  b: {replica.dsn}\n"
    config = parse_config(text, name="k", environment={})
    assert errors(preflight(config)) == ["replica-twice"]


@pytest.fixture
def ungranted(replica: Database) -> Iterator[Database]:
    """A replica whose role may not set session_replication_role."""
    replica.execute_as_admin("revoke set on parameter session_replication_role from keepstream")
    yield replica
    replica.execute_as_admin("grant set on parameter session_replication_role to keepstream")


def test_without_session_replication_role_an_empty_replica_is_made_without_foreign_keys(
    owning: Database, ungranted: Database, log: Path
) -> None:
    found = by_code(preflight(configure(owning.dsn, log, ungranted.dsn)))["session-replication-role"]
    assert found.severity is Severity.WARNING
    assert "without foreign keys and with its triggers disabled" in found.message
    ungranted.execute_as_admin(found.fix)
    found = by_code(preflight(configure(owning.dsn, log, ungranted.dsn)))["session-replication-role"]
    assert found.severity is Severity.OK


def test_without_session_replication_role_a_prepared_replica_with_foreign_keys_is_refused(
    owning: Database, ungranted: Database, log: Path
) -> None:
    schema = f"{CUSTOMER}; create table lead (id int primary key, customer int references customer)"
    owning.execute(schema)
    ungranted.execute(schema)
    config = configure(owning.dsn, log, ungranted.dsn, initial="data")
    findings = preflight(config)
    assert errors(findings) == ["replica-triggers"]
    assert by_code(findings)["replica-triggers"].message.endswith("; to drop a foreign key loses it")
    assert by_code(findings)["replica-triggers"].fix.splitlines()[1:] == [
        "-- or, for all of them:",
        '-- loses the foreign key: alter table "public"."lead" drop constraint "lead_customer_fkey";',
    ]
    ungranted.execute("alter table lead drop constraint lead_customer_fkey")
    assert errors(preflight(config)) == []


def test_what_would_fire_even_on_a_replica_is_refused_with_the_sql_that_mends_it(
    owning: Database, replica: Database, log: Path
) -> None:
    owning.execute(CUSTOMER)
    replica.execute(
        f"""{CUSTOMER};
        create function public.f() returns trigger language plpgsql as 'begin return null; end';
        create trigger quiet before insert on customer for each row execute function public.f();
        create trigger "Loud one" before insert on customer for each row execute function public.f();
        alter table customer enable always trigger "Loud one";
        create rule loud as on delete to customer do also notify gone;
        alter table customer enable replica rule loud"""
    )
    for initial in ("data", "none"):
        config = configure(owning.dsn, log, replica.dsn, initial=initial)
        findings = preflight(config)
        assert errors(findings) == ["replica-triggers"]
        assert by_code(findings)["replica-triggers"].fix.splitlines()[-2:] == [
            'alter table only "public"."customer" disable rule "loud";',
            'alter table only "public"."customer" enable trigger "Loud one";',
        ]
    replica.execute(by_code(findings)["replica-triggers"].fix)
    assert errors(preflight(config)) == []


def test_policies_that_would_refuse_our_writes_to_a_prepared_replica_are_an_error(
    owning: Database, replica: Database, log: Path
) -> None:
    owning.execute(f"{CUSTOMER}; create table lead (id int primary key)")
    replica.execute(f"{CUSTOMER}; create table lead (id int primary key)")
    replica.execute("alter table customer enable row level security, force row level security")
    replica.execute("alter table lead enable row level security")
    replica.execute_as_admin("alter table lead owner to postgres; grant all on lead to keepstream")
    config = configure(owning.dsn, log, replica.dsn, initial="none")
    findings = preflight(config)
    assert errors(findings) == ["replica-row-security"]
    found = by_code(findings)["replica-row-security"]
    assert found.message == (
        "row-level security applies to keepstream on 2 tables, whose writes would be refused:"
        " public.customer, public.lead"
    )
    assert found.fix.splitlines() == [
        'alter role "keepstream" bypassrls;',
        "-- or, for what it owns itself:",
        '-- alter table only "public"."customer" no force row level security;',
    ]
    try:
        replica.execute_as_admin(found.fix)
        assert errors(preflight(config)) == []
    finally:
        replica.execute_as_admin("alter role keepstream nobypassrls")


@pytest.mark.parametrize(
    ("initial", "look"),
    [("copy", "pipeline.check.replica.user_objects"), ("data", "pipeline.check.prepared.filled_tables")],
)
def test_what_a_copy_makes_that_begins_during_the_look_is_not_taken_for_others(
    owning: Database, replica: Database, log: Path, monkeypatch: pytest.MonkeyPatch, initial: str, look: str
) -> None:
    owning.execute(CUSTOMER)
    if initial == "data":
        replica.execute(CUSTOMER)
    seen = {"copy": [UserObject("table", "public.customer", True)], "data": [("public", "customer")]}

    def copying(*given: object) -> object:
        with connect(replica.dsn, purpose="test") as session:
            progress.install(session)
            progress.write_copying_marker(session, "crm", stream=bytes(16))
        return seen[initial]

    monkeypatch.setattr(look, copying)
    assert errors(preflight(configure(owning.dsn, log, replica.dsn, initial=initial))) == []


@needs_release("replica", 18)
def test_a_replica_that_cannot_hold_the_source_s_texts_is_refused(
    owning: Database, replica: Database, log: Path
) -> None:
    replica.execute_as_admin(
        "create database latin encoding 'LATIN1' locale 'C' template template0 owner keepstream"
    )
    try:
        dsn = replica.dsn.rsplit("/", 1)[0] + "/latin"
        found = by_code(preflight(configure(owning.dsn, log, dsn)))
        assert found["encoding-differs"].severity is Severity.ERROR
        assert found["collation-differs"].severity is Severity.WARNING
    finally:
        replica.execute_as_admin("drop database latin with (force)")


def test_an_extension_that_only_an_admin_can_create_is_named(
    owning: Database, replica: Database, log: Path
) -> None:
    owning.execute_as_admin("create extension pageinspect")
    config = configure(owning.dsn, log, replica.dsn)
    findings = preflight(config)
    assert errors(findings) == ["extension-needs-admin"]
    replica.execute_as_admin("create extension pageinspect")
    assert errors(preflight(config)) == []


def test_a_database_is_taken_from_its_owner_only_where_nobody_has_made_anything_there(
    owning: Database, replica: Database, log: Path
) -> None:
    ((role,),) = replica.execute("select current_user")
    replica.execute_as_admin(f'alter database "{replica.name}" owner to postgres')
    config = configure(owning.dsn, log, replica.dsn)
    taking = f'alter database "{replica.name}" owner to "{role}";'
    assert by_code(preflight(config))["privilege-create"].fix == taking
    replica.execute_as_admin("create table mine (x int)")
    assert by_code(preflight(config))["privilege-create"].fix == (
        f"-- loses the database for its owner: {taking}"
    )


def test_a_role_that_may_make_no_temporary_table_is_warned_of(
    owning: Database, replica: Database, log: Path
) -> None:
    owning.execute(CUSTOMER)
    config = configure(owning.dsn, log, replica.dsn)
    assert "privilege-temporary" not in by_code(preflight(config))
    replica.execute_as_admin(f'alter database "{replica.name}" owner to postgres')
    replica.execute_as_admin(f'revoke temporary on database "{replica.name}" from public')
    found = by_code(preflight(config))["privilege-temporary"]
    replica.execute_as_admin(found.fix)
    assert "privilege-temporary" not in by_code(preflight(config))


def test_what_our_role_may_not_write_to_comes_with_the_grants_of_all_its_owners(
    owning: Database, replica: Database, log: Path
) -> None:
    tables = "create table customer (id int primary key); create table lead (id int primary key)"
    tables += "; create schema s; create table s.deal (id int primary key)"
    owning.execute_as_admin(tables)
    replica.execute_as_admin(tables)
    ((role,),) = replica.execute("select current_user")
    replica.execute_as_admin('create role "o\'ne"; grant all on schema public to "o\'ne"')
    replica.execute_as_admin('alter table lead owner to "o\'ne"')
    config = configure(owning.dsn, log, replica.dsn, initial="data")
    try:
        found = by_code(preflight(config))["privilege-write"]
        assert found.fix == (
            f'grant "o\'ne" to "{role}";\n'
            f'grant usage on schema "public", "s" to "{role}";\n'
            "grant select, insert, update, delete, truncate on table"
            f' "public"."customer", "s"."deal" to "{role}";'
        )
        replica.execute_as_admin(found.fix)
        assert "privilege-write" not in by_code(preflight(config))
        replica.execute_as_admin(f'revoke truncate on lead from "o\'ne", "{role}"')
        replica.execute_as_admin(by_code(preflight(config))["privilege-write"].fix)
        assert "privilege-write" not in by_code(preflight(config))
    finally:
        replica.execute_as_admin('drop owned by "o\'ne"; drop role "o\'ne"')
