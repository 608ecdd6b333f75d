"""`check` on real servers: what it finds, what mends it, and that it changes nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from connectors.postgres import progress
from connectors.postgres.copy_run import begin_run, complete_run
from connectors.postgres.instance import Instance, read_instance
from connectors.postgres.leftovers import UserObject
from connectors.postgres.server import Server, read_server
from connectors.postgres.session import Session, connect
from pipeline.check import exit_code, refusal, require_fit
from pipeline.check import preflight as looked_at
from pipeline.cli import main
from pipeline.cli.check import fix_parts
from pipeline.config import Config, parse_config
from schemas.errors import BEGIN_ANEW, LoginRefused, OperatorNeeded, RetryLater
from schemas.finding import Finding, Severity
from schemas.lsn import Lsn, Position
from tests.fix_postgres import Database
from tests.postgres_releases import needs_release

CUSTOMER = "create table customer (id int primary key, name text)"


def configure(source: str, log: Path, replica: str = "", *, more: str = "", initial: str = "copy") -> Config:
    """`more`: keys of `source`."""
    text = f"name: crm\nsource:\n  url: {source}\n{more}log: file://{log}\n"
    if replica:
        text += f"replicas:\n  standby:\n    url: {replica}\n    initial: {initial}\n"
    return parse_config(text, name="keepstream.yaml", environment={})


def by_code(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.code: finding for finding in findings}


def errors(findings: list[Finding]) -> list[str]:
    return [finding.code for finding in findings if finding.severity is Severity.ERROR]


def uncommented(fix: str) -> str:
    """What destroys something is a comment, which somebody has read before it is run."""
    assert all(line.startswith("-- ") for line in fix.splitlines())
    return "\n".join(
        re.sub("^-- ((loses|breaks|keeps|lets|takes) [^:]*: |then: )?", "", line) for line in fix.splitlines()
    )


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def preflight(config: Config) -> list[Finding]:
    """What `check` finds, each remedy of which its server must be able to read as SQL, or as comments."""
    findings = looked_at(config)
    for finding in findings:
        if finding.fix_is_sql:
            require_sql(finding, config)
    return findings


def require_sql(finding: Finding, config: Config) -> None:
    """PL/pgSQL reads all of a block before it runs it: nothing of the remedy is run."""
    place = finding.where.removeprefix("replica ")
    url = config.source.url if place == "source" else config.replicas[place].url
    quoted = sql.Literal(f"begin return; {finding.fix}\nend").as_string()
    with connect(url.reveal(), purpose="test") as session:
        session.execute(f"do {quoted}".encode())


@pytest.fixture
def owning(source: Database) -> Database:
    """A source whose owner has lent us its rights."""
    source.grant_ownership()
    return source


def test_a_good_source_log_and_replica_have_no_error(owning: Database, replica: Database, log: Path) -> None:
    owning.execute(CUSTOMER)
    findings = preflight(configure(owning.dsn, log, replica.dsn))
    assert errors(findings) == []
    assert refusal(findings) is None
    assert by_code(findings)["publication"].message == "will be made, with 1 tables"
    places = list(dict.fromkeys(finding.where for finding in findings))
    assert places == ["source", "log", "replica standby", "tools"]


def test_check_changes_nothing(owning: Database, replica: Database, log: Path) -> None:
    owning.execute(f"{CUSTOMER}; create table keyless (x int)")

    def state() -> list[Any]:
        catalogs = ("pg_publication", "pg_replication_slots", "pg_namespace", "pg_class", "pg_roles")
        return [
            database.execute_as_admin(f"select count(*), max(xmin::text::bigint) from {catalog}")
            if catalog not in ("pg_replication_slots", "pg_roles")
            else database.execute_as_admin(f"select count(*) from {catalog}")
            for database in (owning, replica)
            for catalog in catalogs
        ]

    before = state()
    assert errors(preflight(configure(owning.dsn, log, replica.dsn)))
    assert state() == before
    assert not log.exists()


def test_the_sessions_of_a_look_by_run_are_those_of_run(
    owning: Database, replica: Database, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    purposes = set()

    def noting(conninfo: str, *, purpose: str) -> Session:
        purposes.add(purpose)
        return connect(conninfo, purpose=purpose)

    monkeypatch.setattr(import_module("pipeline.check.preflight"), "connect", noting)
    require_fit(configure(owning.dsn, log, replica.dsn))
    assert purposes == {"crm:run"}


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
        '-- or leave it out in keepstream.yaml: source.tables.exclude: ["public.plain"]',
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
        '-- or leave it out in keepstream.yaml: source.tables.exclude: ["public.t"]',
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
        '-- or leave it out in keepstream.yaml: source.tables.exclude: ["keepstream.orders"]'
    )
    assert found["table-unlogged"].subject == "public.scratch"
    assert found["table-unlogged"].fix == (
        "-- keeps everybody from it while all its rows are written anew:"
        ' alter table only "public"."scratch" set logged;\n'
        '-- or leave it out in keepstream.yaml: source.tables.exclude: ["public.scratch"]'
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


def test_a_publication_that_we_cannot_make_comes_with_its_sql(source: Database, log: Path) -> None:
    source.execute(f"{CUSTOMER}; create table parent (id int primary key) partition by range (id)")
    source.execute("create table part partition of parent for values from (0) to (9)")
    config = configure(source.dsn, log)
    found = by_code(preflight(config))["privilege-publication"]
    assert found.severity is Severity.ERROR
    source.execute(found.fix)
    findings = preflight(config)
    assert errors(findings) == []
    assert by_code(findings)["publication"].message == "lists 2 tables"


def publication_owner(source: Database) -> str:
    ((owner,),) = source.execute("select pg_get_userbyid(pubowner) from pg_publication")
    return str(owner)


def test_a_publication_that_a_superuser_makes_is_given_to_the_owner_of_the_tables(
    source: Database, log: Path
) -> None:
    source.execute(CUSTOMER)
    config = configure(source.dsn, log)
    source.execute_as_admin(by_code(preflight(config))["privilege-publication"].fix)
    assert publication_owner(source) == "crm"
    assert "publication-of-superuser" not in by_code(preflight(config))


def test_a_superuser_s_publication_is_warned_of_while_it_can_be_given_away(
    source: Database, log: Path
) -> None:
    source.execute(CUSTOMER)
    source.execute_as_admin("create publication keepstream_crm for table only customer")
    config = configure(source.dsn, log)
    found = by_code(preflight(config))["publication-of-superuser"]
    assert found.severity is Severity.WARNING
    assert found.message == (
        "belongs to postgres, a superuser, whose rights are not to be lent, so that no table can join later;"
        " once it runs, giving it away means to begin anew"
    )
    source.execute_as_admin(found.fix)
    assert publication_owner(source) == "crm"
    assert "publication-of-superuser" not in by_code(preflight(config))


def test_who_of_several_owners_gets_a_superuser_s_publication_is_not_decided_for_them(
    source: Database, log: Path
) -> None:
    source.execute(f"{CUSTOMER}; create table more (id int primary key)")
    config = configure(source.dsn, log)
    source.execute_as_admin("alter table more owner to keepstream")
    source.execute_as_admin(by_code(preflight(config))["privilege-publication"].fix)
    lines = by_code(preflight(config))["publication-of-superuser"].fix.splitlines()
    assert lines[1:] == [
        f'-- alter publication "keepstream_crm" owner to "{owner}";' for owner in ("crm", "keepstream")
    ]
    source.execute_as_admin("alter table more owner to postgres; alter table customer owner to postgres")
    (_, line) = by_code(preflight(config))["publication-of-superuser"].fix.splitlines()
    assert line == '-- alter publication "keepstream_crm" owner to NEW_OWNER;'


def test_no_name_can_smuggle_sql_into_what_an_admin_runs(source: Database, log: Path) -> None:
    name = "x\ndrop table customer; --"
    source.execute(CUSTOMER)
    source.execute(sql.SQL("create table {} (x int)").format(sql.Identifier(name)).as_string())
    source.execute(
        sql.SQL("create table {} (x int primary key)").format(sql.Identifier(f"y{name}")).as_string()
    )
    config = configure(source.dsn, log)
    (part,) = fix_parts(preflight(config), config)
    source.execute_as_admin(part.text)
    assert source.execute("select count(*) from customer") == [(0,)]


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("for all tables", "is FOR ALL TABLES, which lets writes to tables without a key fail"),
        ("for tables in schema public", "takes whole schemas: public"),
        ("for table customer with (publish = 'insert, update')", "does not publish delete, truncate"),
    ],
)
def test_a_publication_that_loses_rows_is_refused(
    owning: Database, log: Path, statement: str, said: str
) -> None:
    owning.execute(CUSTOMER)
    owning.execute_as_admin(f"create publication keepstream_crm {statement}")
    config = configure(owning.dsn, log)
    found = by_code(preflight(config))["publication-unfit"]
    assert found.severity is Severity.ERROR
    assert found.message == f"{said}; to make it anew takes it from whoever else reads it"
    owning.execute_as_admin(uncommented(found.fix))
    assert "publication-unfit" not in by_code(preflight(config))


PARTITIONED = (
    "create table ev (id int, d int, primary key (id, d)) partition by range (d);"
    " create table ev1 partition of ev for values from (0) to (10);"
)
LISTS_ONE = "lists public.ev1, a partition of public.ev, instead of the whole"
NAMES_THEM = "lists public.ev, and sends their rows under the names of their partitions"


@pytest.mark.parametrize(
    ("statement", "said", "sql"),
    [
        (
            "ev1 with (publish_via_partition_root)",
            LISTS_ONE,
            'alter publication "keepstream_crm" drop table only "public"."ev1";',
        ),
        (
            "ev",
            NAMES_THEM,
            'alter publication "keepstream_crm" set (publish_via_partition_root = true);',
        ),
    ],
)
def test_a_publication_of_partitions_under_mixed_names_is_refused(
    owning: Database, log: Path, statement: str, said: str, sql: str
) -> None:
    owning.execute(PARTITIONED)
    owning.execute_as_admin(f"create publication keepstream_crm for table {statement}")
    config = configure(owning.dsn, log)
    found = by_code(preflight(config))["publication-unfit"]
    assert (found.message, found.fix) == (said, sql)
    owning.execute_as_admin(found.fix)
    assert "publication-unfit" not in by_code(preflight(config))


def test_the_whole_and_its_partitions_must_be_identified_alike(owning: Database, log: Path) -> None:
    owning.execute(f"{PARTITIONED} alter table ev replica identity full")
    config = configure(owning.dsn, log, more="  partitions: root\n")
    found = by_code(preflight(config))["replica-identity"]
    assert found.subject == "public.ev"
    assert found.message.startswith(
        "partition public.ev1 has not replica identity full, as the whole table has it"
    )
    owning.execute(found.fix.splitlines()[0])
    findings = by_code(preflight(config))
    assert "replica-identity" not in findings
    assert findings["partitions-untold"].message.startswith("published as a whole: public.ev; a partition")


@pytest.mark.parametrize(
    ("partitions", "limited", "fix"),
    [
        ("root", "ev1", "Take it out of source.tables.limits; or set `source.partitions: leaves`."),
        ("leaves", "ev", "Name its partitions in source.tables.limits."),
    ],
)
def test_a_limit_that_cannot_hold_because_rows_come_under_another_name_is_an_error(
    owning: Database, log: Path, partitions: str, limited: str, fix: str
) -> None:
    owning.execute(PARTITIONED)
    limits = f"  partitions: {partitions}\n  tables: {{limits: {{public.{limited}: {{columns: [id, d]}}}}}}\n"
    findings = preflight(configure(owning.dsn, log, more=limits))
    found = by_code(findings)["limit-unused"]
    assert (found.subject, found.severity, found.fix) == (f"public.{limited}", Severity.ERROR, fix)
    assert isinstance(refusal(findings), OperatorNeeded)


UNFIT = """
    create domain base as text not null; create domain one as base;
    create domain yes as int check (value > 0);
    create table t (id int primary key, s one, y yes, n int, g int generated always as (n + 1) stored)
