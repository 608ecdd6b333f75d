"""`check` of the source's tables: keys, what the stream cannot carry, and what our role may not read."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.check import exit_code, refusal
from pipeline.cli.check import fix_parts
from schemas.errors import BEGIN_ANEW
from schemas.finding import Severity
from tests.checking import CUSTOMER, by_code, configure, errors, established, preflight, uncommented
from tests.fix_postgres import Database
from tests.postgres_releases import needs_release


def test_a_table_without_a_key_is_refused_with_every_way_out(owning: Database, log: Path) -> None:
    owning.execute('create table "odd ""name" (x int not null unique); create table plain (x int)')
    findings = {f.subject: f for f in preflight(configure(owning.dsn, log)) if f.code == "replica-identity"}
    plain, odd = findings["public.plain"], findings['public.odd "name']
    assert plain.severity is Severity.ERROR
    assert plain.message == "no primary key: published, its UPDATE and DELETE would fail in the application"
    assert plain.fix.splitlines() == [
        'alter table only "public"."plain" replica identity full;  -- every column is the key',
        '-- or: alter table only "public"."plain" replica identity using index INDEX_NAME;'
        "  -- with a unique index on NOT NULL columns",
        "-- or leave it out in keepstream.yaml: source.tables.exclude: ['public.plain']",
        "-- or decide for all such tables: source.keyless: full, or exclude",
    ]
    assert odd.fix.startswith(
        'alter table only "public"."odd ""name" replica identity using index "odd ""name_x_key";\n-- or: '
    )
    for finding in findings.values():
        owning.execute(finding.fix)
    assert errors(preflight(configure(owning.dsn, log))) == []


def test_a_pattern_that_excludes_a_name_is_what_the_remedy_says(owning: Database, log: Path) -> None:
    owning.execute('create table "a.b" (x int); create table "star* \'x""" (x int); create schema "s t"')
    owning.execute('create table "s t".u (x int)')
    offered = [
        finding.fix.split("exclude: [", 1)[1].split("]\n")[0]
        for finding in preflight(configure(owning.dsn, log))
        if finding.code == "replica-identity"
    ]
    more = f"  tables: {{exclude: [{', '.join(offered)}]}}\n"
    assert errors(preflight(configure(owning.dsn, log, more=more))) == []


def test_keyless_full_says_which_tables_it_will_alter(source: Database, owning: Database, log: Path) -> None:
    owning.execute("create table keyless (x int)")
    found = by_code(preflight(configure(owning.dsn, log, more="  keyless: full\n")))
    assert found["replica-identity-full"].subject == "public.keyless"
    assert found["replica-identity-full"].severity is Severity.NOTE


def test_keyless_full_needs_the_owner_s_rights(source: Database, log: Path) -> None:
    source.execute("create table keyless (x int)")
    config = configure(source.dsn, log, more="  keyless: full\n")
    found = by_code(preflight(config))["replica-identity-privilege"]
    assert found.severity is Severity.ERROR
    source.execute(found.fix)
    assert "replica-identity-privilege" not in by_code(preflight(config))


def test_keyless_exclude_names_what_is_left_out(owning: Database, log: Path) -> None:
    owning.execute("create table keyless (x int)")
    found = by_code(preflight(configure(owning.dsn, log, more="  keyless: exclude\n")))["table-left-out"]
    assert (found.severity, found.subject) == (Severity.WARNING, "public.keyless")
    assert found.message == "is not replicated: no primary key; excluded by source.keyless"


def test_a_keyless_table_that_appears_later_is_a_warning(owning: Database, log: Path) -> None:
    owning.execute(CUSTOMER)
    owning.execute_as_admin("create publication keepstream_crm for table only customer")
    owning.execute_as_admin("select pg_create_logical_replication_slot('keepstream_crm', 'pgoutput')")
    owning.execute("create table later (x int)")
    found = by_code(preflight(configure(owning.dsn, log)))
    assert found["replica-identity"].severity is Severity.WARNING
    assert found["slot-without-log"].severity is Severity.ERROR


