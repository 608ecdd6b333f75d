"""The tables of a CRM, and what is written into them.

`opportunity` and `activity` have the fourteen columns of `benchmarks/rows.py`, a primary key and one
secondary index. The rows that UPDATEs change were there before the backlog began: an UPDATE of a row that
the same backlog inserted could be folded into its INSERT, and would flatter set-based apply.

A backlog ends with one row in `marker`: who sees it on the replica knows that all came.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg

TABLES = ("opportunity", "activity", "marker")

TABLE = """
    create table {name} (
        id integer not null,
        company_id integer not null,
        owner_id integer,
        name varchar(120) not null,
        email varchar(200),
        phone varchar(40),
        stage varchar(20) not null,
        amount numeric(16, 2),
        active boolean not null,
        created_at timestamp(6) not null,
        updated_at timestamp(6),
        comment text,
        lost_reason text,
        closed_on date
    )
"""
INDEXES = (
    "alter table {name} add primary key (id)",
    "create index {name}_company on {name} (company_id)",
)

# Different in every row, the same in every run.
_ROWS = """
    insert into {name}
    select n, hashint4(n) & 8191, n %% 60, 'Company ' || (hashint4(n) & 1048575) || ' Ltd',
           'person' || n || '@example.com', '+49 30 ' || lpad((n %% 10000000)::text, 7, '0'),
           (array['lead', 'qualified', 'won', 'lost'])[1 + n %% 4], (hashint4(n + 7) & 9999999) / 100.0,
           n %% 2 = 0, timestamp '2026-01-01' + n * interval '1.000001 s',
           timestamp '2026-03-01' + n * interval '1.000003 s',
           repeat('Called them about the renewal, will decide after the summer break. ', 1 + n %% 3),
           null, null
      from generate_series(%(first)s::int, %(last)s::int) n
"""
UPDATE = """
    update {name} set stage = 'won', amount = amount + 1, updated_at = updated_at + interval '1 day'
     where id between %(first)s and %(last)s
"""

# One INSERT and one UPDATE a transaction, the two tables in turns; each row is updated once.
_SMALL = """
    create procedure write_small(transactions int, base int) language plpgsql as $$
    declare tables text[] := array['opportunity', 'activity'];
    begin
        for n in 1 .. transactions loop
            execute format({row}, tables[1 + n % 2]) using base + n;
            execute format(
                'update %I set stage = ''won'', amount = amount + 1, updated_at = updated_at'
                ' + interval ''1 day'' where id = $1', tables[2 - n % 2]) using 1 + (n::bigint * 7919) % base;
            commit;
        end loop;
    end $$