"""


@pytest.mark.parametrize(
    ("listed", "fix"),
    [
        ("id, n", "List s, too; or give it another type, with NOT NULL of its own."),
        pytest.param(
            "id, s, g", "List n, too; or list g no longer.", marks=needs_release("source", 18), id="generated"
        ),
    ],
)
@pytest.mark.parametrize("is_made", [False, True], ids=["of-the-file", "made"])
def test_lists_are_unfit_that_leave_a_column_wrong_on_replicas(
    owning: Database, log: Path, listed: str, fix: str, is_made: bool
) -> None:
    owning.execute(UNFIT)
    limits = f"  tables: {{limits: {{public.t: {{columns: [{listed}]}}}}}}\n"
    if is_made:
        owning.execute_as_admin(f"create publication keepstream_crm for table t ({listed})")
    for more in ("", limits) if is_made else (limits,):
        findings = preflight(configure(owning.dsn, log, more=more))
        assert [(each.subject, each.fix) for each in findings if each.code == "limit-unfit"] == [
            ("public.t", fix)
        ]
        assert "limit-unfit" in errors(findings)


def test_an_incomplete_row_filter_of_the_file_is_told_before_the_publication_is_made(
    owning: Database, log: Path
) -> None:
    owning.execute("create table t (id int primary key, note text)")
    more = '  tables: {limits: {public.t: {where: "id > 5"}}}\n'
    config = configure(owning.dsn, log, more=more)
    before = by_code(preflight(config))["filter-incomplete"]
    owning.execute_as_admin("create publication keepstream_crm for table t where (id > 5)")
    told = [each for each in preflight(config) if each.code == "filter-incomplete"]
    assert told == [before]
    owning.execute(before.fix)
    assert "filter-incomplete" not in by_code(preflight(config))


def test_a_plain_table_of_a_replica_takes_no_rows_of_partitions_until_the_whole_is_published(
    owning: Database, replica: Database, log: Path
) -> None:
    owning.execute(PARTITIONED)
    replica.execute("create table ev (id int, d int, primary key (id, d))")
    config = configure(owning.dsn, log, replica.dsn, initial="data")
    found = by_code(preflight(config))["replica-partitions"]
    assert found.message == (
        "takes no rows: they come under the names of the source's partitions, such as public.ev1"
    )
    assert found.fix.startswith("Set `partitions: root` under source in keepstream.yaml.")
    owning.execute_as_admin("create publication keepstream_crm for table ev1")
    found = by_code(preflight(config))["replica-partitions"]
    owning.execute_as_admin(found.fix)
    assert errors(preflight(config)) == []


def test_a_table_that_we_may_not_add_to_the_publication_is_a_warning(source: Database, log: Path) -> None:
    source.execute(CUSTOMER)
    source.execute(
        "create publication keepstream_crm for table only customer; create table more (id int primary key)"
    )
    config = configure(source.dsn, log)
    found = by_code(preflight(config))["tables-not-published"]
    assert found.message == (
        "lacks 1 tables: public.more; keepstream may not add them, and once it runs nobody else may"
    )
    assert by_code(preflight(config))["tables"].message == (
        "2 are to be replicated, of unknown size: never analysed; 1 of them are published"
    )
    source.execute(found.fix)
    assert "tables-not-published" not in by_code(preflight(config))
    assert by_code(preflight(config))["tables"].message == "2 are replicated, of unknown size: never analysed"


def established(source: Database) -> None:
    """The pipeline's slot: from now on its publication is part of a history."""
    source.execute_as_admin("select pg_create_logical_replication_slot('keepstream_crm', 'pgoutput')")
    source.execute("create table more (id int primary key)")


