"""What an application does to the source while things are killed: small, varied, and always telling.

Invariants that every committed state has, whatever the position: a row's `appended` lists the numbers
1 to `version`; all rows of `stamped` bear one stamp.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import psycopg

from tests.fix_postgres import Database, Row

SCHEMA = """
    create table ledger (id int primary key, version int not null, appended text not null, body text);
    alter table ledger alter body set storage external;
    create table line (id int generated always as identity primary key,
                       ledger int references ledger on delete cascade, note text);
    create table stamped (id int primary key, stamp bigint not null);
    create table renamed (id int primary key, name text unique, body text);
    alter table renamed alter body set storage external;
    create table keyless (a int, b text);
    alter table keyless replica identity full;
    create table bulk (id bigint primary key, filler text);
    create table wiped (id int primary key, n int);
    create table slow (id int primary key, n int);
    create table queued (id int primary key, place int unique deferrable initially deferred);
    create table moving (id int primary key, born bigint not null);
"""
REPLICA_SCHEMA = """
    create sequence arrivals;
    alter table moving add column arrived bigint not null default nextval('arrivals');
"""
"""What the replica has for itself. A row keeps its `arrived` when its key changes, and gets a new one when it
is deleted and inserted: rows arrive in the order of `born`."""
TABLES = tuple(
    f"public.{name}"
    for name in (
        "ledger",
        "line",
        "stamped",
        "renamed",
        "keyless",
        "bulk",
        "wiped",
        "slow",
        "queued",
        "moving",
    )
)
ROWS = 40
BULK_BYTES = 920_000  # more than a frame holds
_DIGEST_BYTES = 32
_SEED_ROWS = f"""
    insert into ledger select i, 1, '1', repeat(md5(i::text), 100) from generate_series(1, {ROWS}) i;
    insert into stamped select i, 0 from generate_series(1, {ROWS}) i;
    insert into renamed select i, 'n' || i, repeat('b' || i, 2000) from generate_series(1, {ROWS}) i;
    insert into wiped select i, 0 from generate_series(1, 5) i;
    insert into slow select i, 0 from generate_series(1, 5) i;
    insert into queued select i, i from generate_series(1, 5) i;
    insert into moving select i, i from generate_series(1, 10) i;
