"""The source server: is it one that changes can be captured from, and for how long can it wait for us?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from psycopg import sql

from connectors.postgres.instance import Instance
from connectors.postgres.replication.slot import time_to_full_s
from connectors.postgres.replication.walsender import Walsender
from connectors.postgres.server import Role, Server
from pipeline.app import source_conninfo
from pipeline.check.findings import SOURCE, Place, comment, losing
from pipeline.config import Config
from pipeline.quantities import human_bytes, human_seconds
from schemas.errors import KeepstreamError
from schemas.finding import Finding

OLDEST, NEWEST = 15, 18
"""Major versions that are tested."""
SENDERS_NEEDED: Final = 2  # the stream, and one snapshot at a time
CONNECTIONS_NEEDED: Final = 10
STANDBYS_FIRST: Final = "then restart the server, behind its standbys, which go on only with as many"
RELOAD: Final = "select pg_reload_conf();"
SHORT_OF_SLOT_S: Final = 6 * 3600
WEEKEND_S: Final = 3 * 86400
SMALLEST_ROOM_BYTES: Final = 10 * 1024**3
SHORTEST_SENDER_TIMEOUT_S: Final = 20.0  # we answer every 10 s at least (P9)


def check_source(
    server: Server, instance: Instance, role: Role, config: Config, *, established: bool
) -> Iterator[Finding]:
    """The server, its limits and our role there. `established`: our slot exists, and to keep capture from it
    for what only a copy lacks would let it grow."""
    yield check_version(SOURCE, server)
    if server.in_recovery:
        yield SOURCE.error(
            "source-is-standby",
            "recovery",
            "the server is a standby, where neither a publication nor a mark can be written",
            fix="Connect to the primary: add target_session_attrs=primary to source.url.",
        )
    yield _wal_level(server)
    yield _slots(server, established=established, copies=bool(config.replicas))
    yield _senders(server, established=established)
    yield check_connections(SOURCE, instance)
    yield from _role(role, instance, config)
    yield _encoding(server, instance)
    yield from _slot_limits(server, instance)
    yield from _timeouts(server, role)
    yield from _prepared(instance)


def check_version(place: Place, server: Server) -> Finding:
    """Of the source or a replica."""
    if server.major < OLDEST:
        return place.error(
            "version-unsupported",
            "version",
            f"PostgreSQL {server.version_name} is older than {OLDEST}",
            fix=f"Upgrade the server to PostgreSQL {OLDEST} or later.",
        )
    if server.major > NEWEST:
        return place.warning(
            "version-untested",
            "version",
            f"PostgreSQL {server.version_name} is newer than {NEWEST}, the newest tested",
        )
    return place.ok("version", "version", f"PostgreSQL {server.version_name}")


def _wal_level(server: Server) -> Finding:
    seen = server.wal_level
    if seen == "logical":
        return SOURCE.ok("wal-level", "wal_level", "is logical")
    return SOURCE.error(
        "wal-level",
        "wal_level",
        f"is {seen}, changes can be decoded only with logical",
        sql="alter system set wal_level = 'logical';  -- then restart the server",
    )


def _slots(server: Server, *, established: bool, copies: bool) -> Finding:
    limit, needed = server.max_replication_slots, int(not established) + int(copies)
    free = limit - server.slots_used
    if free >= needed:
        return SOURCE.ok("slots-free", "max_replication_slots", f"{free} of {limit} slots are free")
    return SOURCE.error(
        "slots-exhausted",
        "max_replication_slots",
        f"{free} of {limit} slots are free and {needed} are needed (one to stream, one for a copy at a time)",
        sql=f"alter system set max_replication_slots = {server.slots_used + needed + 2};"
        "  -- then restart the server; or drop a slot that nobody uses",
        blocks=not established,
    )


def _senders(server: Server, *, established: bool) -> Finding:
    limit = server.max_wal_senders
    free = limit - server.senders_used
    if free >= SENDERS_NEEDED - int(established):
        return SOURCE.ok("senders-free", "max_wal_senders", f"{free} of {limit} walsenders are free")
    return SOURCE.error(
        "senders-exhausted",
        "max_wal_senders",
        f"{free} of {limit} walsenders are free and {SENDERS_NEEDED} are needed",
        sql=f"alter system set max_wal_senders = {server.senders_used + SENDERS_NEEDED + 2};"
        f"  -- {STANDBYS_FIRST}",
    )


def check_connections(place: Place, instance: Instance) -> Finding:
    """Of the source or a replica."""
    limit = instance.max_connections
    free = limit - instance.connections_used
    if free >= CONNECTIONS_NEEDED:
        return place.ok("connections-free", "max_connections", f"{free} of {limit} connections are free")
    return place.warning(
        "connections-scarce",
        "max_connections",
        f"{free} of {limit} connections are free; a copy takes up to {CONNECTIONS_NEEDED}",
        sql=f"alter system set max_connections = {limit + 20};  -- {STANDBYS_FIRST}",
    )


def _role(role: Role, instance: Instance, config: Config) -> Iterator[Finding]:
    name = sql.Identifier(role.name).as_string()
    if not role.replication:
        yield SOURCE.error(
            "privilege-replication",
            "role",
            f"{role.name} may not replicate",
            sql=f"alter role {name} replication;\n" + comment(f"on RDS: grant rds_replication to {name};"),
        )
    else:
        yield _replication_login(role, config)
    limit = instance.connection_limit
    if 0 <= limit < CONNECTIONS_NEEDED:
        yield SOURCE.warning(
            "connection-limit",
            "role",
            f"{role.name} may have {limit} connections; a copy takes up to {CONNECTIONS_NEEDED}",
            sql=f"alter role {name} connection limit -1;",
        )


def _replication_login(role: Role, config: Config) -> Finding:
    """pg_hba.conf may let us in and yet not let us replicate: only trying tells."""
    try:
        Walsender(source_conninfo(config), purpose="check").close()
    except KeepstreamError as error:
        return SOURCE.caught(error, "replication login")
    return SOURCE.ok("privilege-replication", "role", f"{role.name} may replicate")


def _encoding(server: Server, instance: Instance) -> Finding:
    if server.encoding == "SQL_ASCII":
        return SOURCE.error(
            "encoding-unknown",
            "encoding",
            f"database {instance.database} is SQL_ASCII: nobody knows what its bytes mean",
            fix="Dump it and restore it into a database with the encoding that its texts really have.",
        )
    return SOURCE.ok("encoding", "encoding", f"database {instance.database} is {server.encoding}")


def _slot_limits(server: Server, instance: Instance) -> Iterator[Finding]:
    """How long capture may be away: until the disk is full, or until the slot is given up."""
    rate = instance.wal_bytes_per_s
    grows = (
        f"WAL grew {human_bytes(rate * 86400)} a day on average"
        if rate
        else "how fast WAL grows is not known yet"
    )
    if server.max_slot_wal_keep_bytes is None:
        yield SOURCE.warning(
            "slot-unlimited",
            "max_slot_wal_keep_size",
            f"is unlimited: while capture is down, the slot keeps WAL until the disk is full; {grows}",
            sql=_limiting(server.held_wal_bytes, rate),
        )
    else:
        yield _slot_time(server.max_slot_wal_keep_bytes, rate, grows)
    if server.idle_slot_timeout_s is not None:
        away = human_seconds(server.idle_slot_timeout_s)
        yield SOURCE.warning(
            "slot-idle-timeout",
            "idle_replication_slot_timeout",
            f"gives the slot up when capture is down for {away}; then all is copied anew",
            sql=comment(
                "lets any slot, not only ours, that nobody reads hold back WAL until the disk is full:"
                f" alter system set idle_replication_slot_timeout = 0;\n{RELOAD}"
            ),
        )


def _limiting(held_bytes: int, rate: float | None) -> str:
    """What the disk can spare, no server tells."""
    room_bytes = max(2 * held_bytes, (rate or 0) * WEEKEND_S, SMALLEST_ROOM_BYTES)
    return losing(
        f"any slot, not only ours, that holds back more ({human_bytes(held_bytes)} is the most now), and the"
        " disk must have room for it",
        f"alter system set max_slot_wal_keep_size = '{math.ceil(room_bytes / 1024**3)}GB';\n{RELOAD}",
    )


def _slot_time(room_bytes: int, rate: float | None, grows: str) -> Finding:
    left_s = time_to_full_s(room_bytes, rate or 0)
    said = f"the slot is given up after {human_bytes(room_bytes)} of WAL; {grows}"
    if left_s is None or left_s >= SHORT_OF_SLOT_S:
        after = f": capture may be down for {human_seconds(left_s)}" if left_s else ""
        return SOURCE.ok("slot-room", "max_slot_wal_keep_size", said + after)
    return SOURCE.warning(
        "slot-room-short",
        "max_slot_wal_keep_size",
        f"{said}: capture may be down for only {human_seconds(left_s)}",
        sql=comment(
            "lets any slot, not only ours, take more of the disk, which must have room for it:"
            f" alter system set max_slot_wal_keep_size = '{room_bytes * 4 >> 20}MB';\n{RELOAD}"
        ),
    )


def _timeouts(server: Server, role: Role) -> Iterator[Finding]:
    timeout_s = server.wal_sender_timeout_s
    if timeout_s is not None and timeout_s < SHORTEST_SENDER_TIMEOUT_S:
        yield SOURCE.warning(
            "sender-timeout-short",
            "wal_sender_timeout",
            f"is {human_seconds(timeout_s)}; we answer every 10 s, so a short pause ends the stream",
            sql=f"alter role {sql.Identifier(role.name).as_string()} set wal_sender_timeout = '60s';",
        )
    yield SOURCE.note(
        "decoding-memory",
        "logical_decoding_work_mem",
        f"open transactions beyond {human_bytes(server.decoding_memory_bytes)} are spilled to the"
        " source's disk",
    )


def _prepared(instance: Instance) -> Iterator[Finding]:
    if instance.old_prepared:
        gids = instance.old_prepared
        yield SOURCE.warning(
            "prepared-transactions",
            "prepared transactions",
            f"{len(gids)} stand open, the oldest is {gids[0]!r}: slot and copy wait until they are ended;"
            " to roll one back loses what it wrote",
            sql="\n".join(
                losing("what it wrote", f"rollback prepared {_text(gid)};")
                + "\n"
                + comment(f"or: commit prepared {_text(gid)};")
                for gid in gids
            ),
        )


def _text(value: str) -> str:
    return sql.Literal(value).as_string()