def test_tables_join_a_running_pipeline_once_the_owner_s_rights_are_lent(source: Database, log: Path) -> None:
    source.execute(CUSTOMER)
    source.execute("create publication keepstream_crm for table only customer")
    established(source)
    config = configure(source.dsn, log)
    found = by_code(preflight(config))["tables-not-published"]
    assert found.fix == 'grant "crm" to "keepstream";'
    before = source.execute("select xmin::text from pg_publication")
    try:
        source.execute_as_admin(found.fix)
        assert "tables-join" in by_code(preflight(config))
    finally:
        source.execute_as_admin("revoke crm from keepstream")
    assert source.execute("select xmin::text from pg_publication") == before  # P11


def test_a_superuser_s_name_cannot_end_the_comment_that_names_it(source: Database, log: Path) -> None:
    source.execute(CUSTOMER)
    source.execute("create publication keepstream_crm for table only customer")
    established(source)
    evil = sql.Identifier('x"\n; drop table customer; --').as_string()
    source.execute_as_admin(f"create role {evil} superuser; alter table more owner to {evil}")
    try:
        config = configure(source.dsn, log)
        found = by_code(preflight(config))["tables-not-published"]
        assert [line[:6] for line in found.fix.splitlines()] == ["grant ", '-- "x"', "-- ; d"]
        assert '\n-- "x' in fix_parts([found], config)[0].text
    finally:
        source.execute_as_admin(f"alter table more owner to postgres; drop role {evil}")


