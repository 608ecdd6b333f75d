"""`check` of a replica that others prepared, and of one that follows: its tables and bounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.finding import Severity
from tests.checking import CUSTOMER, by_code, configure, errors, preflight, uncommented
from tests.fix_postgres import Database


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
