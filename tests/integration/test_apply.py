"""Apply against a real replica: the log's transactions become its rows, exactly once, in order."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable

import pytest

from connectors.postgres.replica import progress
from connectors.postgres.session import connect
from pipeline.apply import applier
from schemas.change import (
    UNCHANGED,
    AddedColumn,
    Change,
    ColumnsAdded,
    Message,
    Operation,
    Truncate,
)
from schemas.errors import HistoryBroken
from schemas.join import JOIN_KEYS_PREFIX, JOIN_PREFIX, JOIN_ROWS_PREFIX, Join, JoinKey, JoinKeys
from schemas.lsn import Lsn, Position
from schemas.table import Column, ReplicaIdentity, TableSchema
from tests.fix_apply import FIRST_LSN, PIPELINE, MadeLog, Replicating, Rows, adopt, rows_of
from tests.fix_postgres import Database

CUSTOMER = "create table public.customer (id int primary key, name text, credit numeric(10,2), note text)"


@pytest.fixture
def customer(replica: Database) -> Rows:
    replica.execute(CUSTOMER)
    return rows_of(replica, "public.customer")


def ids(replica: Database) -> list[int]:
    return [row[0] for row in replica.execute("select id from public.customer order by id")]


def add_rows(made_log: MadeLog, customer: Rows, first: int, last: int) -> None:
    """A transaction for each row, all in one frame."""
    for number in range(first, last + 1):
        made_log.add(customer.insert(str(number), "x", None, None), tables=[customer.table])
    made_log.flush()


def target_transactions(replica: Database) -> int:
    return int(replica.execute("select count(distinct xmin::text) from public.customer")[0][0])


def test_transactions_become_the_replicas_rows_in_order(
    replica: Database, made_log: MadeLog, replicating: Replicating, customer: Rows
) -> None:
    made_log.commit(
        customer.insert("1", "Ada", "10.50", "first"),
        customer.insert("2", None, None, None),
        tables=[customer.table],
    )
    made_log.commit(customer.update("2", "Eve", None, UNCHANGED), customer.delete("1", None, None, None))
    last = made_log.commit(customer.update("3", "Eve", "1.00", None, key=["2", None, None, None]))
    replicating.catch_up()
    assert replica.execute("select * from public.customer") == [(3, "Eve", pytest.approx(1), None)]
    row = replicating.row()
    assert row.position == Position(last.end_lsn, last.xid, last.commit_time)


def test_a_key_deleted_and_inserted_again_in_one_transaction_is_there(
    replica: Database, made_log: MadeLog, replicating: Replicating, customer: Rows
) -> None:
    made_log.commit(
        customer.insert("1", "a", None, None),
        customer.delete("1", None, None, None),
        customer.insert("1", "b", None, None),
        customer.delete("1", None, None, None),
        customer.insert("1", "c", None, None),
        tables=[customer.table],
    )
    replicating.catch_up()
    assert replica.execute("select id, name from public.customer") == [(1, "c")]


def test_a_caught_up_replica_commits_each_transaction_by_itself(
    replica: Database, made_log: MadeLog, replicating: Replicating, customer: Rows
) -> None:
    with replicating.running():
        for number in range(3):
            made_log.commit(customer.insert(str(number), None, None, None), tables=[customer.table])
            replicating.wait_for(made_log.lsn)
    assert target_transactions(replica) == 3


def test_a_replica_that_is_behind_commits_many_transactions_at_once(
    replica: Database, made_log: MadeLog, replicating: Replicating, customer: Rows
) -> None:
    add_rows(made_log, customer, 1, 300)
    replicating.catch_up()
    assert ids(replica) == list(range(1, 301))
    assert target_transactions(replica) < 10


def test_a_restarted_apply_goes_on_without_gap_or_repetition(
    replica: Database, made_log: MadeLog, replicating: Replicating, customer: Rows
) -> None:
    for first in (1, 11, 21):
        add_rows(made_log, customer, first, first + 9)
        replicating.catch_up()
    assert ids(replica) == list(range(1, 31))


def test_a_resumed_apply_begins_at_the_newest_anchor_that_it_has_passed(
    replica: Database, made_log: MadeLog, replicating: Replicating, customer: Rows
) -> None:
    add_rows(made_log, customer, 1, 10)
    made_log.anchor()
    add_rows(made_log, customer, 11, 12)
    replicating.catch_up()
    hint = replicating.row().place
    assert hint.partition(":")[0] != str(made_log.log.bounds().first)
    add_rows(made_log, customer, 13, 13)
    with replicating.running() as applying:
        replicating.wait_for(made_log.lsn)
        opened = applying.stage._applier
        assert opened is not None
        assert opened.opened.follower.began_at > 1
    assert ids(replica) == list(range(1, 14))


def test_a_transaction_in_parts_is_one_target_transaction(
    replica: Database, made_log: MadeLog, replicating: Replicating, customer: Rows
) -> None:
    rows = [customer.insert(str(number), "x" * 50, None, None) for number in range(20)]
    with replicating.running():
        opened = made_log.open_parts(*rows, tables=[customer.table])
        replicating.wait(lambda: _locks_row(replica), "the parts in an open transaction")
        assert ids(replica) == []
        made_log.close_parts(opened)
        replicating.wait_for(opened.end_lsn)
    assert ids(replica) == list(range(20))
    assert target_transactions(replica) == 1
    assert replicating.row().position == Position(opened.end_lsn, opened.xid, opened.commit_time)


def test_a_replica_that_is_behind_commits_transactions_of_a_few_parts_together(
    replica: Database, made_log: MadeLog, replicating: Replicating, customer: Rows
) -> None:
    made_log.packer._target_bytes = 200  # one row of these
    for number in range(30):
        rows = [customer.insert(str(3 * number + part), "x" * 100, None, None) for part in range(3)]
        last = made_log.add(*rows, tables=[customer.table])
    made_log.settle()
    replicating.catch_up()
    assert ids(replica) == list(range(90))
    assert target_transactions(replica) < 10
    assert replicating.row().position == Position(last.end_lsn, last.xid, last.commit_time)


def _locks_row(replica: Database) -> bool:
    """Whether an applier has moved its row in a transaction that is still open."""
    return not replica.execute("select 1 from keepstream.progress for update skip locked") and bool(
        replica.execute("select 1 from keepstream.progress")
    )


def test_a_new_epoch_voids_unfinished_parts(  # P7
    replica: Database, made_log: MadeLog, replicating: Replicating, customer: Rows
) -> None:
    lsn, xid = made_log.lsn, made_log.xid
    with replicating.running():
        made_log.open_parts(
            customer.insert("1", "torn", None, None),
            customer.insert("2", "torn", None, None),
            tables=[customer.table],
        )
        replicating.wait(lambda: _locks_row(replica), "the parts in an open transaction")
        made_log.writer.close()
        made_log.lsn, made_log.xid = lsn, xid
        made_log.begin_epoch()
        whole = made_log.commit(
            customer.insert("1", "whole", None, None),
            customer.insert("2", "whole", None, None),
            tables=[customer.table],
        )
        replicating.wait_for(whole.end_lsn)
    assert replica.execute("select id, name from public.customer order by id") == [(1, "whole"), (2, "whole")]


OWN = "create table public.own (customer int references public.customer on delete cascade)"


def truncate(*tables: Rows, restart_identity: bool = False) -> Change:
    payload = Truncate(
        tuple(rows.table.id for rows in tables), cascade=True, restart_identity=restart_identity
    )
    return Change(Operation.TRUNCATE, bytes(8), payload=payload)


def test_a_truncate_empties_all_its_tables_and_restarts_identities(
    replica: Database, made_log: MadeLog, replicating: Replicating, customer: Rows
) -> None:
    replica.execute(
        "create table public.contact (id int generated by default as identity primary key,"
        " customer int references public.customer)"
    )
    contact = rows_of(replica, "public.contact")
    tables = [customer.table, contact.table]
    replica.execute("select nextval('public.contact_id_seq')")
    made_log.commit(
        contact.insert("5", "1"),  # child before parent
        customer.insert("1", None, None, None),
        truncate(customer, contact, restart_identity=True),
        customer.insert("2", None, None, None),
        tables=tables,
    )
    replicating.catch_up()
    assert ids(replica) == [2]
    assert replica.execute("select count(*) from public.contact") == [(0,)]
    assert replica.execute("select nextval('public.contact_id_seq')") == [(1,)]


def test_a_truncate_leaves_the_rows_of_a_table_that_only_the_replica_has(
    replica: Database, made_log: MadeLog, replicating: Replicating, customer: Rows
) -> None:
    replica.execute(
        f"insert into public.customer values (1); {OWN}; insert into public.own values (1);"
        " create sequence public.numbers start 5 owned by public.customer.note;"
        " create sequence public.others owned by public.own.customer;"
        " select nextval('public.numbers'), nextval('public.others')"
    )
    made_log.commit(
        customer.insert("2", None, None, None),
        truncate(customer, restart_identity=True),
        customer.insert("3", None, None, None),
        tables=[customer.table],
    )
    replicating.catch_up()
    assert ids(replica) == [3]
    assert replica.execute("select customer from public.own") == [(1,)]
    assert replica.execute("select nextval('public.numbers'), nextval('public.others')") == [(5, 2)]


def test_a_truncate_of_partitions_is_followed_where_their_whole_refers_to_another_table(
    replica: Database, made_log: MadeLog, replicating: Replicating, customer: Rows
) -> None:
    replica.execute(
        "create table public.visit (id int primary key, customer int references public.customer,"
        " before int references public.visit) partition by range (id);"
        " create table public.visit1 partition of public.visit for values from (0) to (10);"
        " create table public.visit2 partition of public.visit for values from (10) to (20);"
        " insert into public.customer values (1); insert into public.visit values (1, 1, 1), (11, 1, 1)"
    )
    visits = rows_of(replica, "public.visit1")
    made_log.commit(truncate(customer, visits), tables=[customer.table, visits.table])
    replicating.catch_up()
    assert ids(replica) == []
    assert replica.execute("select id from public.visit") == [(11,)]


def test_a_truncate_of_a_table_that_is_partitioned_here_and_refers_to_itself_stays_one(
    replica: Database, made_log: MadeLog, replicating: Replicating
) -> None:
    replica.execute(
        "create table public.visit (id int primary key, before int references public.visit)"
        " partition by range (id);"
        " create table public.visit1 partition of public.visit for values from (0) to (10);"
        " insert into public.visit values (1, 1)"
    )
    visits = rows_of(replica, "public.visit")
    file = "select pg_relation_filenode('public.visit1')"
    before = replica.execute(file)
    made_log.commit(truncate(visits), tables=[visits.table])
    replicating.catch_up()
    assert replica.execute("select count(*) from public.visit") == [(0,)]
    assert replica.execute(file) != before


def test_a_truncate_is_followed_where_the_foreign_key_is_younger_than_applys_look(
    replica: Database, made_log: MadeLog, replicating: Replicating, customer: Rows
) -> None:
    with replicating.running() as applying:
        made_log.commit(truncate(customer), tables=[customer.table])
        replicating.wait_for(made_log.lsn)
        replica.execute(OWN)
        made_log.commit(customer.insert("1", None, None, None))
        made_log.commit(truncate(customer))
        replicating.wait_for(made_log.lsn)
    assert ids(replica) == []
    (code, message), *_ = {(e.code, e.message) for each in applying.reports if (e := each.last_error)}
    assert code == "truncate-refused"
    assert message.endswith("): the replica got a foreign key to one of the tables meanwhile")


def test_a_truncate_stops_where_a_new_foreign_key_would_empty_another_table(
    new_replica: Callable[..., Database], made_log: MadeLog
) -> None:
    """Our role may not keep foreign keys still; this one is made when apply has looked at the table."""
    replica = new_replica()
    replica.execute_as_admin("revoke set on parameter session_replication_role from keepstream")
    replica.execute(CUSTOMER)
    customer = rows_of(replica, "public.customer")
    replicating = Replicating(replica, made_log)
    applying = replicating.start()
    made_log.commit(customer.insert("1", None, None, None), tables=[customer.table])
    replicating.wait_for(made_log.lsn)
    replica.execute(f"{OWN}; insert into public.own values (1)")
    made_log.commit(truncate(customer))
    error = applying.ended_with()
    assert error.code == "replica-triggers"
    acting = "foreign key own_customer_fkey"
    assert error.message.endswith(f": writes to public.customer of standby would fire {acting}")
    assert replica.execute("select customer from public.own") == [(1,)]


def test_added_columns_give_old_rows_their_value_and_new_rows_theirs(
    replica: Database, made_log: MadeLog, replicating: Replicating, customer: Rows
) -> None:
    before = customer.table
    text = Column("city", 25, -1, "text", False)
    number = Column("Age", 23, -1, "integer", False)
    after = TableSchema("public", "customer", before.replica_identity, (*before.columns, text, number))
    added = ColumnsAdded(
        before.id,
        (
            AddedColumn("city", "text", not_null=True, default="'Basel'::text", missing="Bern's"),
            AddedColumn("Age", "integer", not_null=False, default=None, missing=None),
        ),
    )
    made_log.commit(
        customer.insert("1", None, None, None),
        Change(Operation.DDL, after.id, payload=added),
        Rows(after).insert("2", None, None, None, "Zug", "7"),
        tables=[before, after],
    )
    replicating.catch_up()
    assert replica.execute('select id, city, "Age" from public.customer order by id') == [
        (1, "Bern's", None),
        (2, "Zug", 7),
    ]
    replica.execute("insert into public.customer (id) values (3)")
    assert replica.execute("select city from public.customer where id = 3") == [("Basel",)]


def test_a_default_that_the_replica_cannot_make_is_kept_for_later(
    replica: Database, made_log: MadeLog, replicating: Replicating, customer: Rows
) -> None:
    """Rows from the source have their values already; a type, on the other hand, they cannot do without."""
    before = customer.table
    number = Column("no", 20, -1, "bigint", False)
    after = TableSchema("public", "customer", before.replica_identity, (*before.columns, number))
    default = "nextval('numbers'::regclass)"
    added = ColumnsAdded(before.id, (AddedColumn("no", "bigint", False, default, missing="7"),))
    mood = Column("mood", 99_999, -1, "mood", False)
    moody = TableSchema("public", "customer", before.replica_identity, (*after.columns, mood))
    more = ColumnsAdded(after.id, (AddedColumn("mood", "public.mood", False, None, None),))
    made_log.commit(
        customer.insert("1", None, None, None),
        Change(Operation.DDL, after.id, payload=added),
        Rows(after).insert("2", None, None, None, "8"),
        tables=[before, after],
    )
    made_log.commit(Change(Operation.DDL, moody.id, payload=more), tables=[moody])
    error = replicating.start().ended_with()
    assert error.code == "replica-schema"
    assert 'type "public.mood" does not exist' in error.message
    assert error.hint.startswith("Make that on the replica as it is on the source")
    replica.execute("insert into public.customer (id) values (3)")
    assert replica.execute("select id, no from public.customer order by id") == [(1, 7), (2, 8), (3, None)]
    ((statement,),) = replica.execute("select statement from keepstream.deferred_ddl")
    replica.execute(f"create sequence public.numbers start 10; {statement}")
    replica.execute("insert into public.customer (id) values (4)")
    assert replica.execute("select no from public.customer where id = 4") == [(10,)]


@pytest.mark.parametrize(
    ("declared", "lacks", "made"),
    [
        ('s."Odd d"', 'type "s.Odd d"', "create domain s.\"Odd d\" as text default 'x'"),
        (
            'text collate s."my coll"',
            'collation "s.my coll"',
            "create collation s.\"my coll\" (provider = libc, locale = 'C')",
        ),
    ],
    ids=["domain", "collation"],
)
def test_a_domain_or_collation_that_the_replica_lacks_stops_until_it_is_made(
    replica: Database,
    made_log: MadeLog,
    replicating: Replicating,
    customer: Rows,
    declared: str,
    lacks: str,
    made: str,
) -> None:
    replica.execute(
        "create schema s; grant usage on schema s to public; insert into public.customer (id) values (1)"
    )
    before = customer.table
    columns = (*before.columns, Column("extra", 65000 if "Odd" in declared else 25, -1, "text", False))
    after = TableSchema("public", "customer", before.replica_identity, columns)
    added = ColumnsAdded(before.id, (AddedColumn("extra", declared, False, None, None),))
    change = Change(Operation.DDL, after.id, payload=added)
    made_log.commit(change, Rows(after).insert("2", None, None, None, "Zug"), tables=[before, after])
    error = replicating.start().ended_with()
    assert error.code == "replica-schema"
    assert lacks in error.message
    assert error.hint.startswith("Make that on the replica as it is on the source")
    replica.execute(made)
    replicating.catch_up()
    assert replica.execute("select id, extra from public.customer order by id") == [(1, None), (2, "Zug")]
    assert replica.execute(
        "select format_type(atttypid, -1), attcollation::regcollation::text from pg_attribute"
        " where attrelid = 'public.customer'::regclass and attname = 'extra'"
    ) == [('s."Odd d"', '"default"') if "Odd" in declared else ("text", 's."my coll"')]


def test_a_column_that_the_replica_has_already_is_not_added_again(
    replica: Database, made_log: MadeLog, replicating: Replicating, customer: Rows
) -> None:
    replica.execute("alter table public.customer add column city text")
    before = customer.table
    after = TableSchema(
        "public",
        "customer",
        before.replica_identity,
        (*before.columns, Column("city", 25, -1, "text", False)),
    )
    added = ColumnsAdded(before.id, (AddedColumn("city", "text", False, None, None),))
    made_log.commit(
        Change(Operation.DDL, after.id, payload=added),
        Rows(after).insert("2", None, None, None, "Zug"),
        tables=[before, after],
    )
    replicating.catch_up()
    assert replica.execute("select city from public.customer") == [("Zug",)]


def test_a_column_without_a_value_in_old_rows_is_added_without_not_null(
    replica: Database, made_log: MadeLog, replicating: Replicating, customer: Rows
) -> None:
    replica.execute("insert into public.customer (id) values (1)")
    before = customer.table
    columns = (*before.columns, Column("city", 25, -1, "text", False))
    after = TableSchema("public", "customer", before.replica_identity, columns)
    added = ColumnsAdded(before.id, (AddedColumn("city", "text", True, None, None),))
    change = Change(Operation.DDL, after.id, payload=added)
    made_log.commit(change, Rows(after).insert("2", None, None, None, "Zug"), tables=[before, after])
    replicating.catch_up()
    assert replica.execute("select id, city from public.customer order by id") == [(1, None), (2, "Zug")]


@pytest.mark.parametrize("missing", ["Bern", None])
@pytest.mark.parametrize("partitioned", [False, True])
def test_a_column_that_the_replica_has_already_with_other_values_stops(
    replica: Database,
    made_log: MadeLog,
    replicating: Replicating,
    customer: Rows,
    missing: str | None,
    partitioned: bool,
) -> None:
    if partitioned:
        replica.execute("alter table public.customer rename to low")
        replica.execute(
            "create table public.customer (like public.low including all) partition by range (id)"
        )
        replica.execute("alter table public.customer attach partition public.low default")
    replica.execute("insert into public.customer (id) values (1)")
    replica.execute("alter table public.customer add column city text")
    if missing is None:
        replica.execute("update public.customer set city = 'Basel'")
    before = customer.table
    columns = (*before.columns, Column("city", 25, -1, "text", False))
    after = TableSchema("public", "customer", before.replica_identity, columns)
    added = ColumnsAdded(before.id, (AddedColumn("city", "text", False, None, missing),))
    change = Change(Operation.DDL, after.id, payload=added)
    made_log.commit(change, Rows(after).insert("2", None, None, None, "Zug"), tables=[before, after])
    error = replicating.start().ended_with()
    assert (error.code, error.exit_code) == ("column-differs", 4)
    value = "NULL" if missing is None else f"'{missing}'"
    only = "" if partitioned else "only "
    mend = f'update {only}"public"."customer" set "city" = {value};'
    assert mend in error.hint
    replica.execute(mend)
    replicating.catch_up()
    assert replica.execute("select city from public.customer order by id") == [(missing,), ("Zug",)]


@pytest.mark.parametrize(
    ("there", "missing"),
    [
        ("add column extra int default 5; update public.customer set extra = 6", "5"),
        ("add column extra pair; update public.customer set extra = row(null, null)", None),
        ("add column extra pair default row(null, null); update public.customer set extra = null", "(,)"),
    ],
    ids=["changed since it was added alike", "of nulls for null", "null for one of nulls"],
)
def test_a_value_that_somebody_put_into_a_column_before_it_came_stops(
    replica: Database,
    made_log: MadeLog,
    replicating: Replicating,
    customer: Rows,
    there: str,
    missing: str | None,
) -> None:
    replica.execute("create type public.pair as (a int, b text); insert into public.customer (id) values (1)")
    replica.execute(f"set search_path = public; alter table public.customer {there}")
    before = customer.table
    oid, kind = (23, "integer") if "int" in there else (65000, "public.pair")
    columns = (*before.columns, Column("extra", oid, -1, kind, False))
    after = TableSchema("public", "customer", before.replica_identity, columns)
    added = ColumnsAdded(before.id, (AddedColumn("extra", kind, False, None, missing),))
    change = Change(Operation.DDL, after.id, payload=added)
    made_log.commit(change, Rows(after).insert("2", None, None, None, None), tables=[before, after])
    assert replicating.start().ended_with().code == "column-differs"


JOIN = Join(
    schema="public",
    table="deal",
    columns=("id", "customer", "title"),
    ddl=(
        "create table public.deal (id int primary key, customer int, title text)",
        "create trigger loud before update on public.deal for each row"
        " execute function suppress_redundant_updates_trigger();"
        " alter table public.deal enable always trigger loud",
        "alter table public.deal enable row level security, force row level security",
    ),
)


def _key(name: str, column: str, referenced: str) -> JoinKey:
    made = f"alter table public.deal add constraint {name} foreign key ({column}) references {referenced};"
    return JoinKey(f"public.deal.{name}", referenced, made)


KEYS = JoinKeys(
    own=(
        _key("c", "customer", "public.customer"),
        _key("x", "customer", "public.x"),
        _key("v", "id", "public.customer"),
    ),
    left_out=(_key("o", "id", "public.other"),),
)
DEAL = Rows(
    TableSchema(
        "public",
        "deal",
        ReplicaIdentity.DEFAULT,
        (
            Column("id", 23, -1, "integer", True),
            Column("customer", 23, -1, "integer", False),
            Column("title", 25, -1, "text", False),
        ),
    )
)


def test_a_joining_table_is_made_and_filled_where_it_joined(
    replica: Database, made_log: MadeLog, replicating: Replicating, customer: Rows
) -> None:
    def message(prefix: str, content: bytes) -> Change:
        return Change(Operation.MESSAGE, bytes(8), payload=Message(True, prefix, content))

    made_log.commit(customer.insert("1", None, None, None), tables=[customer.table])
    made_log.commit(
        message(JOIN_PREFIX, JOIN.to_json()),
        message(JOIN_ROWS_PREFIX, b"1\t1\tA\\tB\n2\t\\N\tC\n"),
        message(JOIN_ROWS_PREFIX, b"3\t1\tD\n"),
        message(JOIN_KEYS_PREFIX, KEYS.to_json()),
        message("somebody.else", b"\0\1"),
    )
    made_log.commit(DEAL.update("2", "1", "E"), tables=[DEAL.table])
    replicating.catch_up()
    assert replica.execute("select * from public.deal order by id") == [
        (1, 1, "A\tB"),
        (2, 1, "E"),
        (3, 1, "D"),
    ]
    assert replica.execute("select conname::text from pg_constraint where contype = 'f'") == [("c",)]
    assert replica.execute("select tgenabled from pg_trigger where tgname = 'loud'") == [("D",)]
    assert replica.execute("select kind, object, reason from keepstream.deferred_ddl order by id") == [
        (
            "row security",
            "public.deal",
            "FORCE would apply the policies to our role, which owns the table here",
        ),
        ("foreign key", "public.deal.o", "it refers to public.other, whose rows are not replicated"),
        ("foreign key", "public.deal.x", 'relation "public.x" does not exist'),
        (
            "foreign key",
            "public.deal.v",
            'insert or update on table "deal" violates foreign key constraint "v"',
        ),
    ]


def test_a_joining_table_that_has_rows_already_stops(
    replica: Database, made_log: MadeLog, replicating: Replicating, customer: Rows
) -> None:
    replica.execute("insert into public.customer values (1)")
    replica.execute(
        "create table public.mine () inherits (public.customer); insert into public.mine values (2)"
    )
    join = Join("public", "customer", ("id",), ("select 1/0",), ())
    payload = Message(True, JOIN_PREFIX, join.to_json())
    made_log.commit(Change(Operation.MESSAGE, bytes(8), payload=payload))
    error = replicating.start().ended_with()
    assert error.code == "join-not-empty"
    assert '; delete from only "public"."customer"; ' in error.hint


def test_an_idle_replica_moves_its_position_rarely(
    replica: Database, made_log: MadeLog, replicating: Replicating, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applier, "STANDING_EVERY_S", 0.3)
    with replicating.running():
        position = made_log.heartbeat()
        replicating.wait_for(position.lsn)
    monkeypatch.setattr(applier, "STANDING_EVERY_S", 1000)
    with replicating.running() as applying:
        position = made_log.heartbeat()
        replicating.wait(lambda: applying.standing == position.lsn, "the heartbeat read")
    assert replicating.row().position.lsn < position.lsn


def test_a_log_of_another_stream_is_refused(
    replica: Database, made_log: MadeLog, replicating: Replicating
) -> None:
    with connect(replica.dsn, purpose="test") as session:
        progress.remove(session, PIPELINE)
        adopt(session, PIPELINE, stream=uuid.uuid4().bytes, position=Position(FIRST_LSN))
    error = replicating.start().ended_with()
    assert isinstance(error, HistoryBroken)
    assert error.code == "other-stream"


def test_a_position_that_another_history_reached_is_refused(  # P2
    replica: Database, made_log: MadeLog, replicating: Replicating, customer: Rows
) -> None:
    made = made_log.commit(customer.insert("1", None, None, None), tables=[customer.table])
    replicating.catch_up()
    replica.execute("update keepstream.progress set xid = xid + 1")
    made_log.commit(customer.insert("2", None, None, None), tables=[customer.table])
    error = replicating.start().ended_with()
    assert error.code == "other-history"
    assert error.message == (
        f"position {Position(made.end_lsn)} was taken in another history: the log's last transaction below it"
        f" is {made.xid}, not {made.xid + 1}"
    )
    assert ids(replica) == [1]


def test_a_position_whose_transaction_the_log_never_had_is_refused(  # P2
    replica: Database, made_log: MadeLog, replicating: Replicating
) -> None:
    replica.execute("update keepstream.progress set xid = 700, commit_time = now()")
    made_log.heartbeat()
    error = replicating.start().ended_with()
    assert error.code == "other-history"
    assert error.message == (
        f"position {Position(FIRST_LSN)} was taken in another history: the log has no transaction below it,"
        " and should have 700"
    )


def test_a_replica_without_its_row_is_not_touched(
    replica: Database, made_log: MadeLog, replicating: Replicating
) -> None:
    replica.execute("delete from keepstream.progress")
    assert replicating.start().ended_with().code == "progress-missing"


def test_a_replica_that_is_being_copied_is_not_touched(
    replica: Database, made_log: MadeLog, replicating: Replicating
) -> None:
    with connect(replica.dsn, purpose="test") as session:
        progress.remove(session, PIPELINE)
        progress.write_copying_marker(session, PIPELINE, stream=made_log.stream)
    assert replicating.start().ended_with().code == "copy-unfinished"


def test_the_report_says_where_the_replica_stands(
    replica: Database, made_log: MadeLog, replicating: Replicating, customer: Rows
) -> None:
    add_rows(made_log, customer, 1, 3)
    with replicating.running() as applying:
        replicating.wait_for(made_log.lsn)
        replicating.wait(lambda: bool(applying.reports), "a report")
    report = applying.reports[-1]
    assert (report.stage, report.state.value) == ("apply:standby", "stopped")
    assert (report.transactions, report.changes) == (3, 3)
    assert json.loads(report.model_dump_json())["commit_lsn"] is not None


def test_a_replica_ahead_of_the_log_waits_and_then_skips(  # P2
    replica: Database, made_log: MadeLog, replicating: Replicating, customer: Rows
) -> None:
    ahead = made_log.lsn + 0x80 * 2
    replica.execute("update keepstream.progress set position = %s::pg_lsn", [str(Position(Lsn(ahead)))])
    with replicating.running():
        for number in (1, 2, 3):
            made_log.commit(customer.insert(str(number), None, None, None), tables=[customer.table])
        replicating.wait_for(made_log.lsn)
    assert ids(replica) == [3]