def test_nobody_is_advised_to_lend_its_rights_to_itself(source: Database, log: Path) -> None:
    """The publication is ours, as where we made it; the table that lacks is another role's."""
    source.execute(CUSTOMER)
    source.execute_as_admin(
        "create publication keepstream_crm for table only customer;"
        " alter publication keepstream_crm owner to keepstream"
    )
    established(source)
    found = by_code(preflight(configure(source.dsn, log)))["tables-not-published"]
    assert found.fix == 'grant "crm" to "keepstream";'


def test_nothing_that_changes_a_running_pipeline_s_publication_is_advised_as_if_it_were_harmless(
    source: Database, log: Path
) -> None:
    """A superuser's publication: its rights are not to be lent, and ALTER … OWNER changes its xmin (P11)."""
    source.execute(CUSTOMER)
    source.execute_as_admin("create publication keepstream_crm for table only customer")
    established(source)
    config = configure(source.dsn, log)
    for owner in ("crm", "postgres"):
        source.execute_as_admin(f"alter table more owner to {owner}")
        found = by_code(preflight(config))["tables-not-published"]
        assert found.fix.startswith("Leave them out (source.tables.exclude).")
        assert "keepstream teardown --yes" in found.fix
        assert not found.fix_is_sql


def test_a_slot_beside_an_empty_log_is_refused(owning: Database, log: Path) -> None:
    owning.execute(CUSTOMER)
    owning.execute_as_admin("select pg_create_logical_replication_slot('keepstream_crm', 'pgoutput')")
    found = by_code(preflight(configure(owning.dsn, log)))["slot-without-log"]
    assert found.exit_code == 4
    assert "select pg_drop_replication_slot('keepstream_crm');" in found.fix


