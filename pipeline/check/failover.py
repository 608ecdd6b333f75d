"""What a failover of the source takes, beside `failover: true`: on the primary, and on each other host that
source.url names.

Nothing of it keeps capture from running. What lacks makes a failover end with `slot-missing` or
`source-other-timeline`, where all has to begin anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from psycopg import sql

from connectors.postgres.failover.hosts import Host, hosts
from connectors.postgres.failover.primary import require_failover_slots, started_at
from connectors.postgres.failover.standbys import HostSeen, Standbys, look_at_host, read_standbys
from connectors.postgres.replication.slot import SlotState
from connectors.postgres.replication.walsender import let_fail_over_command
from connectors.postgres.session import Session
from pipeline.app import source_conninfo
from pipeline.check.findings import SOURCE, comment
from pipeline.config import Config
from schemas.errors import ConfigError, KeepstreamError
from schemas.finding import Finding
from schemas.lsn import format_lsn

_RELOAD = "select pg_reload_conf();"


def check_failover(
    session: Session, slot: SlotState | None, config: Config, *, purpose: str
) -> Iterator[Finding]:
    """`slot`: ours, as it is now. Nothing where the configuration does not ask for it."""
    if not config.source.failover:
        return
    try:
        require_failover_slots(session.info.server_version)
    except ConfigError as error:
        yield SOURCE.caught(error, "failover")
        return
    if slot is not None and not slot.foreign and not slot.failover:
        yield _slot_cannot(slot)
    standbys = read_standbys(session)
    yield from _check_primary(standbys)
    named = hosts(source_conninfo(config))
    if len(named) == 1:
        yield from _check_feedback(standbys)
        yield SOURCE.note(
            "source-one-host",
            "url",
            f"names {named[0].name} alone: it has to lead to the new primary after a failover",
            fix="Name every server that may be promoted: host=a,b target_session_attrs=primary; or an address"
            " that moves with the primary.",
        )
        return
    here = started_at(session)
    for host in named:
        yield from _check_host(host, here, standbys, config.slot_name, purpose)


def _slot_cannot(slot: SlotState) -> Finding:
    return SOURCE.warning(
        "slot-without-failover",
        f"slot {slot.name}",
        "was made without FAILOVER: standbys have no copy of it",
        fix="Capture sets it when it starts: start it again. Or, while it is stopped: psql"
        f" 'host=… dbname={slot.database} replication=database' -c '{let_fail_over_command(slot.name)}'",
    )


def _check_primary(standbys: Standbys) -> Iterator[Finding]:
    if not standbys.slots:
        yield SOURCE.warning(
            "standby-slot-missing",
            "standbys",
            "there is no physical slot, and without one no standby keeps copies of slots",
            sql=comment(
                "keeps WAL on the source's disk whenever the standby is away:"
                " select pg_create_physical_replication_slot('standby', true);\n"
                "then on the standby: alter system set primary_slot_name = 'standby';"
            ),
        )
    yield from _check_awaited(standbys)


def _check_feedback(standbys: Standbys) -> Iterator[Finding]:
    """As far as the primary sees it."""
    for slot in standbys.slots:
        if slot.active and not slot.feedback:
            yield SOURCE.warning(
                "standby-feedback",
                f"slot {slot.name}",
                "its standby has hot_standby_feedback off: copies of slots there are invalidated",
                fix=f"Run on that standby: alter system set hot_standby_feedback = on; {_RELOAD}",
            )


def _check_awaited(standbys: Standbys) -> Iterator[Finding]:
    subject, known = "synchronized_standby_slots", {slot.name for slot in standbys.slots}
    away = standbys.away
    if away:
        gone = [name for name in away if name not in known]
        yield SOURCE.warning(
            "standby-away",
            subject,
            f"awaits {', '.join(away)}, and no standby reads from there: capture gets nothing meanwhile",
            sql=_await([name for name in standbys.awaited if name not in gone]) if gone else "",
            fix="Start that standby, or take its slot out of synchronized_standby_slots.",
        )
    missed = [slot.name for slot in standbys.slots if slot.active and slot.name not in standbys.awaited]
    if missed:
        yield SOURCE.warning(
            "standby-not-awaited",
            subject,
            f"does not name {', '.join(missed)}: the log may get ahead of that standby, and after its"
            " promotion the pipeline would stop",
            sql=_await([*standbys.awaited, *missed]),
        )
    if not away and not missed and standbys.slots:
        yield SOURCE.ok("standbys-awaited", subject, f"names {', '.join(standbys.awaited) or 'none'}")


def _await(names: Sequence[str]) -> str:
    value = sql.Literal(", ".join(names)).as_string()
    return comment(
        "lets no slot that can fail over, not only ours, go on while one of these standbys is away:"
        f" alter system set synchronized_standby_slots = {value};\n{_RELOAD}"
    )


def _check_host(host: Host, here: str, standbys: Standbys, slot: str, purpose: str) -> Iterator[Finding]:
    subject = f"standby {host.name}"
    try:
        seen = look_at_host(host, slot=slot, purpose=purpose)
    except KeepstreamError as error:
        yield SOURCE.warning(
            "standby-unknown", subject, f"cannot be looked at: {error.message}", fix=error.hint
        )
        return
    if seen.started == here:
        return
    if not seen.in_recovery:
        yield SOURCE.error(
            "source-two-primaries",
            subject,
            "is a primary, too: what is written to one of the two is lost",
            fix="Stop the one that is not to be written to any more, and make it a standby of the other.",
        )
        return
    lacking = list(_lacking(seen, standbys, subject))
    yield from lacking
    if not lacking:
        yield _copy_of(seen, subject, slot)


def _lacking(seen: HostSeen, standbys: Standbys, subject: str) -> Iterator[Finding]:
    """What would keep the slot from living on there."""
    if seen.wal_level != "logical":
        yield SOURCE.warning(
            "standby-wal-level",
            subject,
            f"has wal_level {seen.wal_level}: nothing can be decoded there after its promotion",
            fix="Run there: alter system set wal_level = 'logical'; and restart it.",
        )
    if not seen.synchronises:
        yield SOURCE.warning(
            "standby-not-synchronising",
            subject,
            "has sync_replication_slots off: it keeps no copies of slots",
            fix=f"Run there: alter system set sync_replication_slots = on; {_RELOAD}",
        )
    if not seen.feedback:
        yield SOURCE.warning(
            "standby-feedback",
            subject,
            "has hot_standby_feedback off: copies of slots there are invalidated",
            fix=f"Run there: alter system set hot_standby_feedback = on; {_RELOAD}",
        )
    if seen.primary_slot not in {slot.name for slot in standbys.slots}:
        yield SOURCE.warning(
            "standby-without-slot",
            subject,
            f"has primary_slot_name {seen.primary_slot!r}, and the primary has no such physical slot",
            fix="Run on the primary: select pg_create_physical_replication_slot('standby', true); and there:"
            f" alter system set primary_slot_name = 'standby'; {_RELOAD}",
        )
    if seen.primary_dbname == "":
        yield SOURCE.warning(
            "standby-without-dbname",
            subject,
            "names no dbname in its primary_conninfo: it cannot read the primary's slots",
            fix=f"Add dbname=… to primary_conninfo there, and run: {_RELOAD}",
        )
    if seen.awaited:
        yield SOURCE.warning(
            "standby-awaits",
            subject,
            f"has synchronized_standby_slots {', '.join(seen.awaited)}: promoted, it hands on nothing until"
            " standbys read from slots of these names there",
            fix=f"Run there: alter system set synchronized_standby_slots = ''; {_RELOAD}",
        )


def _copy_of(seen: HostSeen, subject: str, slot: str) -> Finding:
    copy = seen.copy
    if copy is None or not copy.synced or copy.temporary:
        return SOURCE.warning(
            "standby-copy-missing",
            subject,
            f"has no copy of slot {slot} that would outlive its promotion yet",
            fix="A copy is ready some seconds after capture has made the slot and moved it on. If it stays"
            " away, look into that standby's log for the slot sync worker: dbname in primary_conninfo, the"
            " login of its user.",
        )
    if copy.lost:
        return SOURCE.warning(
            "standby-copy-lost",
            subject,
            f"its copy of slot {slot} was invalidated: {copy.invalidation_reason}",
            fix="It makes another by itself. If that one is lost, too: raise max_slot_wal_keep_size and"
            " idle_replication_slot_timeout there.",
        )
    at = "unknown" if copy.confirmed_flush_lsn is None else format_lsn(copy.confirmed_flush_lsn)
    return SOURCE.ok("standby-ready", subject, f"has a copy of slot {slot}, at {at}")
