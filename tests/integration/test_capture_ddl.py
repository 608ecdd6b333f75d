"""DDL on published tables: what is followed, and what stops capture before a row is in the log that replicas
would take for another."""

from __future__ import annotations

import time

import pytest

from connectors.interfaces import ChangeLog
from connectors.postgres.catalog.tables import CatalogColumn, read_columns
from connectors.postgres.session import Session
from pipeline.capture import housekeeping
from pipeline.capture.options import CaptureOptions
from pipeline.capture.versions import catalog
from schemas.change import Operation
from tests.capturing import RunningCapture, begun, capture_options, capturing
from tests.fix_postgres import Database
from tests.postgres_releases import needs_release


@pytest.fixture
def options(source: Database, change_log: ChangeLog) -> CaptureOptions:
    source.grant_ownership()
    return capture_options(source, change_log)


def test_added_columns_with_a_constant_default_are_followed(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    source.execute("create table customer (id int primary key); insert into customer values (1)")
    with capturing(options):
        content = begun(change_log)
        source.execute(
            "alter table customer add column city text not null default 'Bern', add column age int"
        )
        source.execute("insert into customer values (2, 'Basel', 7)")
        content.wait(lambda c: len(c.transactions) == 1, "the transaction")
    ddl, insert = content.transactions[0]
    assert ddl.operation is Operation.DDL
    assert ddl.payload is not None
    assert [(c.name, c.not_null, c.missing) for c in ddl.payload.columns] == [  # type: ignore[union-attr]
        ("city", True, "Bern"),
        ("age", False, None),
    ]
    assert insert.operation is Operation.INSERT


def test_a_column_that_is_filled_and_then_made_not_null_is_announced_as_it_was_added(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    """As migrations do it. The catalog says NOT NULL by then; a replica has rows that are filled later."""
    source.execute("create table customer (id int primary key); insert into customer values (1)")
    with capturing(options):
        content = begun(change_log)
        source.execute(
            "begin; alter table customer add column credit int; update customer set credit = id;"
            " alter table customer alter credit set not null; commit"
        )
        content.wait(lambda c: len(c.transactions) == 1, "the transaction")
    ddl, update = content.transactions[0]
    assert [(c.name, c.not_null) for c in ddl.payload.columns] == [("credit", False)]  # type: ignore[union-attr]
    assert update.operation is Operation.UPDATE


DEFAULTS = {
    "box": "'(3,4),(1,2)'",
    "box[]": "'{(3,4),(1,2);(1,1),(0,0)}'",
    "text": r"""E'a"b\\c, {d}\n NULL'""",
    "text[]": """'{a,"b,c",NULL}'""",
    "numeric": "1.00",
    "jsonb": """'{"a": [1, "b"]}'""",
    "timestamptz": "'2026-01-02 03:04:05.6+00'",
    "pair": "row(null, null)",
}


@pytest.mark.parametrize("type_name", DEFAULTS)
def test_a_constant_default_of_any_type_is_told_as_postgresql_writes_it(
    source: Database, options: CaptureOptions, change_log: ChangeLog, type_name: str
) -> None:
    source.execute("create type pair as (a int, b text)")
    source.execute("create table customer (id int primary key); insert into customer values (1)")
    with capturing(options):
        content = begun(change_log)
        source.execute(f"alter table customer add column extra {type_name} default {DEFAULTS[type_name]}")
        ((shown,),) = source.execute("select format('%s', extra) from customer")
        source.execute("insert into customer values (2)")
        content.wait(lambda c: len(c.transactions) == 1, "the transaction")
    payload = content.transactions[0][0].payload
    assert [column.missing for column in payload.columns] == [shown]  # type: ignore[union-attr]


DECLARED = {
    "a domain": ("dd", "public.dd"),
    "a domain over it in another schema": ('s."Odd d"', 's."Odd d"'),
    "an array of it": ('s."Odd d"[]', 's."Odd d"[]'),
    "a modifier": ("numeric(10,2)", "numeric(10,2)"),
    "a collation": ('varchar(9) collate "C"', 'character varying(9) collate "C"'),
    "one in another schema": ('text[] collate s."my coll"', 'text[] collate s."my coll"'),
    "a domain's own collation": ("s.plain", "s.plain"),
    "a domain with another one": ('s.plain collate "POSIX"', 's.plain collate "POSIX"'),
}


@pytest.mark.parametrize(("declared", "told"), DECLARED.values(), ids=DECLARED)
def test_an_added_column_is_told_as_it_was_declared(
    source: Database, options: CaptureOptions, change_log: ChangeLog, declared: str, told: str
) -> None:
    source.execute(
        'create schema s; create domain dd as varchar(10); create domain s."Odd d" as dd;'
        "create collation s.\"my coll\" (provider = libc, locale = 'C');"
        'create domain s.plain as text collate "C";'
        "create table customer (id int primary key); insert into customer values (1)"
    )
    with capturing(options):
        content = begun(change_log)
        source.execute(f"alter table customer add column extra {declared}")
        source.execute("insert into customer values (2)")
        content.wait(lambda c: len(c.transactions) == 1, "the transaction")
    payload = content.transactions[0][0].payload
    assert [column.type_name for column in payload.columns] == [told]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("declared", "told"),
    [("five", (None, "5")), ("five default 7", ("7", "7")), ("five default null", ("NULL::integer", None))],
)
def test_the_default_of_a_domain_is_a_value_of_old_rows_and_no_default_of_the_column(
    source: Database,
    options: CaptureOptions,
    change_log: ChangeLog,
    declared: str,
    told: tuple[str | None, str | None],
) -> None:
    source.execute("create domain five as int default 5")
    source.execute("create table customer (id int primary key); insert into customer values (1)")
    with capturing(options):
        content = begun(change_log)
        source.execute(f"alter table customer add column extra {declared}")
        source.execute("insert into customer values (2)")
        content.wait(lambda c: len(c.transactions) == 1, "the transaction")
    (added,) = content.transactions[0][0].payload.columns  # type: ignore[union-attr]
    assert (added.default, added.missing) == told


def test_whoever_has_a_table_locked_does_not_hold_up_its_description(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next step of a migration, which goes on for long."""
    source.execute("create table customer (id int primary key); insert into customer values (1)")
    with source.connect(autocommit=False) as migration, capturing(options) as running:

        def read_locked(session: Session, oid: int) -> tuple[CatalogColumn, ...]:
            migration.execute("alter table customer add column note text")
            return read_columns(session, oid)

        monkeypatch.setattr(catalog, "read_columns", read_locked)
        content = begun(change_log)
        source.execute("alter table customer add column credit int default 5")
        source.execute("insert into customer values (2)")
        content.wait(lambda c: len(c.transactions) == 1, "the transaction")
        assert running.last_error is None
        migration.rollback()


def test_a_rewrite_between_an_added_column_and_its_description_stops_capture(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VACUUM FULL writes the constant default into the rows: the catalog no longer says what they hold."""

    def read_late(session: Session, oid: int) -> tuple[CatalogColumn, ...]:
        source.execute("vacuum full customer")
        return read_columns(session, oid)

    monkeypatch.setattr(catalog, "read_columns", read_late)
    source.execute("create table customer (id int primary key); insert into customer values (1)")
    running = RunningCapture(options)
    content = begun(change_log)
    source.execute("alter table customer add column credit int default 5")
    source.execute("insert into customer values (2, 7)")
    assert running.ended_with().code == "schema-changed"
    assert content.read().transactions == []


def test_a_volatile_default_stops_capture_before_anything_of_it_is_in_the_log(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    source.execute("create table customer (id int primary key); insert into customer values (1)")
    running = RunningCapture(options)
    content = begun(change_log)
    source.execute("alter table customer add column token float default random()")
    source.execute("insert into customer values (2)")
    error = running.ended_with()
    assert (error.code, error.exit_code) == ("schema-changed", 4)
    assert error.message == (
        "the schema of public.customer changed in a way that cannot be followed:"
        " it was rewritten after a column was added"
    )
    assert content.read().transactions == []


OLD_ROWS = "create table lead (id int primary key, v text); insert into lead values (1, 'a'), (2, 'b')"
REWRITES = {
    "volatile default dropped again": "alter table lead add column r float default random();"
    " alter table lead alter r drop default",
    "volatile default of a column that is not null": "begin; alter table lead add column r uuid not null"
    " default gen_random_uuid(); alter table lead alter r drop default; commit",
    "constant default dropped, then rewritten": "alter table lead add column r int default 5;"
    " alter table lead alter r drop default; vacuum full lead",
    "constant default dropped, then clustered": "alter table lead add column r int default 5;"
    " alter table lead alter r drop default; cluster lead using lead_pkey",
    "added, then computed": "alter table lead add column r int;"
    " alter table lead alter column r type int using id * 10",
    "volatile default of a table that is emptied and filled": "begin; truncate lead;"
    " insert into lead values (1, 'a'); alter table lead add column r float default random(); commit",
    "constant default of a table that is emptied and filled, then computed": "begin; truncate lead;"
    " alter table lead add column r int default 5; insert into lead values (1, 'a', 1);"
    " alter table lead alter r type int using r * 9; commit",
    "a known column computed anew": "alter table lead alter column v type text using v || '!'",
    "dropped and added with the same type": "alter table lead drop column v;"
    " alter table lead add column v text",
}


def run_apart(source: Database, statements: str) -> None:
    """Each statement on its own, as `psql -c` does; VACUUM refuses anything else."""
    with source.connect() as connection:
        for statement in statements.split(";"):
            connection.execute(statement)


@pytest.mark.parametrize("down", [False, True], ids=["running", "down"])
@pytest.mark.parametrize("statements", REWRITES.values(), ids=REWRITES.keys())
def test_rows_that_ddl_may_have_rewritten_stop_capture_before_anything_is_in_the_log(
    source: Database, options: CaptureOptions, change_log: ChangeLog, statements: str, down: bool
) -> None:
    source.execute(OLD_ROWS)
    running = RunningCapture(options)
    content = begun(change_log)
    if down:
        running.end()
    run_apart(source, statements)
    source.execute("insert into lead (id) select 3 where false; update lead set v = 'c' where id = 1")
    error = (RunningCapture(options) if down else running).ended_with()
    assert (error.code, error.exit_code) == ("schema-changed", 4)
    assert "public.lead" in error.message
    assert content.read().transactions == []


def test_a_rewrite_that_keeps_every_value_is_no_change(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    source.execute(OLD_ROWS)
    with capturing(options):
        content = begun(change_log)
        run_apart(source, "vacuum full lead; update lead set v = 'c' where id = 1")
        run_apart(source, "cluster lead using lead_pkey; update lead set v = 'c' where id = 2")
        content.wait(lambda c: len(c.transactions) == 2, "the updates")
        source.execute("alter table lead alter v set default 'x', alter v set not null")
        source.execute("insert into lead (id) values (3)")
        content.wait(lambda c: len(c.transactions) == 3, "the insert with a default")
        source.execute("truncate lead")
        source.execute("insert into lead (id) values (4)")
        content.wait(lambda c: len(c.transactions) == 5, "the insert after TRUNCATE")
    run_apart(source, "vacuum full lead; insert into lead (id) values (5)")
    with capturing(options):
        content.wait(lambda c: len(c.transactions) == 6, "the insert after VACUUM FULL")
        run_apart(
            source, "alter table lead add column r int default 7; alter table lead alter r drop default"
        )
        source.execute("insert into lead (id, r) values (6, 1)")
        content.wait(lambda c: len(c.transactions) == 7, "the insert with a new column")
    ddl = content.transactions[6][0]
    assert ddl.payload is not None
    assert [c.missing for c in ddl.payload.columns] == ["7"]  # type: ignore[union-attr]


UNSEEN = {
    "added, dropped and added again": (
        "alter table lead add c int default 5",
        "insert into lead values (5, 'x', 100)",
        "alter table lead drop c",
        "alter table lead add c int default 6",
        "insert into lead values (6, 'y', 7)",
    ),
    "added, and their names swapped": (
        "alter table lead add a int default 1, add b int default 2",
        "insert into lead values (5, 'x', 10, 20)",
        "alter table lead rename a to c",
        "alter table lead rename b to a",
        "alter table lead rename c to b",
    ),
    "added, renamed, and its name given to another": (
        "alter table lead add c int",
        "insert into lead values (5, 'x', 10)",
        "alter table lead rename c to d",
        "alter table lead add c int",
    ),
    "added, and renamed": (
        "alter table lead add a int",
        "insert into lead values (5, 'x', 10)",
        "alter table lead rename a to b",
    ),
}


@pytest.mark.parametrize("down", [False, True], ids=["running", "down"])
@pytest.mark.parametrize("statements", UNSEEN.values(), ids=UNSEEN.keys())
def test_a_column_that_was_another_one_before_capture_saw_it_stops_capture(
    source: Database,
    options: CaptureOptions,
    change_log: ChangeLog,
    statements: tuple[str, ...],
    down: bool,
) -> None:
    """In one transaction while capture runs, one by one while it is down: the catalog shows the end alone."""
    source.execute(OLD_ROWS)
    running = RunningCapture(options)
    content = begun(change_log)
    if down:
        running.end()
        for statement in statements:
            source.execute(statement)
        running = RunningCapture(options)
    else:
        source.execute("begin; " + "; ".join(statements) + "; commit")
    error = running.ended_with()
    assert (error.code, error.exit_code) == ("schema-changed", 4)
    assert "public.lead" in error.message
    assert content.read().transactions == []


GENERATED = [
    pytest.param("alter table deal alter double drop expression", id="a plain column now"),
    pytest.param(
        "alter table deal alter double set expression as (n * 3)",
        id="another expression",
        marks=needs_release("source", 17),
    ),
]


@pytest.mark.parametrize("statement", GENERATED)
def test_what_postgresql_computes_from_now_on_in_another_way_stops_capture(
    source: Database, options: CaptureOptions, change_log: ChangeLog, statement: str
) -> None:
    source.execute(
        "create table deal (id int primary key, n int, double int generated always as (n * 2) stored)"
    )
    source.execute("insert into deal values (1, 1)")
    running = RunningCapture(options)
    content = begun(change_log)
    source.execute(statement)
    source.execute("insert into deal (id, n) values (2, 2)")
    error = running.ended_with()
    assert (error.code, error.exit_code) == ("schema-changed", 4)
    assert "public.deal" in error.message
    assert content.read().transactions == []


@pytest.mark.parametrize("kind", ["stored", pytest.param("virtual", marks=needs_release("source", 18))])
def test_a_new_generated_column_is_warned_of(
    source: Database,
    options: CaptureOptions,
    change_log: ChangeLog,
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    """No row in the stream carries it. STORED rewrites the table, but no value of another column."""
    source.execute("create table deal (id int primary key, n int); insert into deal values (1, 1)")
    with capturing(options):
        content = begun(change_log)
        source.execute(f"alter table deal add triple int generated always as (n * 3) {kind}")
        source.execute("insert into deal (id, n) values (2, 2)")
        content.wait(lambda c: len(c.transactions) == 1, "the row")
        source.execute("alter table deal add note text; insert into deal values (3, 3, default, 'x')")
        content.wait(lambda c: len(c.transactions) == 2, "the row with a plain column")
    assert content.rows("public.deal") == [("INSERT", [b"2", b"2"]), ("INSERT", [b"3", b"3", b"x"])]
    told = [record for record in caplog.records if record.msg.startswith("generated column added")]
    assert [(record.table, record.column) for record in told] == [("public.deal", "triple")]  # type: ignore[attr-defined]


LOOK_S = 0.5
TYPES = """
create type mood as enum ('good', 'bad');
create type address as (street text, city text, zip text);
create domain place as address;
create table visit (id int primary key, m mood[], a place);
"""


@pytest.mark.parametrize("down", [False, True], ids=["running", "down"])
@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("alter type mood rename value 'bad' to 'worse'", "type mood"),
        ("alter type address drop attribute city", "type address"),
        ("alter type address rename attribute city to town", "type address"),
        ("alter type address drop attribute city, add attribute city text", "type address"),
        (
            "alter type address add attribute country text; alter type address drop attribute country",
            "address",
        ),
    ],
)
def test_a_type_whose_values_mean_something_else_stops_capture(
    source: Database,
    options: CaptureOptions,
    change_log: ChangeLog,
    monkeypatch: pytest.MonkeyPatch,
    statement: str,
    named: str,
    down: bool,
) -> None:
    """However deep inside of a column. No message of pgoutput tells of it: the next look does."""
    monkeypatch.setattr(housekeeping, "LOOK_EVERY_S", LOOK_S)
    source.execute(TYPES)
    running = RunningCapture(options)
    begun(change_log)
    if down:
        running.end()
    source.execute(statement)
    error = (RunningCapture(options) if down else running).ended_with()
    assert (error.code, error.exit_code) == ("schema-changed", 4)
    assert named in error.message.replace("public.", "")


def test_a_type_that_came_with_a_column_is_watched_from_there_on(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.execute(TYPES)
    source.execute("create type state as enum ('open', 'won'); " + OLD_ROWS)
    running = RunningCapture(options)
    content = begun(change_log)
    source.execute("alter table lead add s state; insert into lead values (3, 'c', 'won')")
    content.wait_for(1)
    source.execute("alter type state rename value 'won' to 'lost'")
    monkeypatch.setattr(housekeeping, "LOOK_EVERY_S", LOOK_S)
    assert "state" in running.ended_with().message


@pytest.mark.parametrize("down", [False, True], ids=["running", "down"])
def test_another_type_of_a_column_that_nobody_writes_to_stops_capture(
    source: Database,
    options: CaptureOptions,
    change_log: ChangeLog,
    monkeypatch: pytest.MonkeyPatch,
    down: bool,
) -> None:
    """Without a rewrite, and with no row that would describe the table anew."""
    monkeypatch.setattr(housekeeping, "LOOK_EVERY_S", LOOK_S)
    source.execute(
        "create table host (id int primary key, at cidr); insert into host values (1, '10.0.0.1/32')"
    )
    running = RunningCapture(options)
    begun(change_log)
    if down:
        running.end()
    source.execute("alter table host alter at type inet")
    error = (RunningCapture(options) if down else running).ended_with()
    assert error.code == "schema-changed"
    assert "public.host" in error.message


def test_a_type_that_only_grows_is_no_change(
    source: Database, options: CaptureOptions, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is new in it stops a replica that lacks it, when it comes."""
    monkeypatch.setattr(housekeeping, "LOOK_EVERY_S", LOOK_S)
    source.execute(TYPES)
    with capturing(options):
        content = begun(change_log)
        source.execute("alter type mood add value 'new' before 'good'")
        source.execute("alter type address add attribute country text")
        source.execute("insert into visit values (1, '{new}', '(a,b,c,d)')")
        content.wait(lambda c: len(c.transactions) == 1, "the row")
    with capturing(options):
        for number in range(2, 5):
            source.execute(f"insert into visit values ({number}, '{{good}}', '(a,b,c,d)')")
            content.wait_for(number)
            time.sleep(LOOK_S)
    assert content.ids("public.visit") == [1, 2, 3, 4]


def test_vacuum_full_and_cluster_of_a_table_with_a_missing_value_are_no_change(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    """The new file needs the missing value no more, which changes the column's row in the catalog."""
    source.execute(OLD_ROWS)
    source.execute("alter table lead add c int default 5, add d text default 'x'")
    with capturing(options):
        content = begun(change_log)
        run_apart(source, "vacuum full lead; insert into lead (id) values (5)")
        content.wait(lambda c: len(c.transactions) == 1, "the row after VACUUM FULL")
        source.execute("alter table lead add e int default 7; insert into lead (id) values (6)")
        content.wait(lambda c: len(c.transactions) == 2, "the row with a new column")
    run_apart(source, "cluster lead using lead_pkey; insert into lead (id) values (7)")
    with capturing(options):
        content.wait(lambda c: len(c.transactions) == 3, "the row after CLUSTER")
    assert content.ids("public.lead") == [5, 6, 7]


def test_a_column_with_a_missing_value_that_is_computed_anew_stops_capture(
    source: Database, options: CaptureOptions, change_log: ChangeLog
) -> None:
    source.execute(OLD_ROWS)
    source.execute("alter table lead add c int default 5")
    running = RunningCapture(options)
    content = begun(change_log)
    source.execute("alter table lead alter c type int using c + id; insert into lead (id) values (5)")
    assert running.ended_with().code == "schema-changed"
    assert content.read().transactions == []
