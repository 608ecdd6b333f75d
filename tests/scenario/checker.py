"""What really happened on the source, and whether a replica shows a prefix of it.

Trusts nothing of Keepstream: a logical slot of its own gives the source's transactions in commit order,
pgoutput is decoded here by the simplest code that does it, and a replica is compared, row by row, with
what those transactions make of empty tables. Only the replica's position is read from
`keepstream.progress`: the claim that is being checked.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import islice
from typing import Any

import psycopg
from psycopg import sql

from tests.fix_postgres import Database

UNCHANGED = object()
_LATE = """
    select count(*) from
        (select born, lag(born) over (order by (to_jsonb(m) ->> 'arrived')::bigint) as before
           from only moving m where to_jsonb(m) ? 'arrived') o
     where born < before
"""
_PINNED = "set timezone = 'UTC'; set datestyle = 'ISO, MDY'; set extra_float_digits = 1"

Values = tuple[Any, ...]
"""A row: each value as PostgreSQL's text, None, or UNCHANGED."""


class Verdict(Enum):
    """What is wrong. `stuck`: nothing is, but it does not go on."""

    LOST = "lost"
    DUPLICATED = "duplicated"
    TORN = "torn"
    STUCK = "stuck"


class Violation(AssertionError):
    """A promise was broken."""

    def __init__(self, verdict: Verdict, what: str) -> None:
        super().__init__(what)
        self.verdict = verdict


def parse_lsn(text: str) -> int:
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


@dataclass(frozen=True)
class Relation:
    """What a Relation message says. `key`: indexes of the columns that name a row; () if all do."""

    name: str
    columns: tuple[str, ...]
    key: tuple[int, ...]

    def key_of(self, row: Values) -> Values:
        return tuple(row[index] for index in self.key)


@dataclass(frozen=True)
class Happening:
    """One row change: `kind` is I, U, D or T; for T `relations` are those truncated."""

    kind: str
    relations: tuple[Relation, ...]
    old: Values | None = None
    new: Values | None = None


@dataclass(frozen=True)
class Committed:
    """One transaction of the source. `messages`: how many pgoutput messages it has but for BEGIN,
    COMMIT, descriptions and changes of tables that came into being later: those are in the log only after
    they have joined."""

    xid: int
    commit_lsn: int
    end_lsn: int
    messages: int
    happenings: tuple[Happening, ...]


