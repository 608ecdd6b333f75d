"""`check` of the publication: who makes it, what it must send, and how tables join it."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from pipeline.check import preflight as looked_at
from pipeline.check import refusal
from pipeline.cli.check import fix_parts
from schemas.errors import OperatorNeeded
from schemas.finding import Severity
from tests.checking import CUSTOMER, by_code, configure, errors, established, preflight, uncommented
from tests.fix_postgres import Database
from tests.postgres_releases import needs_release


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


FILLING = """
    select pg_create_physical_replication_slot('spare_' || n, false, true)
      from generate_series(1, current_setting('max_replication_slots')::int
                              - (select count(*) from pg_replication_slots)::int - 1) n
"""


def test_what_the_wal_needs_to_tell_of_partitions_is_named_where_it_is_missing(
    owning: Database, log: Path
) -> None:
    owning.execute(PARTITIONED)
    config = configure(owning.dsn, log, more="  partitions: root\n")
    assert "partitions-unproven" not in by_code(preflight(config))
    unset = f"alter role keepstream in database {owning.name} set dynamic_library_path"
    owning.execute_as_admin(f"{unset} = '/nowhere'")
    found = by_code(looked_at(config))["partitions-unproven"]
    assert (found.severity, found.subject) == (Severity.WARNING, "test_decoding")
    assert found.message == (
        "the output plugin is missing, and without it capture may overlook that a partition was truncated by"
        " its own name (published as a whole: public.ev)"
    )
    assert found.fix.startswith(
        "Install PostgreSQL's additional modules of the server's version on the source;"
    )
    assert "partitions-unproven" not in by_code(looked_at(configure(owning.dsn, log)))
    owning.execute_as_admin(f"{unset} = default")
    with psycopg.connect(owning.admin_dsn, autocommit=True) as connection:
        connection.execute(FILLING)
        for free in (1, 0):
            if not free:
                established(owning)
            findings = by_code(preflight(config))
            found = findings["partitions-unproven"]
            assert "slots-exhausted" not in findings
            assert (found.severity, found.subject) == (Severity.WARNING, "max_replication_slots")
            assert found.message.startswith(
                f"{free} of 50 slots are free, and without {free + 1} capture may"
            )
            assert found.fix.startswith("alter system set max_replication_slots = 53;  -- then restart the")


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
