"""`check` of a replica's columns: what they would round, compute or lack, with the SQL that mends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.finding import Severity
from tests.checking import by_code, configure, errors, preflight, uncommented
from tests.copying import begin_following
from tests.fix_postgres import Database
from tests.postgres_releases import needs_release
from tests.tracked import install_triggers, uninstall_triggers


@needs_release("replica", 18)
def test_a_virtual_column_of_a_prepared_table_is_made_anew(
    owning: Database, replica: Database, log: Path
) -> None:
    owning.execute("create table deal (id int primary key, total numeric(8,2))")
    replica.execute("create table deal (id int primary key, total int generated always as (id * 2) virtual)")
    config = configure(owning.dsn, log, replica.dsn, initial="data")
    found = by_code(preflight(config))["replica-schema"]
    assert found.message == "it computes column total itself, and mending that loses its expression"
    replica.execute(uncommented(found.fix))
    assert errors(preflight(config)) == []


KINDS = ["stored", pytest.param("virtual", marks=[needs_release("source", 18), needs_release("replica", 18)])]


def generated(expression: str, kind: str) -> str:
    column = f"c int generated always as ({expression}) {kind}" if expression else "c int"
    return f"create table g (id int primary key, a int, {column})"


@pytest.mark.parametrize("initial", ["data", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_prepared_column_must_be_computed_where_the_source_computes_it(
    owning: Database, replica: Database, log: Path, kind: str, initial: str
) -> None:
    owning.execute(generated("a * 3", kind))
    replica.execute(generated("", ""))
    config = configure(owning.dsn, log, replica.dsn, initial=initial)
    findings = preflight(config)
    assert errors(findings) == ["replica-schema"]
    found = by_code(findings)["replica-schema"]
    lost = "its values, and the indexes and constraints that name it"
    seen = f"it does not compute column c, as the source does, and mending that loses {lost}"
    assert (found.subject, found.message) == ("public.g", seen)
    assert found.fix == (
        f'-- loses {lost}: alter table "public"."g" drop column "c", add column "c" integer generated'
        " always as ((a * 3)) stored;"
    )
    replica.execute(uncommented(found.fix))
    assert "generated-differs" not in by_code(preflight(config))
    assert errors(preflight(config)) == []


@pytest.mark.parametrize("kind", KINDS)
def test_an_expression_that_differs_on_the_replica_is_a_warning(
    owning: Database, replica: Database, log: Path, kind: str
) -> None:
    owning.execute(generated("a * 3", kind))
    replica.execute(generated("a * 4", kind))
    config = configure(owning.dsn, log, replica.dsn, initial="data")
    findings = preflight(config)
    assert errors(findings) == []
    found = by_code(findings)["generated-differs"]
    assert (found.severity, found.subject, found.message) == (
        Severity.WARNING,
        "public.g",
        "computes column c as integer (a * 4), the source as integer (a * 3)",
    )
    with owning.connect(autocommit=False) as busy:
        busy.execute("lock table g in access exclusive mode")
        assert "generated-differs" not in by_code(preflight(config))
    replica.execute(uncommented(found.fix))
    assert "generated-differs" not in by_code(preflight(config))


@pytest.mark.parametrize("initial", ["data", "none"])
def test_a_prepared_table_that_would_round_or_compute_is_an_error_with_its_sql(
    owning: Database, replica: Database, log: Path, initial: str
) -> None:
    owning.execute("create table deal (id int primary key, amount numeric(12,4), total int, note text)")
    replica.execute(
        "create table deal (id int primary key, amount numeric(12,2),"
        " total int generated always as (id * 2) stored)"
    )
    config = configure(owning.dsn, log, replica.dsn, initial=initial)
    found = by_code(preflight(config))["replica-schema"]
    assert (found.severity, found.subject) == (Severity.ERROR, "public.deal")
    assert found.message == (
        "its column amount is numeric(12,2) instead of numeric(12,4); it computes column total itself, and"
        " mending that loses its expression; it lacks column note (text)"
    )
    widened, lost, added = found.fix.splitlines()
    replica.execute(f"{widened} {uncommented(lost)} {added}")
    assert "replica-schema" not in errors(preflight(config))


@pytest.mark.parametrize("initial", ["data", "none"])
def test_what_a_domain_of_a_prepared_replica_would_round_is_an_error_with_its_sql(
    owning: Database, replica: Database, log: Path, initial: str
) -> None:
    schema = "create domain money2 as numeric(12,4); create table deal (id int primary key, amount money2)"
    owning.execute(schema)
    replica.execute(schema.replace("12,4", "8,2"))
    config = configure(owning.dsn, log, replica.dsn, initial=initial)
    found = by_code(preflight(config))["replica-schema"]
    assert found.message == "its column amount is public.money2 with numeric(8,2) instead of numeric(12,4)"
    replica.execute(found.fix)
    assert errors(preflight(config)) == []


def test_a_replica_that_follows_and_was_altered_to_round_is_an_error_that_one_that_is_behind_is_not(
    owning: Database, replica: Database, log: Path
) -> None:
    schema = (
        "create domain money2 as numeric(12,4); create type mood as enum ('good');"
        " create table deal (id int primary key, amount money2, mood mood)"
    )
    owning.execute(
        f"{schema}; alter table deal add later text, add twice int generated always as (id * 2) stored;"
        " alter type mood add value 'later'"
    )
    replica.execute(schema)
    config = configure(owning.dsn, log, replica.dsn)
    owning.execute("create publication keepstream_crm for table deal")
    begin_following(replica)

    def unfit() -> list[str]:
        findings = preflight(config)
        return [f.message for f in findings if f.code == "replica-schema" and f.severity is Severity.ERROR]

    assert unfit() == []
    replica.execute("alter table deal alter amount type numeric(12,2)")
    assert unfit() == ["its column amount is numeric(12,2) instead of numeric(12,4)"]
    install_triggers(owning)
    assert unfit() == [], "a schema message may be on its way"
    found, enum = [f for f in preflight(config) if f.code == "replica-schema"]
    assert found.fix == (
        "-- the log may bring it: only if this is still said once the replica has caught up: alter table"
        ' "public"."deal" alter column "amount" type numeric(12,4);'
    )
    assert enum.fix.startswith("-- the log may bring it: ")
    uninstall_triggers(owning)
    replica.execute("alter table deal alter amount type numeric(12,4), add twice int")
    assert unfit() == [
        "it does not compute column twice, as the source does, and mending that loses its values, and the"
        " indexes and constraints that name it"
    ]


@pytest.mark.parametrize("domain", ["varchar(10)", "int"])
def test_a_domain_in_the_place_of_an_enum_of_its_name_gets_a_remedy_that_mends_it(
    owning: Database, replica: Database, log: Path, domain: str
) -> None:
    owning.execute("create type mood as enum ('happy'); create table t (id int primary key, mood mood)")
    replica.execute(f"create domain mood as {domain}; create table t (id int primary key, mood mood)")
    config = configure(owning.dsn, log, replica.dsn, initial="data")
    replica.execute(by_code(preflight(config))["replica-schema"].fix)
    assert errors(preflight(config)) == []


@pytest.mark.parametrize("initial", ["data", "none"])
def test_an_enum_of_a_prepared_replica_that_lacks_labels_is_an_error_with_its_sql(
    owning: Database, replica: Database, log: Path, initial: str
) -> None:
    owning.execute(
        "create type mood as enum ('a', 'b', 'c'); create table t (id int primary key, mood mood[])"
    )
    replica.execute("create type mood as enum ('b'); create table t (id int primary key, mood mood[])")
    config = configure(owning.dsn, log, replica.dsn, initial=initial)
    found = by_code(preflight(config))["replica-schema"]
    assert found.message == (
        """its column mood has enum "public"."mood", which lacks 'a', 'c' of the source's"""
    )
    replica.execute(found.fix)
    assert replica.execute("select enum_range(null::mood)::text") == [("{a,b,c}",)]
    assert errors(preflight(config)) == []


