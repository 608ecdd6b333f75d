"""Apply against a real replica: the log's transactions become its rows, exactly once."""

from __future__ import annotations

from schemas.change import UNCHANGED
from tests.fix_apply import MadeLog, Replicating, rows_of
from tests.fix_postgres import Database

CUSTOMER = "create table public.customer (id int primary key, name text, credit numeric(10,2), note text)"


def test_transactions_become_the_replicas_rows_in_order(
    replica: Database, made_log: MadeLog, replicating: Replicating
) -> None:
    replica.execute(CUSTOMER)
    customer = rows_of(replica, "customer")
    made_log.commit(
        customer.insert("1", "Ada", "10.50", "first"),
        customer.insert("2", None, None, None),
        tables=[customer.table],
    )
    made_log.commit(customer.update("2", "Eve", None, UNCHANGED), customer.delete("1", None, None, None))
    last = made_log.commit(customer.update("3", "Eve", "1.00", None, key=["2", None, None, None]))
    replicating.catch_up()
    assert replica.execute("select id, name, credit::text, note from customer") == [(3, "Eve", "1.00", None)]
    row = replicating.row()
    assert (row.position.lsn, row.position.xid, row.position.commit_time) == (
        last.end_lsn,
        last.xid,
        last.commit_time,
    )