def test_a_role_that_may_not_replicate_is_refused(owning: Database, log: Path) -> None:
    owning.execute_as_admin("alter role keepstream noreplication")
    try:
        found = by_code(preflight(configure(owning.dsn, log)))["privilege-replication"]
        assert (
            found.fix
            == 'alter role "keepstream" replication;\n-- on RDS: grant rds_replication to "keepstream";'
        )
    finally:
        owning.execute_as_admin("alter role keepstream replication")


@needs_release("source", 18)
def test_settings_that_endanger_the_slot_are_found(new_source: Callable[..., Database], log: Path) -> None:
    source = new_source(
        {
            "wal_level": "replica",
            "max_replication_slots": "1",
            "max_wal_senders": "1",
            "wal_sender_timeout": "5s",
            "idle_replication_slot_timeout": "1h",
            "max_slot_wal_keep_size": "64MB",
            "max_prepared_transactions": "2",
        }
    )
    found = by_code(preflight(configure(source.dsn, log, "dbname=none host=127.0.0.1 port=1")))
    wrong = {
        "wal-level": Severity.ERROR,
        "slots-exhausted": Severity.ERROR,
        "senders-exhausted": Severity.ERROR,
        "sender-timeout-short": Severity.WARNING,
        "slot-idle-timeout": Severity.WARNING,
    }
    assert {code: found[code].severity for code in wrong} == wrong
    assert found["wal-level"].fix == "alter system set wal_level = 'logical';  -- then restart the server"
    assert found["senders-exhausted"].fix == (
        "alter system set max_wal_senders = 4;"
        "  -- then restart the server, behind its standbys, which go on only with as many"
    )
    assert found["slot-idle-timeout"].fix == (
        "-- lets any slot, not only ours, that nobody reads hold back WAL until the disk is full:"
        " alter system set idle_replication_slot_timeout = 0;\n-- select pg_reload_conf();"
    )
    assert "64.0 MiB" in found["slot-room"].message


def test_an_established_pipeline_runs_although_no_slot_is_left_for_a_copy(
    new_source: Callable[..., Database], log: Path
) -> None:
    source = new_source({"wal_level": "logical", "max_replication_slots": "1"})
    established(source)
    config = configure(source.dsn, log, "dbname=none host=127.0.0.1 port=1")
    found = by_code(preflight(config))["slots-exhausted"]
    assert found.severity is Severity.ERROR
    assert refusal([found]) is None


def test_a_short_timeout_of_senders_is_lengthened_for_our_role_alone(owning: Database, log: Path) -> None:
    config = configure(make_conninfo(owning.dsn, options="-c wal_sender_timeout=5s"), log)
    found = by_code(preflight(config))["sender-timeout-short"]
    assert found.fix == "alter role \"keepstream\" set wal_sender_timeout = '60s';"