@pytest.mark.parametrize("followed", ["create table t (id int primary key, mood mood)", ""])
def test_an_enum_of_a_replica_that_follows_is_warned_of_before_a_row_or_a_table_that_joins_meets_it(
    owning: Database, replica: Database, log: Path, followed: str
) -> None:
    owning.execute("create type mood as enum ('a', 'b'); create domain moods as mood[]")
    owning.execute(
        "create table t (id int primary key, mood mood); create table u (id int primary key, m moods)"
    )
    replica.execute(f"create type mood as enum ('b'); {followed}")
    begin_following(replica)
    config = configure(owning.dsn, log, replica.dsn)
    (found,) = [found for found in preflight(config) if found.code == "replica-schema"]
    assert (found.severity, found.subject) == (Severity.WARNING, 'enum "public"."mood"')
    assert found.message == "lacks 'a' of the source's: no row with one can be written"
    replica.execute(found.fix)
    assert "replica-schema" not in by_code(preflight(config))


def test_an_enum_that_no_table_of_the_replica_s_needs_may_lack_labels(
    owning: Database, replica: Database, log: Path
) -> None:
    owning.execute("create type mood as enum ('a', 'b'); create type far as enum ('x')")
    owning.execute("create table t (id int primary key, mood mood, far far)")
    replica.execute("create type mood as enum ('b'); create table t (id int primary key, mood text)")
    begin_following(replica)
    assert "replica-schema" not in by_code(preflight(configure(owning.dsn, log, replica.dsn)))


def test_an_enum_of_a_prepared_replica_is_named_with_the_table_that_it_lacks(
    owning: Database, replica: Database, log: Path
) -> None:
    table = "create table t (id int primary key, mood mood)"
    owning.execute(f"create type mood as enum ('a', 'b'); {table}")
    replica.execute("create type mood as enum ('a')")
    config = configure(owning.dsn, log, replica.dsn, initial="data")
    lacking, enum = [found for found in preflight(config) if found.severity is Severity.ERROR]
    assert lacking.message == "lacks 1 of the source's tables: public.t"
    assert (enum.code, enum.subject) == ("replica-schema", 'enum "public"."mood"')
    replica.execute(f"{enum.fix}; {table}")
    assert errors(preflight(config)) == []