@pytest.mark.parametrize("more", ["", "  keyless: exclude\n", "  tables: {exclude: [public.customer]}\n"])
def test_a_published_table_that_lost_its_key_is_an_error_that_no_setting_hides_and_no_obstacle_for_run(
    source: Database, log: Path, more: str
) -> None:
    source.execute(f"{CUSTOMER}; create publication keepstream_crm for table only customer")
    established(source)
    source.execute("alter table customer drop constraint customer_pkey")
    config = configure(source.dsn, log, more=more)
    findings = [finding for finding in preflight(config) if finding.subject == "public.customer"]
    assert errors(findings) == ["writes-fail"]
    assert (exit_code(findings), refusal(findings)) == (4, None)
    found = by_code(findings)["writes-fail"]
    assert found.message == (
        "its UPDATE and DELETE fail in the application, because it is published: no primary key"
    )
    assert found.fix == 'alter table only "public"."customer" replica identity full;'
    (part,) = fix_parts(findings, config)
    source.execute(part.text)
    source.execute("update customer set name = 'x'")
    assert "writes-fail" not in by_code(preflight(config))


def test_a_published_table_without_a_key_keeps_a_pipeline_from_beginning(source: Database, log: Path) -> None:
    source.execute("create table keyless (x int); create publication keepstream_crm for table only keyless")
    findings = preflight(configure(source.dsn, log))
    assert errors(findings) == ["writes-fail"]
    error = refusal(findings)
    assert error is not None
    assert 'alter table only "public"."keyless" replica identity full;' in error.hint


@needs_release("source", 18)
@pytest.mark.parametrize("lent", [False, True])
def test_a_published_table_that_only_a_key_helps_is_told_what_else_it_can_do(
    source: Database, log: Path, lent: bool
) -> None:
    source.execute(f"{CUSTOMER}; create publication keepstream_crm for table only customer")
    source.execute("alter table customer add twice int generated always as (id * 2) virtual")
    source.execute("alter table customer drop constraint customer_pkey")
    if lent:
        source.grant_ownership()
    fix = by_code(preflight(configure(source.dsn, log)))["writes-fail"].fix.splitlines()
    assert fix[:2] == [
        "-- give it a primary key, or a unique index on NOT NULL columns and:",
        '-- alter table only "public"."customer" replica identity using index INDEX_NAME;',
    ]
    assert fix[2:] == (
        ["-- or start Keepstream: capture takes it out of the publication"]
        if lent
        else [
            f"-- or at once, and then {BEGIN_ANEW}:",
            '-- alter publication "keepstream_crm" drop table only "public"."customer";',
        ]
    )


@needs_release("source", 18)
def test_keyless_full_is_not_offered_to_a_table_that_it_does_not_help(owning: Database, log: Path) -> None:
    owning.execute("create table t (x int, y int generated always as (x * 2) virtual)")
    found = by_code(preflight(configure(owning.dsn, log)))["replica-identity"]
    assert found.fix.splitlines() == [
        '-- alter table only "public"."t" replica identity using index INDEX_NAME;'
        "  -- with a unique index on NOT NULL columns",
        "-- or leave it out in keepstream.yaml: source.tables.exclude: ['public.t']",
        "-- or decide for all such tables: source.keyless: exclude",
    ]


@needs_release("source", 18)
def test_why_keyless_full_leaves_a_table_out_is_said_as_it_is(owning: Database, log: Path) -> None:
    owning.execute("create table t (x int, y int generated always as (x * 2) virtual)")
    owning.execute("create table u (x int, y int generated always as (x * 2) virtual)")
    owning.execute("alter table u replica identity full")
    findings = preflight(configure(owning.dsn, log, more="  keyless: full\n"))
    assert [finding.message for finding in findings if finding.code == "table-left-out"] == [
        "is not replicated: no primary key; source.keyless: full does not help, because it has virtual"
        " generated columns",
        "is not replicated: replica identity full with virtual generated columns",
    ]


def test_a_key_with_a_stored_generated_column_is_helped_by_keyless_full(owning: Database, log: Path) -> None:
    owning.execute("create table t (x int, y int generated always as (x * 2) stored primary key)")
    found = by_code(preflight(configure(owning.dsn, log, more="  keyless: full\n")))
    assert found["replica-identity-full"].message == (
        "primary key contains a generated column: gets replica identity full (source.keyless)"
    )


def test_an_unlogged_partition_of_a_whole_is_named_where_the_whole_is_chosen(
    owning: Database, log: Path
) -> None:
    owning.execute(
        "create table ev (id int primary key) partition by range (id);"
        " create unlogged table ev1 partition of ev default"
    )
    more = "  partitions: root\n  tables: {include: [public.ev]}\n"
    found = by_code(preflight(configure(owning.dsn, log, more=more)))["table-unlogged"]
    assert found.subject == "public.ev1"
    assert 'alter table only "public"."ev1" set logged;\n' in found.fix
    assert found.fix.endswith("source.tables.exclude: ['public.ev']")