class Scanner:
    """Reads the fields of one pgoutput message."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, layout: str) -> Any:
        (value,) = struct.unpack_from(f">{layout}", self._data, self._at)
        self._at += struct.calcsize(f">{layout}")
        return value

    def kind(self) -> str:
        return chr(self.take("B"))

    def text(self) -> str:
        end = self._data.index(0, self._at)
        start, self._at = self._at, end + 1
        return self._data[start:end].decode()

    def row(self) -> Values:
        return tuple(self._value() for _ in range(self.take("H")))

    def _value(self) -> Any:
        kind = self.kind()
        if kind == "n":
            return None
        if kind == "u":
            return UNCHANGED
        length = self.take("I")
        start, self._at = self._at, self._at + length
        return self._data[start : self._at].decode()


class PgoutputReader:
    """Messages in, transactions out. `tables`: whose changes are counted."""

    def __init__(self, tables: Collection[str]) -> None:
        self._tables = tables
        self._relations: dict[int, Relation] = {}

    def read(self, messages: Sequence[bytes]) -> Iterator[Committed]:
        happenings: list[Happening] = []
        xid = count = 0
        for message in messages:
            scan = Scanner(message)
            kind = scan.kind()
            if kind == "B":
                scan.take("Q"), scan.take("q")
                happenings, count, xid = [], 0, scan.take("I")
            elif kind == "C":
                scan.take("B")
                commit_lsn, end_lsn = scan.take("Q"), scan.take("Q")
                yield Committed(xid, commit_lsn, end_lsn, count, tuple(happenings))
            elif kind == "R":
                self._learn(scan)
            elif kind in "IUDT":
                happenings.append(self._happening(kind, scan))
                count += any(one.name in self._tables for one in happenings[-1].relations)
            elif kind == "M":
                count += scan.take("B")  # transactional: 1

    def _learn(self, scan: Scanner) -> None:
        oid = scan.take("I")
        schema, name, identity = scan.text(), scan.text(), scan.kind()
        columns, key = [], []
        for index in range(scan.take("H")):
            if scan.take("B"):
                key.append(index)
            columns.append(scan.text())
            scan.take("I"), scan.take("i")
        self._relations[oid] = Relation(
            f"{schema}.{name}", tuple(columns), () if identity == "f" else tuple(key)
        )

    def _happening(self, kind: str, scan: Scanner) -> Happening:
        if kind == "T":
            count = scan.take("I")
            scan.take("B")
            return Happening(kind, tuple(self._relations[scan.take("I")] for _ in range(count)))
        relation = self._relations[scan.take("I")]
        old, tag = None, scan.kind()
        if tag in "KO":
            old = scan.row()
            tag = scan.kind() if kind == "U" else ""
        return Happening(kind, (relation,), old, scan.row() if tag == "N" else None)


class Model:
    """Tables as the transactions so far have made them. A row without key is counted."""

    def __init__(self) -> None:
        self._keyed: dict[str, dict[Values, Values]] = {}
        self._counted: dict[str, Counter[Values]] = {}

    def copy(self) -> Model:
        """The same tables, which then go ways of their own."""
        copied = Model()
        copied._keyed = {table: dict(rows) for table, rows in self._keyed.items()}
        copied._counted = {table: Counter(rows) for table, rows in self._counted.items()}
        return copied

    def apply(self, transaction: Committed) -> None:
        for happening in transaction.happenings:
            if happening.kind == "T":
                for relation in happening.relations:
                    self._keyed.pop(relation.name, None)
                    self._counted.pop(relation.name, None)
            elif happening.relations[0].key:
                self._change_keyed(happening)
            else:
                self._change_counted(happening)

    def rows(self, table: str) -> Counter[Values]:
        if table in self._keyed:
            return Counter(self._keyed[table].values())
        return +self._counted.get(table, Counter())

    def _change_keyed(self, happening: Happening) -> None:
        relation = happening.relations[0]
        rows = self._keyed.setdefault(relation.name, {})
        before: Values | None = None
        if happening.kind != "I":
            named = happening.old or happening.new
            assert named is not None
            before = rows.pop(relation.key_of(named))
        if happening.new is not None:
            after = _filled(happening.new, before)
            assert relation.key_of(after) not in rows
            rows[relation.key_of(after)] = after

    def _change_counted(self, happening: Happening) -> None:
        rows = self._counted.setdefault(happening.relations[0].name, Counter())
        if happening.old is not None:
            assert rows[happening.old] > 0
            rows[happening.old] -= 1
        if happening.new is not None:
            rows[_filled(happening.new, happening.old)] += 1


def _filled(row: Values, before: Values | None) -> Values:
    if UNCHANGED not in row:
        return row
    assert before is not None
    return tuple(old if new is UNCHANGED else new for new, old in zip(row, before, strict=True))


class History:
    """All that was committed on a source since it was made, read through a slot of its own."""

    def __init__(self, source: Database, tables: Collection[str]) -> None:
        self.committed: list[Committed] = []
        self._forgotten = 0
        self._name = f"witness_{source.name}"
        self._reader = PgoutputReader(tables)
        self._source = source
        self._session = self._connect()
        self._session.execute(f"create publication {self._name} for all tables")
        self._session.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [self._name])

    def reconnect(self) -> None:
        """After the source's end. What was read before may come again."""
        self._session.close()
        self._session = self._connect()

    def forget(self, count: int) -> None:
        """Give up what the first transactions changed; that they were is kept."""
        for index in range(self._forgotten, count):
            self.committed[index] = replace(self.committed[index], happenings=())
        self._forgotten = max(self._forgotten, count)

    def learn(self) -> None:
        """Read what was committed since the last time."""
        last = self.committed[-1].end_lsn if self.committed else 0
        found = self._session.execute(
            "select data from pg_logical_slot_get_binary_changes(%s, null, null, 'proto_version', '1',"
            " 'publication_names', %s, 'messages', 'true')",
            [self._name, self._name],
        )
        self.committed += [
            transaction
            for transaction in self._reader.read([data for (data,) in found])
            if transaction.end_lsn > last  # a slot may go back when its server crashes
        ]

    def confirmed(self, slot: str) -> int:
        """What Keepstream's slot says that the source may forget."""
        row = self._session.execute(
            "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = %s", [slot]
        ).fetchone()
        return parse_lsn(row[0]) if row and row[0] else 0

    def close(self) -> None:
        self._session.close()

    def _connect(self) -> psycopg.Connection[Values]:
        session: psycopg.Connection[Values] = psycopg.connect(self._source.admin_dsn, autocommit=True)
        session.execute(_PINNED)
        return session


