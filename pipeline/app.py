"""What the configuration names, as the verbs need it: the log in its home, connection strings, and the
options of capture, apply, first copy, verify and snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from difflib import get_close_matches
from typing import TYPE_CHECKING

from schemas.errors import UsageError

if TYPE_CHECKING:
    from threading import Event

    from connectors.interfaces import ChangeLog
    from connectors.postgres.catalog.publication import TableName
    from pipeline.apply.awaited import CopyTables
    from pipeline.apply.options import ApplyOptions, Skip
    from pipeline.capture.options import CaptureOptions
    from pipeline.config import Config, Replica
    from pipeline.copy.stage import FirstCopyOptions
    from pipeline.reports import StageReport
    from pipeline.snapshot.recopy import OnProgress
    from pipeline.verify.meeting import VerifyOptions
    from pipeline.verify.watch import Tell
    from schemas.ddl.kinds import Kind, Policy
    from schemas.lsn import Lsn


def open_log(config: Config, *, patience_s: float | None = None) -> ChangeLog:
    """The change log of the file. Connects to nothing yet; the caller closes it. `patience_s`: how long a
    broker may be silent."""
    from connectors.log.open import open_log as open_by_url

    return open_by_url(
        config.log.url,
        config.name,
        replication=config.log.replication,
        client=config.log.client_settings(),
        patience_s=patience_s,
    )


def source_conninfo(config: Config) -> str:
    """libpq's connection string of the source, passwords included: for `session.connect` alone. Of several
    hosts it leads to the primary."""
    from connectors.postgres.failover.hosts import to_primary

    return to_primary(config.source.url.reveal())


def replica_conninfo(config: Config, name: str) -> str:
    """The same of a replica. Raises UsageError (`replica-unknown`)."""
    return replica_named(config, name).url.reveal()


def replica_named(config: Config, name: str) -> Replica:
    """A replica's settings. Raises UsageError (`replica-unknown`) that lists the names there are."""
    if name in config.replicas:
        return config.replicas[name]
    close = get_close_matches(name, config.replicas, n=1)
    known = ", ".join(config.replicas) or "none"
    raise UsageError(
        f"there is no replica `{name}` in the configuration",
        code="replica-unknown",
        hint=f"Did you mean `{close[0]}`? It names: {known}." if close else f"It names: {known}.",
    )


def capture_options(config: Config, log: ChangeLog, *, take_over: bool = False) -> CaptureOptions:
    """What the capture stage of this file needs."""
    from pipeline.capture.options import CaptureOptions, FollowingReplica, TrimOptions

    replicas = {
        name: FollowingReplica(replica.url.reveal(), replica.initial, replica.delay.total_seconds())
        for name, replica in config.replicas.items()
    }
    return CaptureOptions(
        name=config.name,
        source=source_conninfo(config),
        log=log,
        publication=config.publication_name,
        slot=config.slot_name,
        tables=config.source.tables,
        keyless=config.source.keyless,
        replicas=replicas,
        pg_bin=config.tools.pg_bin,
        take_over=take_over,
        failover=config.source.failover,
        partitions=config.source.partitions,
        trim=TrimOptions(lambda: open_log(config), config.log.retain),
    )


def apply_options(
    config: Config,
    log: ChangeLog,
    name: str,
    *,
    until_lsn: Lsn | None = None,
    until_time: int | None = None,
    skip: Skip | None = None,
    take_over: bool = False,
) -> ApplyOptions:
    """What the apply stage of one replica needs. Raises UsageError (`replica-unknown`)."""
    from pipeline.apply.options import ApplyOptions

    return ApplyOptions(
        name=config.name,
        replica=name,
        conninfo=replica_conninfo(config, name),
        log=log,
        delay_us=replica_named(config, name).delay // timedelta(microseconds=1),
        until_lsn=until_lsn,
        until_time=until_time,
        skip=skip,
        take_over=take_over,
        policies=policies(config, name),
        copy_tables=_copying(config, name, is_lasting=(until_lsn, until_time, skip) == (None, None, None)),
    )


def _copying(config: Config, name: str, *, is_lasting: bool) -> CopyTables | None:
    """How a replica's applier copies tables that await it; None: an operator does. `is_lasting`: it applies
    until it is told to stop, and not only up to a place."""
    if not (is_lasting and replica_named(config, name).copies_awaited):
        return None

    def copy(tables: Sequence[TableName], *, stop: Event, tell: Tell, on_progress: OnProgress) -> object:
        from pipeline.config.values import TablePattern
        from pipeline.snapshot.recopy import CopyWish
        from pipeline.snapshot.run import snapshot
        from pipeline.verify.scope import Scope

        options = verify_options(config, name, workers=1, timeout_s=None, verb="snapshot")
        wanted = tuple(TablePattern.naming(*table) for table in tables)
        return snapshot(
            replace(options, automatic=True),
            Scope(config.source.tables, config.source.keyless, wanted),
            CopyWish("by the applier itself: the table awaited its copy"),
            stop=stop,
            tell=tell,
            on_progress=on_progress,
        )

    return copy


def policies(config: Config, name: str) -> Mapping[Kind, Policy]:
    """What a replica does with each kind of schema change. Raises UsageError (`replica-unknown`)."""
    from pipeline.config.policies import merged

    return merged(config.schema_.policies, replica_named(config, name).schema_.policies)


def first_copy_options(config: Config, log: ChangeLog, name: str) -> FirstCopyOptions:
    """What the first copy of one replica needs. Raises UsageError (`replica-unknown`)."""
    from pipeline.copy.options import CopyOptions
    from pipeline.copy.stage import FirstCopyOptions

    copy = CopyOptions(
        pipeline=config.name,
        replica=name,
        source_conninfo=source_conninfo(config),
        replica_conninfo=replica_conninfo(config, name),
        stream=b"",
        place="",
        publication=config.publication_name,
        pg_bin=config.tools.pg_bin,
        policies=policies(config, name),
    )
    return FirstCopyOptions(log, copy, replica_named(config, name).initial)


def verify_options(
    config: Config,
    replica: str,
    *,
    workers: int,
    timeout_s: float | None,
    large_objects: bool = False,
    verb: str = "verify",
) -> VerifyOptions:
    """What a verification of this replica needs, or a snapshot. timeout_s None: long enough for a delay that
    it keeps.

    Raises UsageError (`replica-unknown`)."""
    from pipeline.verify.meeting import TIMEOUT_S, VerifyOptions

    delay_s = replica_named(config, replica).delay.total_seconds()
    return VerifyOptions(
        name=config.name,
        replica=replica,
        source_conninfo=source_conninfo(config),
        replica_conninfo=replica_conninfo(config, replica),
        publication=config.publication_name,
        slot=config.slot_name,
        reports=lambda: read_reports_of(config),
        delay_s=delay_s,
        workers=workers,
        timeout_s=TIMEOUT_S + delay_s if timeout_s is None else timeout_s,
        large_objects=large_objects,
        verb=verb,
    )


def read_reports_of(config: Config) -> Mapping[str, StageReport]:
    """The stages' newest reports, read on a log of its own."""
    from pipeline.board import read_reports

    with closing(open_log(config)) as log:
        return read_reports(log)
