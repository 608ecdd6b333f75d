"""A table of forty columns of twenty-five types, and what is written into it.

Most of them have no Avro type of their own and travel as PostgreSQL's text; the others are parsed into it.
Values are ordinary ones, different in every row, the same in every run.
"""

from __future__ import annotations

import psycopg

from benchmarks.workload import Backlog, Load, create_marker, execute, write_marker

BACKLOG = Backlog(60_000, 30_000, 1_000)

# Each type with an expression of `n`, the row's number; where there are several, as many columns.
COLUMNS: dict[str, tuple[str, ...]] = {
    "integer": ("n", "hashint4(n)"),
    "smallint": ("n % 30000",),
    "bigint": ("n * 7919::bigint", "hashint8(n)", "n + 1"),
    "boolean": ("n % 2 = 0", "n % 7 = 0"),
    "real": ("n / 7.0",),
    "double precision": ("n / 7.0", "sqrt(n)"),
    "numeric(16,2)": ("n / 100.0", "n * 3.14", "-n"),
    "text": ("'Company ' || hashint4(n)", "repeat('Called them about the renewal. ', 1 + n % 3)", "null"),
    "varchar(120)": ("'person' || n || '@example.com'", "'+49 30 ' || n"),
    "char(8)": ("n::text",),
    "bytea": ("decode(md5(n::text), 'hex')",),
    "uuid": ("md5(n::text)::uuid", "md5((n + 1)::text)::uuid"),
    "date": ("date '2026-01-01' + n % 3000", "date '2026-03-01' + n % 30", "null"),
    "time": ("time '08:00' + n * interval '1.001 s'",),
    "timestamp": (
        "timestamp '2026-01-01' + n * interval '1.000001 s'",
        "timestamp '2026-03-01' + n * interval '1 s'",
    ),
    "timestamptz": ("timestamptz '2026-01-01 00:00+02' + n * interval '1.000003 s'",),
    "interval": ("n * interval '1.5 s'",),
    "json": ("json_build_object('id', n, 'stage', 'won')",),
    "jsonb": ("jsonb_build_object('id', n, 'tags', array['a', 'b'])", "'{}'"),
    "inet": ("inet '10.0.0.0' + n",),
    "integer[]": ("array[n, n + 1, null]",),
    "text[]": ("array['lead', 'won ' || n]",),
    "int4range": ("int4range(n, n + 10)",),
    "stage": ("(enum_range(null::stage))[1 + n % 4]",),
    "point": ("point(n, -n / 3.0)",),
}  # fmt: skip


def _name(type_: str, number: int, value: str) -> str:
    words = type_.partition("(")[0].replace("[]", "_array").replace(" ", "_")
    return "id" if value == "n" else f"{words}_{number}"


_NAMED = [
    (_name(type_, number, value), type_, value)
    for type_, values in COLUMNS.items()
    for number, value in enumerate(values)
]
_CREATE = f"create table typed ({', '.join(f'{name} {type_}' for name, type_, _ in _NAMED)})"
_INSERT = (
    f"insert into typed select {', '.join(f'({value})::{type_}' for _, type_, value in _NAMED)}"
    " from generate_series(%(first)s::int, %(last)s::int) n"
)
_UPDATE = """
    update typed set smallint_0 = smallint_0 + 1, varchar_0 = varchar_0 || '!', double_precision_0 = 2 * id
     where id between %(first)s and %(last)s
"""


def typed_load(divisor: int) -> Load:
    """What `capture_types` and `apply_types` drain."""
    backlog = BACKLOG.scaled(divisor)
    return Load(
        ("typed", "marker"),
        create=lambda dsn: _create(dsn, backlog.base_rows),
        write=lambda dsn: _write(dsn, backlog),
        changes=backlog.changes,
        described=f"{backlog} of {len(_NAMED)} columns of {len(COLUMNS)} types",
    )


def _create(dsn: str, rows: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        execute(connection, "create type stage as enum ('lead', 'qualified', 'won', 'lost')")
        execute(connection, _CREATE)
        _fill(connection, 1, rows)
        execute(connection, "alter table typed add primary key (id)")
        execute(connection, "vacuum (analyze, freeze) typed")
    create_marker(dsn)


def _write(dsn: str, backlog: Backlog) -> str:
    base, size = backlog.base_rows, backlog.rows_a_transaction
    with psycopg.connect(dsn, autocommit=True) as connection:
        for first in range(base + 1, base + backlog.inserts + 1, size):
            _fill(connection, first, min(first + size - 1, base + backlog.inserts))
        for first in range(1, backlog.updates + 1, size):
            execute(connection, _UPDATE, first=first, last=min(first + size - 1, backlog.updates))
        return write_marker(connection, 1)


def _fill(connection: psycopg.Connection[tuple[object, ...]], first: int, last: int) -> None:
    execute(connection, _INSERT.replace(" % ", " %% "), first=first, last=last)