@dataclass(frozen=True)
class Sample:
    """A replica at one moment: where it says that it stands, and all its rows."""

    position: int
    rows: dict[str, Counter[Values]]


def read_rows(session: psycopg.Connection[Values], table: str) -> Counter[Values]:
    """All rows, every value as text, but for what the replica has for itself (`workload.REPLICA_SCHEMA`)."""
    schema, name = table.split(".")
    found = session.execute(
        "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped"
        " and attname <> 'arrived' order by attnum",
        [table],
    ).fetchall()
    columns = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column)) for (column,) in found)
    query = sql.SQL("select {} from only {}").format(columns, sql.Identifier(schema, name))
    return Counter(session.execute(query).fetchall())


def _require_order(session: psycopg.Connection[Values]) -> None:
    """Rows of `moving` have arrived as they were born; a copy that does not have the column says nothing."""
    ((late,),) = session.execute(_LATE).fetchall()
    if late:
        raise Violation(
            Verdict.TORN, f"{late} rows of moving lost the replica's own value, or kept another's"
        )


@dataclass
class Witness:
    """Watches one replica, and compares what it saw with the true history."""

    history: History
    replica: Database
    name: str
    tables: tuple[str, ...]
    samples: list[Sample] = field(default_factory=list)
    _model: Model = field(default_factory=Model)
    _applied: int = 0
    _last_position: int = 0

    def look(self) -> Sample | None:
        """One sample, in one snapshot; None while the replica is not there yet."""
        with psycopg.connect(self.replica.admin_dsn) as session:
            session.execute(_PINNED)
            session.commit()
            session.execute("set transaction isolation level repeatable read")
            row = self._position(session)
            if row is None:
                return None
            rows = {table: read_rows(session, table) for table in self.tables}
            _require_order(session)
        sample = Sample(parse_lsn(row[0]), rows)
        self.samples.append(sample)
        return sample

    def judge(self) -> int:
        """Every sample must be what the history up to its position makes, and none go back."""
        self.history.learn()
        judged = len(self.samples)
        for sample in self.samples:
            if sample.position < self._last_position:
                self._went_back(sample)
            self._last_position = sample.position
            self._advance(sample.position)
            for table in self.tables:
                _assert_same(f"{table} at {sample.position:X}", sample.rows[table], self._model.rows(table))
        self.samples.clear()
        return judged

    def _went_back(self, sample: Sample) -> None:
        seen = f"the replica went back from {self._last_position:X} to {sample.position:X}"
        raise Violation(Verdict.LOST, seen)

    def _position(self, session: psycopg.Connection[Values]) -> Values | None:
        """Locks first, then the snapshot: a TRUNCATE makes a table empty for older snapshots, too."""
        try:
            for table in self.tables:
                session.execute(f"lock table only {table} in access share mode")
            return session.execute(
                "select position::text from keepstream.progress where name = %s and state = 'streaming'",
                [self.name],
            ).fetchone()
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            return None

    def _advance(self, position: int) -> None:
        for transaction in islice(self.history.committed, self._applied, None):
            if transaction.commit_lsn >= position:
                return
            self._model.apply(transaction)
            self._applied += 1


def assert_equal_now(source: Database, replica: Database, tables: Sequence[str]) -> int:
    """Nobody writes now: both sides hold the same rows. Returns how many."""
    rows = 0
    with psycopg.connect(source.admin_dsn) as one, psycopg.connect(replica.admin_dsn) as other:
        for session in (one, other):
            session.execute(_PINNED)
        for table in tables:
            seen = read_rows(other, table)
            _assert_same(f"{table} at the end", seen, read_rows(one, table))
            rows += seen.total()
    return rows


def _assert_same(what: str, seen: Counter[Values], expected: Counter[Values]) -> None:
    if seen == expected:
        return
    extra, missing = seen - expected, expected - seen
    verdict = Verdict.TORN if extra and missing else Verdict.DUPLICATED if extra else Verdict.LOST
    raise Violation(
        verdict,
        f"{what}: {extra.total()} rows too many, {missing.total()} missing;"
        f" {_some(extra)} instead of {_some(missing)}",
    )


def _some(rows: Counter[Values]) -> str:
    return str([tuple(str(value)[:40] for value in row) for row in islice(rows, 3)])
