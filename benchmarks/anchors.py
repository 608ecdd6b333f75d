"""What Keepstream is compared with, on the same servers: pg_recvlogical and native logical replication."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from benchmarks.servers import Servers, drop_subscription
from connectors.postgres.server import DECODING_MEMORY_BYTES

PUBLICATION = "anchor"
SUBSCRIPTION = "anchor"
RECVLOGICAL = "pg_recvlogical -f /dev/null, proto_version 1, messages true, binary false, 256 MB to decode in"
NATIVE = (
    "create subscription with (create_slot = false, copy_data = false), 256 MB to decode in, all else"
    " PostgreSQL's default"
)
_MEMORY = f"-c logical_decoding_work_mem={DECODING_MEMORY_BYTES >> 10}kB"
"""Their walsender's, as ours has it."""


def prepare_slots(source: str, tables: Sequence[str], slots: Sequence[str]) -> None:
    """The anchor's publication, of the same tables, and its slots."""
    listed = sql.SQL(", ").join(sql.Identifier("public", table) for table in tables)
    with psycopg.connect(source, autocommit=True) as connection:
        if not connection.execute("select from pg_publication where pubname = %s", [PUBLICATION]).fetchall():
            connection.execute(
                sql.SQL("create publication {} for table {}").format(sql.Identifier(PUBLICATION), listed)
            )
        for slot in slots:
            connection.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])


def receive(servers: Servers, source: str, slot: str, *, end: str) -> None:
    """Drain the slot with pg_recvlogical, with the options that capture passes (walsender.start_command)."""
    options = ("proto_version=1", f"publication_names={PUBLICATION}", "messages=true", "binary=false")
    command = [str(servers.source.binaries / "pg_recvlogical"), "-S", slot, "--start", "-n"]
    command += ["-d", make_conninfo(source, options=_MEMORY)]
    command += [argument for option in options for argument in ("-o", option)]
    subprocess.run([*command, "-f", "/dev/null", "--endpos", end], check=True, capture_output=True)


@contextmanager
def subscription(source: str, replica: str, slot: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A subscription that is ready and not yet enabled: `enable` starts it. Dropped with the block."""
    with psycopg.connect(replica, autocommit=True) as connection:
        connection.execute(
            sql.SQL(
                "create subscription {} connection {} publication {}"
                " with (enabled = false, create_slot = false, copy_data = false, slot_name = {})"
            ).format(
                sql.Identifier(SUBSCRIPTION),
                sql.Literal(make_conninfo(source, options=_MEMORY)),
                sql.Identifier(PUBLICATION),
                sql.Literal(slot),
            )
        )
        try:
            yield connection
        finally:
            drop_subscription(connection, SUBSCRIPTION)


def worker(connection: psycopg.Connection[tuple[object, ...]]) -> int:
    """The process that applies for it."""
    query = "select pid from pg_stat_subscription where subname = %s and pid is not null and relid is null"
    ((pid,),) = connection.execute(query, [SUBSCRIPTION]).fetchall()
    assert isinstance(pid, int)
    return pid


def enable(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Start the subscription's worker; the launcher is woken at once."""
    connection.execute(sql.SQL("alter subscription {} enable").format(sql.Identifier(SUBSCRIPTION)))
