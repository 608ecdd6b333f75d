"""The tables of a CRM that are altered while rows are written, with the source's event triggers installed."""

from __future__ import annotations

import psycopg

from benchmarks.workload import (
    MEDIUM,
    TABLES,
    UPDATE,
    Backlog,
    Load,
    create_tables,
    execute,
    fill,
    write_marker,
)
from connectors.postgres.ddl.install import install
from connectors.postgres.session import connect

ALTERED_EVERY = 25
"""Transactions of a thousand rows."""
_ALTERS = (
    "alter table opportunity add column extra_{number} integer default {number}",
    "alter table opportunity alter column extra_{last} set default 0",
    "comment on column opportunity.extra_{last} is 'made by the benchmark'",
    "create index extra_{number} on opportunity (extra_{last}) where id < 0",
)


def altered_load(divisor: int) -> Load:
    """What `capture_ddl` drains."""
    backlog = MEDIUM.scaled(divisor)
    alters = backlog.transactions // ALTERED_EVERY
    return Load(
        TABLES,
        create=lambda dsn: create_tables(dsn, rows=backlog.base_rows),
        write=lambda dsn: _write(dsn, backlog),
        changes=backlog.changes,
        described=f"{backlog}, {alters} ALTER and the like between them, event triggers installed",
    )


def _write(dsn: str, backlog: Backlog) -> str:
    with connect(dsn, purpose="benchmark") as session:
        install(session, capture_role=session.info.user)
    base, size = backlog.base_rows, backlog.rows_a_transaction
    with psycopg.connect(dsn, autocommit=True) as connection:
        for number in range(backlog.transactions):
            if number % ALTERED_EVERY == ALTERED_EVERY - 1:
                _alter(connection, number // ALTERED_EVERY)
            first = number * size + 1
            if first <= backlog.inserts:
                last = min(first + size - 1, backlog.inserts)
                fill(connection, "opportunity", base + first, base + last)
            else:
                first -= backlog.inserts
                last = min(first + size - 1, backlog.updates)
                execute(connection, UPDATE.format(name="opportunity"), first=first, last=last)
        return write_marker(connection, 1)


def _alter(connection: psycopg.Connection[tuple[object, ...]], number: int) -> None:
    last = number - number % len(_ALTERS)
    execute(connection, _ALTERS[number % len(_ALTERS)].format(number=number, last=last))