def test_what_the_stream_cannot_carry_is_named(owning: Database, log: Path) -> None:
    owning.execute(f"{CUSTOMER}; create unlogged table scratch (id int primary key)")
    owning.execute("create materialized view report as select 1 as x; create sequence number")
    owning.execute("create table letter (id int primary key, content oid)")
    owning.execute("insert into letter values (1, lo_from_bytea(0, 'x'))")
    owning.execute_as_admin(
        "create extension postgres_fdw; create server s foreign data wrapper postgres_fdw"
    )
    owning.execute_as_admin("create foreign table far (x int) server s")
    owning.execute_as_admin("create schema keepstream; create table keepstream.orders (id int primary key)")
    found = by_code(preflight(configure(owning.dsn, log)))
    reserved = found["schema-reserved"]
    assert reserved.subject == "keepstream.orders"
    assert reserved.fix == (
        '-- breaks what names it there: alter table "keepstream"."orders" set schema public;\n'
        "-- or leave it out in keepstream.yaml: source.tables.exclude: ['keepstream.orders']"
    )
    assert found["table-unlogged"].subject == "public.scratch"
    assert found["table-unlogged"].fix == (
        "-- keeps everybody from it while all its rows are written anew:"
        ' alter table only "public"."scratch" set logged;\n'
        "-- or leave it out in keepstream.yaml: source.tables.exclude: ['public.scratch']"
    )
    for code in ("schema-reserved", "table-unlogged"):
        owning.execute_as_admin(uncommented(found[code].fix.splitlines()[0]))
    mended = by_code(preflight(configure(owning.dsn, log)))
    assert not {"schema-reserved", "table-unlogged"} & mended.keys()
    assert found["table-foreign"].subject == "public.far"
    assert found["materialized-view"].subject == "public.report"
    assert found["large-objects"].message == (
        "1 large objects are not in the stream: the first copy brings them, and nothing that happens to them"
        " later reaches a replica;"
        " columns that may point to them: public.letter.content"
    )
    assert "sequences" in found
    assert "public.scratch" not in str(found["tables"])


def test_sequences_that_cannot_be_read_or_kept_are_named_with_what_mends_it(
    owning: Database, replica: Database, log: Path
) -> None:
    """Each way to mend it is run."""
    owning.execute(f"{CUSTOMER}; create sequence beside; create sequence far; create sequence wide")
    replica.execute(f"{CUSTOMER}; create sequence far; create sequence wide as smallint")
    replica.execute_as_admin("alter sequence far owner to postgres")
    config = configure(owning.dsn, log, replica.dsn, initial="none")
    found = by_code(preflight(config))
    assert "1 of the source's are not there" in found["replica-sequences-missing"].message
    assert found["replica-sequences-missing"].message.endswith(": public.beside")
    assert found["replica-sequences-privilege"].message == "keepstream may not set 1: public.far"
    assert found["replica-sequences-narrower"].message == "1 end before the source's: public.wide"
    for code in ("replica-sequences-privilege", "replica-sequences-narrower"):
        replica.execute_as_admin(found[code].fix)
    replica.execute("create sequence beside")
    owning.execute_as_admin("revoke pg_read_all_data from keepstream")
    owning.execute_as_admin("alter sequence far owner to postgres")
    try:
        hidden = by_code(preflight(config))["sequences-hidden"]
        assert hidden.message == "keepstream may not read 1 sequences: public.far"
        assert hidden.severity is Severity.ERROR
        owning.execute_as_admin(hidden.fix)
        mended = by_code(preflight(config))
    finally:
        owning.execute_as_admin("grant pg_read_all_data to keepstream")
    assert not [code for code in mended if "sequences-" in code]
    assert mended["sequences"].message.startswith("3 are not in the stream: they are read every ten seconds")