def test_a_limit_of_what_slots_hold_back_is_no_more_than_a_comment_and_above_what_they_do(
    owning: Database, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held(size_bytes: int, rate: float | None) -> str:
        def read(session: Session) -> Server:
            return replace(read_server(session), held_wal_bytes=size_bytes)

        def busy(session: Session) -> Instance:
            return replace(read_instance(session), wal_bytes_per_s=rate)

        monkeypatch.setattr(import_module("pipeline.check.preflight"), "read_server", read)
        monkeypatch.setattr(import_module("pipeline.check.preflight"), "read_instance", busy)
        return by_code(preflight(configure(owning.dsn, log)))["slot-unlimited"].fix

    assert held(60 << 30, None) == (
        "-- loses any slot, not only ours, that holds back more (60.0 GiB is the most now), and the disk must"
        " have room for it: alter system set max_slot_wal_keep_size = '120GB';\n-- select pg_reload_conf();"
    )
    assert "= '10GB';" in held(0, None)
    assert "= '73GB';" in held(60, 300_000)


def test_a_short_room_for_slots_is_widened_only_by_a_comment(
    new_source: Callable[..., Database], log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(session: Session) -> Instance:
        return replace(read_instance(session), wal_bytes_per_s=1 << 20)

    monkeypatch.setattr(import_module("pipeline.check.preflight"), "read_instance", busy)
    source = new_source({"max_slot_wal_keep_size": "64MB"})
    assert by_code(preflight(configure(source.dsn, log)))["slot-room-short"].fix == (
        "-- lets any slot, not only ours, take more of the disk, which must have room for it:"
        " alter system set max_slot_wal_keep_size = '256MB';\n-- select pg_reload_conf();"
    )


def test_a_database_of_unknown_encoding_is_refused(source: Database, log: Path) -> None:
    source.execute_as_admin("create database ascii encoding 'SQL_ASCII' locale 'C' template template0")
    try:
        dsn = source.dsn.rsplit("/", 1)[0] + "/ascii"
        assert "encoding-unknown" in errors(preflight(configure(dsn, log)))
    finally:
        source.execute_as_admin("drop database ascii with (force)")


# replicas


def test_a_replica_that_is_not_empty_is_refused(owning: Database, replica: Database, log: Path) -> None:
    replica.execute("create table mine (x int)")
    findings = preflight(configure(owning.dsn, log, replica.dsn))
    found = by_code(findings)["replica-not-empty"]
    assert found.message == "is not empty: it has table public.mine"
    error = refusal(findings)
    assert isinstance(error, OperatorNeeded)
    assert error.exit_code == 4
    assert str(error) == "replica standby: content: is not empty: it has table public.mine"


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


def test_a_prepared_replica_must_have_the_tables_and_no_rows(
    owning: Database, replica: Database, log: Path
) -> None:
    owning.execute(f"{CUSTOMER}; create table lead (id int primary key)")
    replica.execute(f"{CUSTOMER}; insert into customer values (1, 'x')")
    config = configure(owning.dsn, log, replica.dsn, initial="data")
    findings = preflight(config)
    assert errors(findings) == ["replica-schema", "replica-not-empty"]
    assert by_code(findings)["replica-schema"].message == "lacks 1 of the source's tables: public.lead"
    found = by_code(findings)["replica-not-empty"]
    assert found.message == "has rows in public.customer; to empty them loses these rows"
    assert found.fix.splitlines() == [
        '-- loses every row that the replica has there: truncate only "public"."customer";',
        "-- or, if all rows are there and equal: set `initial: none` in keepstream.yaml",
    ]
    replica.execute("create table lead (id int primary key)")
    replica.execute(uncommented(found.fix.splitlines()[0]))
    assert errors(preflight(config)) == []


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


PARTED = """
    create table t (id int, kind text) partition by list (kind);
    create table t_a partition of t (primary key (id)) for values in ('a');
    create table t_b partition of t for values in ('b') partition by range (id);
    create table t_b1 partition of t_b (primary key (id)) for values from (0) to (10)
"""


@pytest.mark.parametrize(
    ("replica_s", "differing"),
    [
        (PARTED, {}),
        (PARTED.replace("(id int,", "(id bigint,"), {}),
        (
            "create table t_a (id int primary key, kind text);"
            " create table t_b1 (id int primary key, kind text) partition by range (id);"
            " create table more partition of t_b1 default",
            {},
        ),
        (PARTED.replace("('a')", "('a', 'c')"), {"public.t_a": "LIST (kind) FOR VALUES IN ('a', 'c')"}),
        (
            PARTED.replace("to (10)", "to (5)"),
            {"public.t_b1": "RANGE (id) FOR VALUES FROM (0) TO (5) of LIST (kind) FOR VALUES IN ('b')"},
        ),
        (
            PARTED.replace("('b')", "('c')"),
            {"public.t_b1": "RANGE (id) FOR VALUES FROM (0) TO (10) of LIST (kind) FOR VALUES IN ('c')"},
        ),
    ],
    ids=["same", "wider key", "plain", "list", "range", "parent"],
)
def test_bounds_of_partitions_that_differ_on_the_replica_are_a_warning(
    owning: Database, replica: Database, log: Path, replica_s: str, differing: dict[str, str]
) -> None:
    owning.execute(PARTED)
    replica.execute(replica_s)
    findings = preflight(configure(owning.dsn, log, replica.dsn, initial="data"))
    ours = {
        "public.t_a": "LIST (kind) FOR VALUES IN ('a')",
        "public.t_b1": "RANGE (id) FOR VALUES FROM (0) TO (10) of LIST (kind) FOR VALUES IN ('b')",
    }
    assert errors(findings) == []
    assert [
        (found.severity, found.subject, found.message) for found in findings if found.code == "replica-bounds"
    ] == [
        (
            Severity.WARNING,
            table,
            f"takes rows {theirs}, the source's {ours[table]}: rows outside of that would be refused",
        )
        for table, theirs in differing.items()
    ]


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


# what cannot be reached


def test_an_unreachable_server_is_one_finding_and_the_rest_is_still_looked_at(
    source: Database, replica: Database, log: Path
) -> None:
    gone = "host=127.0.0.1 port=1 dbname=x user=y password=hunter2"
    findings = preflight(configure(gone, log, replica.dsn))
    assert errors(findings) == ["server-unreachable"]
    assert by_code(findings)["replica-empty"].severity is Severity.OK
    error = refusal(findings)
    assert isinstance(error, RetryLater)
    assert error.exit_code == 5
    assert "hunter2" not in str(findings) + str(error)


def test_a_wrong_password_ends_with_5_and_is_not_shown(source: Database, log: Path) -> None:
    wrong = source.dsn.replace(source.password, "hunter2")
    findings = preflight(configure(wrong, log))
    assert errors(findings) == ["login-refused"]
    assert isinstance(refusal(findings), LoginRefused)
    assert "hunter2" not in str(findings)


def test_a_log_that_cannot_be_reached_ends_with_5(owning: Database, replica: Database) -> None:
    text = f"name: crm\nsource: {owning.dsn}\nlog: kafka://127.0.0.1:1\nreplicas: {{a: '{replica.dsn}'}}"
    findings = preflight(parse_config(text, name="k", environment={}))
    assert [(f.where, f.exit_code) for f in findings if f.severity is Severity.ERROR] == [("log", 5)]
    assert findings[-1].where == "tools"


def test_a_kafka_setting_that_does_not_exist_ends_with_3(owning: Database) -> None:
    text = (
        f"name: crm\nsource: {owning.dsn}\nlog: {{url: 'kafka://127.0.0.1:1', client: {{sasl.pasword: x}}}}"
    )
    findings = preflight(parse_config(text, name="k", environment={}))
    assert [(f.where, f.exit_code) for f in findings if f.severity is Severity.ERROR] == [("log", 3)]


# the verb


def test_the_verb_prints_a_list_json_or_only_sql_and_ends_with_the_first_error_s_code(
    owning: Database, tmp_path: Path, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    owning.execute("create table keyless (x int)")
    path = tmp_path / "keepstream.yaml"
    path.write_text(f"name: crm\nsource: {owning.dsn}\nlog: file://{log}\n")
    path.chmod(0o640)
    assert main(["-c", str(path), "check"]) == 4
    shown = capsys.readouterr().out
    assert "  error   public.keyless: no primary key: published, its UPDATE and DELETE would fail" in shown
    assert "1 error and 3 warnings" in shown
    assert main(["-c", str(path), "check", "--json"]) == 4
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert found["findings"][0]["code"] == "config-readable"
    assert main(["-c", str(path), "check", "--fix-sql"]) == 4
    owning.execute_as_admin(capsys.readouterr().out)
    assert main(["-c", str(path), "check"]) == 0
    assert owning.password not in shown + capsys.readouterr().out


def test_sql_that_mends_a_table_of_an_evil_name_is_shown_and_run_without_driving_the_terminal(
    owning: Database, tmp_path: Path, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "x\x1b]0;owned\x07\n\r\x9b\\\"'\u202e\u2066"
    owning.execute(sql.SQL("create table {} (x int)").format(sql.Identifier(evil)).as_string())
    path = tmp_path / "keepstream.yaml"
    path.write_text(f"name: crm\nsource: {owning.dsn}\nlog: file://{log}\n")
    path.chmod(0o600)
    assert main(["-c", str(path), "check"]) == 4
    shown = capsys.readouterr().out
    assert r"""public.x\x1b]0;owned\x07\n\r\x9b\"'\u202e\u2066: no primary key""" in shown
    assert main(["-c", str(path), "check", "--fix-sql"]) == 4
    mending = capsys.readouterr().out
    assert (shown + mending).replace("\n", "").isprintable()
    owning.execute_as_admin(mending)
    assert main(["-c", str(path), "check"]) == 0


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


@pytest.mark.parametrize("initial", ["data", "none"])
def test_what_a_prepared_replica_insists_on_and_may_not_be_made_there_is_an_error(
    owning: Database, replica: Database, log: Path, initial: str
) -> None:
    """So that it does not stop the copy in the middle."""
    owning.execute(CUSTOMER)
    replica.execute(f"{CUSTOMER}; alter table customer add column ours int not null")
    (owner,) = replica.execute_as_admin(
        "select pg_get_userbyid(datdba) from pg_database where datname = current_database()"
    )
    replica.execute_as_admin(f'alter database "{replica.name}" owner to postgres')
    config = configure(owning.dsn, log, replica.dsn, initial=initial)
    found = by_code(preflight(config))
    assert errors(preflight(config)) == ["privilege-create", "replica-schema"]
    assert found["replica-schema"].message == (
        "its own column ours is NOT NULL and has no default, and mending that loses the constraint"
    )
    role = f'"{owner[0]}"'
    assert found["privilege-create"].fix == f'grant create on database "{replica.name}" to {role};'
    replica.execute(uncommented(found["replica-schema"].fix))
    replica.execute_as_admin(f"create schema keepstream authorization {role}")
    assert errors(preflight(config)) == []
    replica.execute_as_admin("drop schema keepstream")
    replica.execute_as_admin(found["privilege-create"].fix)
    assert errors(preflight(config)) == []


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


def follow(replica: Database) -> None:
    """As after a first copy."""
    with connect(replica.dsn, purpose="test") as session:
        progress.install(session)
        run = begin_run(
            session,
            "crm",
            stream=bytes(16),
            initial="copy",
            place="",
            application="none",
            require_empty=lambda: None,
        )
        complete_run(session, run, Position(Lsn(1)), place="")


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
    follow(replica)

    def unfit() -> list[str]:
        findings = preflight(config)
        return [f.message for f in findings if f.code == "replica-schema" and f.severity is Severity.ERROR]

    assert unfit() == []
    replica.execute("alter table deal alter amount type numeric(12,2)")
    assert unfit() == ["its column amount is numeric(12,2) instead of numeric(12,4)"]
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


def test_an_unlogged_table_of_a_prepared_replica_is_no_missing_one(
    owning: Database, replica: Database, log: Path
) -> None:
    owning.execute(f"{CUSTOMER}; create table plain (id int primary key)")
    replica.execute(CUSTOMER.replace("table", "unlogged table"))
    replica.execute("create table plain (id int primary key) partition by range (id)")
    replica.execute("create unlogged table low partition of plain default")
    config = configure(owning.dsn, log, replica.dsn, initial="data")
    found = [finding for finding in preflight(config) if finding.severity is Severity.ERROR]
    logged = "set logged;  -- nobody reads or writes it meanwhile"
    assert [(finding.code, finding.subject, finding.fix) for finding in found] == [
        ("replica-unlogged", "public.customer", f"alter table only public.customer {logged}"),
        ("replica-unlogged", "public.plain", f"alter table only public.low {logged}"),
    ]
    for finding in found:
        replica.execute(finding.fix)
    assert errors(preflight(config)) == []


def test_a_table_that_inherits_on_the_replica_alone_is_warned_of(
    owning: Database, replica: Database, log: Path
) -> None:
    both = f"{CUSTOMER}; create table known (primary key (id)) inherits (customer)"
    owning.execute(both)
    replica.execute(both)
    replica.execute("create table mine () inherits (customer); insert into mine values (1)")
    config = configure(owning.dsn, log, replica.dsn, initial="data")
    findings = preflight(config)
    assert errors(findings) == []
    (found,) = [finding for finding in findings if finding.code == "replica-inherited"]
    assert (found.severity, found.subject) == (Severity.WARNING, "public.customer")
    assert found.message == (
        "public.mine inherits from it, on the replica alone: there SELECT, UPDATE and DELETE without ONLY"
        " reach the rows of both"
    )
    replica.execute("insert into customer values (1)")
    replica.execute(uncommented(by_code(preflight(config))["replica-not-empty"].fix.splitlines()[0]))
    assert replica.execute("select id from customer") == [(1,)]
    replica.execute(uncommented(found.fix))
    assert "replica-inherited" not in by_code(preflight(config))


def test_a_size_that_nobody_knows_is_not_0(owning: Database, log: Path) -> None:
    owning.execute(f"{CUSTOMER}; insert into customer select i, 'x' from generate_series(1, 1000) i")

    def size() -> str:
        return by_code(preflight(configure(owning.dsn, log)))["tables"].message

    assert size() == "1 are replicated, of unknown size: never analysed"
    owning.execute("analyze customer; create table later (id int primary key)")
    assert size() == "2 are replicated, about 40.0 KiB, and 1 of unknown size: never analysed"
    owning.execute("analyze later")
    assert size() == "2 are replicated, about 40.0 KiB"


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
    follow(replica)
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
    follow(replica)
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