"""


class Workload:
    """`step` is one transaction, or a piece of a long one that overlaps others."""

    def __init__(self, source: Database, seed: int = 1, *, bulk_rows: int = 900) -> None:
        self.steps = 0
        self._bulk_rows = bulk_rows
        self._source = source
        self._random = random.Random(seed)
        self._session = source.connect()
        self._long: psycopg.Connection[Row] | None = None
        self._prepared: str | None = None
        self._queue: list[Callable[[], None]] = []
        self._session.execute(_SEED_ROWS)

    def step(self) -> None:
        """The next of a shuffled round in which everything happens at least once."""
        if not self._queue:
            self._queue = [self._append] * 3 + [self._insert_lines, self._stamp, self._stamp]
            self._queue += [self._large, self._rename, self._swap, self._repeat, self._savepoints]
            self._queue += [self._delete_and_insert, self._begin_long, self._prepare, self._empty]
            self._queue += [self._rotate, self._move]
            self._random.shuffle(self._queue)
            self._queue.append(self._wipe)
        self._queue.pop()()
        self.steps += 1

    def finish(self) -> None:
        """End what is open, so that source and replica can become equal."""
        self._end_long()
        self._end_prepared()

    def reconnect(self) -> None:
        """After the source's end: what was open is rolled back, what was prepared is still there."""
        self._session.close()
        self._session = self._source.connect()
        if self._long is not None:
            self._long.close()
            self._long = None
        found = self._session.execute("select gid from pg_prepared_xacts where gid = %s", [self._prepared])
        self._prepared = self._prepared if found.fetchone() else None

    def close(self) -> None:
        self.finish()
        self._session.close()

    def _pick(self) -> int:
        return self._random.randint(1, ROWS)

    def _append(self) -> None:
        """Versions grow by one, of rows enough for a set; the TOASTed body changes now and then only."""
        rows = ", ".join(str(self._pick()) for _ in range(6))
        body = f", body = repeat(md5('{self.steps}'), 200)" if self._random.random() < 0.3 else ""
        self._session.execute(
            "update ledger set version = version + 1, appended = appended || ',' || (version + 1)"
            f"{body} where id in ({rows})"
        )

    def _insert_lines(self) -> None:
        self._session.execute(
            "insert into line (ledger, note)"
            " select id, 'note ' || version from ledger order by random() limit 5"
        )

    def _stamp(self) -> None:
        """All or none."""
        self._session.execute("update stamped set stamp = stamp + 1")

    def _large(self) -> None:
        """Fewer rows are wider ones. In its midst a part of it, as large, is rolled back."""
        repeats = BULK_BYTES // self._bulk_rows // _DIGEST_BYTES
        rows = f"repeat(md5(i::text), {repeats}) from generate_series(1, {self._bulk_rows}) i"
        self._session.execute(
            "begin; delete from bulk; savepoint undone;"
            f" insert into bulk select -{self.steps} * 100000 - i, {rows};"
            f" update ledger set version = -1 where id <= {ROWS // 2}; rollback to undone;"
            f" insert into bulk select {self.steps} * 100000 + i, {rows}; commit"
        )

    def _rename(self) -> None:
        """The key changes, beside a TOASTed value that does not."""
        row = self._pick()
        self._session.execute(f"update renamed set id = -id where abs(id) = {row}")

    def _swap(self) -> None:
        """Two rows exchange a unique value."""
        one, other = self._random.sample(range(1, ROWS + 1), 2)
        self._session.execute(
            "create temp table if not exists names (id int, name text); truncate names;"
            f" insert into names select abs(id), name from renamed where abs(id) in ({one}, {other});"
            f" update renamed set name = null where abs(id) in ({one}, {other});"
            f" update renamed r set name = n.name from names n"
            f" where (abs(r.id) = {one} and n.id = {other}) or (abs(r.id) = {other} and n.id = {one})"
        )

    def _repeat(self) -> None:
        """Rows that nothing tells apart, NULLs among them."""
        self._session.execute(
            f"insert into keyless select {self._random.randint(1, 3)}, b"
            " from (values ('x'), ('x'), (null)) v (b); delete from keyless where ctid in"
            " (select min(ctid) from keyless group by a, b having count(*) > 4);"
            " update keyless set a = a + 1 where ctid = (select min(ctid) from keyless where b is null)"
        )

    def _savepoints(self) -> None:
        self._session.execute(
            f"begin; update wiped set n = n + 1 where id = {self._random.randint(1, 5)}; savepoint undone;"
            " update stamped set stamp = -1; insert into keyless values (9, 'never'); rollback to undone;"
            " update wiped set n = n + 1; commit"
        )

    def _delete_and_insert(self) -> None:
        """The same key, deleted with what hangs on it, and there again."""
        row = self._pick()
        self._session.execute(
            f"delete from ledger where id = {row}; insert into ledger values ({row}, 1, '1', 'anew')"
        )

    def _rotate(self) -> None:
        """Each row takes the place of another one before that has left it."""
        self._session.execute("update queued set place = place % 5 + 1")

    def _move(self) -> None:
        """Keys change; one row ends, and another one begins with its key. Later ones are `born` later."""
        row, born = self._random.randint(1, 10), 100 + self.steps
        self._session.execute(
            f"update moving set id = -id where abs(id) <> {row} and abs(id) % 2 = {row % 2};"
            f" delete from moving where abs(id) = {row}; insert into moving values ({row}, {born})"
        )

    def _begin_long(self) -> None:
        """A transaction that stays open while others commit."""
        self._end_long()
        self._long = self._source.connect(autocommit=False)
        self._long.execute("update slow set n = n + 1 where id = 1")

    def _prepare(self) -> None:
        self._end_prepared()
        self._prepared = f"prepared_{self._source.name}_{self.steps}"
        self._session.execute("begin")
        self._session.execute("update slow set n = n + 1 where id = 2")
        self._session.execute(f"prepare transaction '{self._prepared}'")

    def _empty(self) -> None:
        """Nothing that is replicated, and the end of what overlapped."""
        self._session.execute("create temp table if not exists mine (x int); insert into mine values (1)")
        self.finish()

    def _wipe(self) -> None:
        self._session.execute("truncate wiped; insert into wiped select i, 0 from generate_series(1, 5) i")

    def _end_long(self) -> None:
        if self._long is not None:
            self._long.execute("update slow set n = n + 1 where id = 3")
            self._long.commit()
            self._long.close()
            self._long = None

    def _end_prepared(self) -> None:
        if self._prepared is not None:
            self._session.execute(f"commit prepared '{self._prepared}'")
            self._prepared = None


def joining_table(table: str, failpoint: str) -> str:
    """SQL that makes a table of 100 rows: as large (6 MiB) as it must be for this place in its joining."""
    width = 2000 if failpoint == "capture.join_rows_sent" else 1
    return (
        f"create table {table} (id int primary key, n int, pad text);"
        f" alter table {table} alter column pad set storage external;"
        f" insert into {table} select i, 0, repeat(md5(i::text), {width}) from generate_series(1, 100) i"
    )