"""


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much is written: rows to insert, rows to update, and how many rows a transaction has.

    `rows_a_transaction` 0: the small transactions, of one INSERT and one UPDATE each.
    """

    inserts: int
    updates: int
    rows_a_transaction: int

    @property
    def changes(self) -> int:
        return self.inserts + self.updates

    @property
    def transactions(self) -> int:
        if not self.rows_a_transaction:
            return self.inserts
        return sum(-(-rows // self.rows_a_transaction) for rows in (self.inserts, self.updates))

    @property
    def base_rows(self) -> int:
        """How many rows each table holds before this backlog is written: those that it updates."""
        return self.updates

    def __str__(self) -> str:
        return f"{self.transactions:,} transactions, {self.inserts:,} inserts and {self.updates:,} updates"

    def scaled(self, divisor: int) -> Backlog:
        """A smaller one of the same shape."""
        size = self.rows_a_transaction
        inserts, updates = self.inserts // divisor, self.updates // divisor
        return Backlog(inserts, updates, inserts if size == self.inserts else size)


@dataclass(frozen=True, slots=True)
class Load:
    """Tables and what drains through a pipeline. `create` makes them, given a connection string, the same on
    both sides; `write` writes it all and then the marker, and returns an LSN that only its last transaction
    has. `changes`: rows that are written."""

    tables: Sequence[str]
    create: Callable[[str], None]
    write: Callable[[str], str]
    changes: int
    described: str


MEDIUM = Backlog(300_000, 150_000, 1_000)
SMALL = Backlog(40_000, 40_000, 0)
LARGE = Backlog(300_000, 150_000, 300_000)


def crm_load(backlog: Backlog) -> Load:
    """This backlog, on the tables of a CRM."""
    return Load(
        TABLES,
        create=lambda dsn: create_tables(dsn, rows=backlog.base_rows),
        write=lambda dsn: write_backlog(dsn, backlog),
        changes=backlog.changes,
        described=str(backlog),
    )


def create_tables(dsn: str, *, rows: int = 0) -> None:
    """The tables with their indexes; `opportunity` and `activity` hold that many rows each."""
    for name in ("opportunity", "activity"):
        create_table(dsn, name, rows=rows)
    create_marker(dsn)


def create_marker(dsn: str) -> None:
    """The table of what is written last."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        execute(connection, "create table marker (id integer primary key)")


def create_table(dsn: str, name: str, *, rows: int) -> None:
    """One of them, filled and analyzed."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        execute(connection, TABLE.format(name=name))
        fill(connection, name, 1, rows)
        for index in INDEXES:
            execute(connection, index.format(name=name))
        execute(connection, f"vacuum (analyze, freeze) {name}")


def fill(connection: psycopg.Connection[tuple[object, ...]], table: str, first: int, last: int) -> None:
    """Insert rows `first` to `last` in one statement."""
    execute(connection, _ROWS.format(name=table), first=first, last=last)


def write_backlog(dsn: str, backlog: Backlog, *, marker: int = 1) -> str:
    """Write it all and then the marker; an LSN that its last transaction has and no earlier one."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        execute(connection, "set synchronous_commit = off")  # the backlog's writer is not measured
        if backlog.rows_a_transaction:
            _write_by_size(connection, backlog)
        else:
            _write_small(connection, backlog)
        execute(connection, "set synchronous_commit = on")
        return write_marker(connection, marker)


def write_marker(connection: psycopg.Connection[tuple[object, ...]], marker: int) -> str:
    """Commit the marker's row; an LSN before the end of its commit and after all earlier ones."""
    with connection.transaction():
        execute(connection, "insert into marker values (%(marker)s)", marker=marker)
        ((lsn,),) = connection.execute("select pg_current_wal_insert_lsn()::text").fetchall()
    return str(lsn)


def _write_by_size(connection: psycopg.Connection[tuple[object, ...]], backlog: Backlog) -> None:
    base, size = backlog.base_rows, backlog.rows_a_transaction
    for first in range(base + 1, base + backlog.inserts + 1, size):
        fill(connection, "opportunity", first, min(first + size - 1, base + backlog.inserts))
    for first in range(1, backlog.updates + 1, size):
        last = min(first + size - 1, backlog.updates)
        execute(connection, UPDATE.format(name="opportunity"), first=first, last=last)


def _write_small(connection: psycopg.Connection[tuple[object, ...]], backlog: Backlog) -> None:
    row = _ROWS.format(name="%I").replace("%(first)s", "$1").replace("%(last)s", "$1")
    literal = "'" + row.replace("'", "''") + "'"
    connection.execute(_SMALL.replace("{row}", literal).encode())
    execute(
        connection,
        "call write_small(%(transactions)s, %(base)s)",
        transactions=backlog.transactions,
        base=backlog.base_rows,
    )
    execute(connection, "drop procedure write_small")


def digest(dsn: str, tables: Sequence[str]) -> tuple[object, ...]:
    """Row counts and hashes of all rows: equal where two databases hold the same."""
    found: list[object] = []
    with psycopg.connect(dsn, autocommit=True) as connection:
        for table in tables:
            found += execute(connection, f"select count(*), sum(hashtextextended(t::text, 0)) from {table} t")
    return tuple(found)


def execute(
    connection: psycopg.Connection[tuple[object, ...]], statement: str, **values: int
) -> list[tuple[object, ...]]:
    """Run a statement that this package wrote; its rows."""
    cursor = connection.execute(statement.encode(), values or None)
    return cursor.fetchall() if cursor.description is not None else []