def test_large_objects_that_cannot_be_copied_are_named_with_what_mends_it(
    owning: Database, replica: Database, log: Path
) -> None:
    owning.execute(CUSTOMER)
    owning.execute_as_admin("select lo_create(0)")
    replica.execute("select lo_create(0)")
    config = configure(owning.dsn, log, replica.dsn)
    there = by_code(preflight(config))["replica-large-objects"]
    assert there.severity is Severity.ERROR
    assert there.fix.startswith("-- loses all large objects of the replica: ")
    replica.execute_as_admin(there.fix.partition(": ")[2])
    owning.execute_as_admin("revoke pg_read_all_data from keepstream")
    try:
        hidden = by_code(preflight(config))["large-objects-hidden"]
        assert hidden.message == "keepstream may not read 1 of them: the first copy leaves these out"
    finally:
        owning.execute_as_admin("grant pg_read_all_data to keepstream")
    owning.execute_as_admin(hidden.fix)
    assert not {"large-objects-hidden", "replica-large-objects"} & by_code(preflight(config)).keys()


def test_rows_that_policies_would_hide_are_an_error(owning: Database, log: Path) -> None:
    owning.execute(f"{CUSTOMER}; alter table customer enable row level security")
    owning.execute_as_admin("alter table customer owner to postgres")
    config = configure(owning.dsn, log)
    found = by_code(preflight(config))["row-security"]
    assert found.severity is Severity.ERROR
    assert found.fix == 'alter role "keepstream" bypassrls;'
    try:
        owning.execute_as_admin(found.fix)
        assert "row-security" not in by_code(preflight(config))
    finally:
        owning.execute_as_admin("alter role keepstream nobypassrls")


def test_policies_that_only_force_applies_to_us_are_named_with_that_way_to_mend_it(
    owning: Database, log: Path
) -> None:
    owning.execute(f"{CUSTOMER}; alter table customer enable row level security, force row level security")
    config = configure(owning.dsn, log)
    found = by_code(preflight(config))["row-security"]
    lifting = 'alter table only "public"."customer" no force row level security;'
    assert found.fix.splitlines()[0] == 'alter role "keepstream" bypassrls;'
    assert found.fix.splitlines()[-1] == f"-- {lifting}"
    owning.execute(lifting)
    assert "row-security" not in by_code(preflight(config))


def test_a_new_table_that_cannot_be_read_does_not_keep_an_established_pipeline_from_running(
    source: Database, log: Path
) -> None:
    source.execute(f"{CUSTOMER}; create publication keepstream_crm for table only customer")
    established(source)
    source.execute("create table later (id int primary key); alter table later enable row level security")
    source.execute("create table keyless (id int)")
    source.execute_as_admin("revoke pg_read_all_data from keepstream")
    try:
        findings = preflight(configure(source.dsn, log, more="  keyless: full\n"))
    finally:
        source.execute_as_admin("grant pg_read_all_data to keepstream")
    about_tables = [each for each in findings if each.code != "slot-without-log"]
    assert errors(about_tables) == ["privilege-select", "row-security", "replica-identity-privilege"]
    assert refusal(about_tables) is None


def test_where_no_table_can_be_replicated_as_it_is_nobody_says_that_there_is_none(
    owning: Database, log: Path
) -> None:
    owning.execute("create table keyless (id int); create publication keepstream_crm for table only keyless")
    found = by_code(preflight(configure(owning.dsn, log)))
    assert "writes-fail" in found
    assert found["no-tables"].message == (
        "none of 1 tables can be replicated as it is, such as public.keyless:"
        " no primary key; undecided: set source.keyless, or give it a key"
    )


def test_tables_that_we_may_not_read_are_an_error(owning: Database, log: Path) -> None:
    owning.execute(CUSTOMER)
    owning.execute_as_admin("alter table customer owner to postgres")
    owning.execute_as_admin("revoke pg_read_all_data from keepstream")
    try:
        found = by_code(preflight(configure(owning.dsn, log)))["privilege-select"]
        assert found.message == "keepstream may not read 1 tables: public.customer"
    finally:
        owning.execute_as_admin("grant pg_read_all_data to keepstream")


def test_a_size_that_nobody_knows_is_not_0(owning: Database, log: Path) -> None:
    owning.execute(f"{CUSTOMER}; insert into customer select i, 'x' from generate_series(1, 1000) i")

    def size() -> str:
        return by_code(preflight(configure(owning.dsn, log)))["tables"].message

    assert size() == "1 are replicated, of unknown size: never analysed"
    owning.execute("analyze customer; create table later (id int primary key)")
    assert size() == "2 are replicated, about 40.0 KiB, and 1 of unknown size: never analysed"
    owning.execute("analyze later")
    assert size() == "2 are replicated, about 40.0 KiB"
