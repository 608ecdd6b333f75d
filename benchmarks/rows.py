"""Rows a second through the compiled row code, for a table like a CRM's.

    python benchmarks/rows.py [ROWS]

Encode: pgoutput TupleData → Avro. Decode: Avro → PostgreSQL's text. One thread, best of five rounds; the
rows are all different in id, name, amount and times.
"""

from __future__ import annotations

import gc
import random
import sys
import time
from collections.abc import Callable

from schemas.avro import key_encoder, row_decoder, row_encoder
from schemas.pgtime import format_timestamp
from schemas.table import Column, ReplicaIdentity, TableSchema

COLUMNS = [
    ("id", 23, "integer"),
    ("company_id", 23, "integer"),
    ("owner_id", 23, "integer"),
    ("name", 1043, "character varying(120)"),
    ("email", 1043, "character varying(200)"),
    ("phone", 1043, "character varying(40)"),
    ("stage", 1043, "character varying(20)"),
    ("amount", 1700, "numeric(16,2)"),
    ("active", 16, "boolean"),
    ("created_at", 1114, "timestamp(6) without time zone"),
    ("updated_at", 1114, "timestamp(6) without time zone"),
    ("comment", 25, "text"),
    ("lost_reason", 25, "text"),
    ("closed_on", 1082, "date"),
]
TABLE = TableSchema(
    "public",
    "opportunity",
    ReplicaIdentity.DEFAULT,
    tuple(Column(name, oid, -1, sql, name == "id") for name, oid, sql in COLUMNS),
)
NOW_US = 1_750_000_000_000_000


def make_values(number: int, chance: random.Random) -> list[bytes | None]:
    """A row of the table above in PostgreSQL's text; two columns are NULL."""
    return [
        b"%d" % (100_000 + number),
        b"%d" % chance.randrange(8000),
        b"%d" % chance.randrange(60),
        b"Company %d Ltd" % chance.randrange(10**6),
        b"person%d@example.com" % number,
        b"+49 30 %07d" % chance.randrange(10**7),
        chance.choice([b"lead", b"qualified", b"won", b"lost"]),
        b"%d.%02d" % (chance.randrange(10**5), chance.randrange(100)),
        chance.choice([b"t", b"f"]),
        format_timestamp(NOW_US - chance.randrange(10**14)),
        format_timestamp(NOW_US + number * 1_000_003),
        b"Called them about the renewal, will decide after the summer break. " * chance.randrange(1, 4),
        None,
        None,
    ]


def tuple_data(values: list[bytes | None]) -> bytes:
    """As pgoutput sends a row."""
    columns = [b"n" if value is None else b"t" + len(value).to_bytes(4) + value for value in values]
    return len(values).to_bytes(2) + b"".join(columns)


def best_rate(work: Callable[[], object], rows: int) -> float:
    """Rows a second, the best of five rounds."""
    rounds = []
    for _ in range(5):
        start = time.perf_counter()
        work()
        rounds.append(time.perf_counter() - start)
    return rows / min(rounds)


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    chance = random.Random(1)
    values = [make_values(number, chance) for number in range(rows)]
    tuples = [tuple_data(row) for row in values]
    keys = [tuple_data([row[0], *[None] * (len(COLUMNS) - 1)]) for row in values]
    encode, decode, encode_key = row_encoder(TABLE), row_decoder(TABLE), key_encoder(TABLE)
    encoded = [encode(message, 0)[0] for message in tuples]
    gc.disable()
    rates = {
        "encode row": best_rate(lambda: [encode(message, 0)[0] for message in tuples], rows),
        "encode key": best_rate(lambda: [encode_key(message, 0)[0] for message in keys], rows),
        "decode row": best_rate(lambda: [decode(data, 0) for data in encoded], rows),
    }
    size = sum(map(len, tuples)) / rows
    print(f"{len(COLUMNS)} columns, {size:.0f} bytes a tuple, {sum(map(len, encoded)) / rows:.0f} as Avro")
    for what, rate in rates.items():
        print(f"{what:12} {rate:10,.0f} rows/s")


if __name__ == "__main__":
    main()
