"""`teardown`: what the pipeline made outside of its tables, and removing it. Rows on replicas stay.

The slot goes first, because it is what can hurt the source, the log last. Each step finds what the one
before left and removes nothing twice, so that a teardown that was cut off is simply called again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from psycopg import sql

from connectors.interfaces import ChangeLog
from connectors.postgres.activity import read_sessions
from connectors.postgres.catalog import publication as publications
from connectors.postgres.ddl.install import uninstall
from connectors.postgres.ddl.installed import read_installed, used_by_others
from connectors.postgres.instance import has_role
from connectors.postgres.replica import progress
from connectors.postgres.replication import slot as slots
from connectors.postgres.session import Session, connect, limit_waits, wrapped
from pipeline import purposes
from pipeline.app import open_log, replica_conninfo, source_conninfo
from pipeline.capture.history.source import slot_foreign
from pipeline.config import Config
from pipeline.control.judgement import judge_status
from pipeline.control.observation import Observation, ReplicaSeen
from pipeline.control.observer import Observer
from pipeline.control.status import Status
from pipeline.reports import StageState
from schemas.errors import OperatorNeeded, RetryLater

_GONE = (StageState.STOPPED, None)
LOOK_S = 20.0
"""Longer than `status` takes: here an answer that comes late is better than none."""
LINGER_S = 5.0
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Thing:
    """Something that would be removed. `kind`: slot, publication, event triggers, progress row, log."""

    kind: str
    name: str
    where: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name} ({self.where})"


@dataclass(frozen=True, slots=True)
class Removal:
    """Of a thing: it goes; or, if `sql` is set, is left to its owner, who runs that (SQL, or a command)."""

    thing: Thing
    sql: str = ""


def list_removals(config: Config) -> list[Removal]:
    """What `remove_all` would do now. Raises RetryLater and others if a server cannot be looked at."""
    return [*_on_source(config), *_on_replicas(config), *_in_log(config)]


def require_stopped(config: Config) -> None:
    """Raises OperatorNeeded (`pipeline-active`) while a stage runs, RetryLater (`no-answer`, …) if that
    cannot be known. Sessions of a stage that has just ended get `LINGER_S` to go."""
    deadline = time.monotonic() + LINGER_S
    with closing(Observer(config)) as observer:
        while True:
            seen = observer.look(timeout_s=LOOK_S)
            status = judge_status(seen)
            _require_answers(status)
            running, sessions = list(_running(status)), list(_sessions(seen)) or list(_begun(config))
            if not running and not sessions:
                return
            if running or time.monotonic() > deadline:
                raise _still_active(running or sessions)
            time.sleep(_POLL_S)


def _require_answers(status: Status) -> None:
    for finding in status.findings:
        if finding.severity == "error":
            if finding.code == "log-permission":
                raise OperatorNeeded(
                    f"{finding.where}: {finding.message}", code=finding.code, hint=finding.hint
                )
            raise RetryLater(
                f"{finding.where}: {finding.message}",
                code=finding.code,
                hint="Nothing was removed. Bring it back, or take a replica that is gone for good out of the"
                " configuration.",
            )


def _still_active(running: list[str]) -> OperatorNeeded:
    return OperatorNeeded(
        f"the pipeline is running: {', '.join(running)}",
        code="pipeline-active",
        hint="Nothing was removed. End `keepstream run` (or capture and apply) with SIGTERM or Ctrl-C"
        " first. A process that was killed counts as running for 15 s, and one whose host is gone until its"
        " session ends: select pg_terminate_backend(PROCESS);",
    )


def remove_all(config: Config) -> Iterator[Removal]:
    """Remove everything that `list_removals` lists. Call `require_stopped` first."""
    yield from _clear_source(config)
    for name in config.replicas:
        yield from _clear_replica(config, name)
    yield from _in_log(config, remove=True)


def _running(seen: Status) -> Iterator[str]:
    stages = {"capture": seen.capture} | {name: replica.stage for name, replica in seen.replicas.items()}
    for name, stage in stages.items():
        if stage.state not in _GONE:
            process = f", process {stage.report.pid} on {stage.report.host}" if stage.report else ""
            yield f"{name} is {stage.state}{process}"


def _sessions(seen: Observation) -> Iterator[str]:
    """What stages hold on the servers. One that has just begun holds it before its first report."""
    slot = seen.own_slot
    if slot is not None and slot.active_pid is not None:
        yield f"slot {slot.name} is in use by process {slot.active_pid} of the source"
    for name, replica in seen.replicas.items():
        row = replica.progress if isinstance(replica, ReplicaSeen) else None
        if row is not None and row.alive:
            yield f"{name} has an applier's session"


def _begun(config: Config) -> Iterator[str]:
    """Sessions of a `run`, and of stages that hold nothing yet."""
    copies = [purposes.copy(config.name, replica) for replica in config.replicas]
    with _source(config) as session:
        wanted = [purposes.run(config.name), purposes.capture(config.name), *copies]
        for name, process in read_sessions(session, wanted):
            yield f"{name} has a session on the source (process {process})"
    for replica, copy in zip(config.replicas, copies, strict=True):
        with _replica(config, replica) as session:
            for name, process in read_sessions(session, [purposes.apply(config.name, replica), copy]):
                yield f"{name} has a session on replica {replica} (process {process})"


def _on_source(config: Config) -> Iterator[Removal]:
    with _source(config) as session:
        if _our_slot(session, config.slot_name):
            yield Removal(Thing("slot", config.slot_name, "source"))
        publication = publications.read_publication(session, config.publication_name)
        if publication is not None:
            yield _of_publication(publication.name, ours=has_role(session, publication.owner))
        yield from _of_triggers(session, config)


def _of_triggers(session: Session, config: Config, *, remove: bool = False) -> Iterator[Removal]:
    """The event triggers, unless another pipeline follows schema changes by them."""
    found = read_installed(session)
    if found is None or used_by_others(session, config.slot_name):
        return
    ours = has_role(session, found.owner)
    if ours and remove:
        uninstall(session)
    yield Removal(
        Thing("event triggers", "of keepstream schema", "source"),
        sql="" if ours else "keepstream schema uninstall --print | psql 'CONNECTION'",
    )


def _our_slot(session: Session, name: str) -> bool:
    """Whether there is a slot that a capture of this configuration could have made."""
    slot = slots.read_slot(session, name)
    if slot is None:
        return False
    if slot.foreign:
        error = slot_foreign(slot, promised=False)
        raise OperatorNeeded(error.message, code=error.code, hint=f"Nothing was removed. {error.hint}")
    return True


def _on_replicas(config: Config) -> Iterator[Removal]:
    for replica in config.replicas:
        with _replica(config, replica) as session:
            row = progress.read(session, config.name)
        if row is not None:
            yield _of_progress(config, replica, row)


def _in_log(config: Config, *, remove: bool = False) -> Iterator[Removal]:
    with closing(open_log(config)) as log:
        if log.exists():
            yield _of_log(log, stays=log.destroy() if remove else "")
        elif log.reports():
            if remove:
                log.destroy()
            yield _of_reports(log)


def _of_publication(name: str, *, ours: bool) -> Removal:
    """`ours`: we have the rights of its owner."""
    statement = sql.SQL("drop publication {};").format(sql.Identifier(name)).as_string()
    return Removal(Thing("publication", name, "source"), sql="" if ours else statement)


def _of_progress(config: Config, replica: str, row: progress.Progress) -> Removal:
    return Removal(Thing("progress row", f"{config.name} at {row.position}", f"replica {replica}"))


def _of_reports(log: ChangeLog) -> Removal:
    """Of a log that somebody else deleted."""
    return Removal(Thing("status reports", log.name, "without the log"))


def _of_log(log: ChangeLog, *, stays: str = "") -> Removal:
    left = f"; {stays} stays" if stays else ""
    return Removal(Thing("log", log.name, f"with its status reports{left}"))


def _clear_source(config: Config) -> Iterator[Removal]:
    with _source(config) as session:
        name = config.slot_name
        if _our_slot(session, name) and _drop_slot(session, name):
            yield Removal(Thing("slot", name, "source"))
        if publications.read_publication(session, config.publication_name) is not None:
            yield _drop_publication(session, config.publication_name)
        yield from _of_triggers(session, config, remove=True)


def _drop_slot(session: Session, name: str) -> bool:
    try:
        return slots.drop_slot(session, name)
    except RetryLater as error:
        if error.code != "object-in-use":
            raise
        raise _still_active(["a capture has begun meanwhile"]) from error


def _drop_publication(session: Session, name: str) -> Removal:
    try:
        publications.drop_publication(session, name)
    except OperatorNeeded as error:
        if error.code != "privilege-missing":
            raise
        return _of_publication(name, ours=False)
    return _of_publication(name, ours=True)


def _clear_replica(config: Config, replica: str) -> Iterator[Removal]:
    with _replica(config, replica) as session:
        row = progress.read(session, config.name)
        if row is None:
            return
        with wrapped("removing the progress row"), session.transaction():
            progress.audit(
                session, config.name, "teardown", reason="keepstream teardown", position=row.position
            )
            progress.remove(session, config.name)
    yield _of_progress(config, replica, row)


def _source(config: Config) -> Session:
    return connect(source_conninfo(config), purpose=f"teardown:{config.name}")


def _replica(config: Config, replica: str) -> Session:
    session = connect(replica_conninfo(config, replica), purpose=f"teardown:{config.name}")
    limit_waits(session)
    return session
