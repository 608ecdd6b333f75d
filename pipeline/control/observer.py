"""Looks at source, log and replicas, all at once, each within a deadline.

One thread a server, so that one that hangs delays nobody: what has not answered in time counts as
unreachable for this look. Sessions stay open from look to look.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from dataclasses import replace
from threading import Thread
from typing import Any, Generic, TypeVar

from connectors.interfaces import ChangeLog
from connectors.postgres.catalog.publication import publication_identity, read_publication
from connectors.postgres.catalog.tables import list_tables
from connectors.postgres.ddl import left_out
from connectors.postgres.failover.primary import require_primary
from connectors.postgres.failover.standbys import read_standbys, read_timeline
from connectors.postgres.replica import progress
from connectors.postgres.replication import slot as slots
from connectors.postgres.session import Session, connect, wrapped
from pipeline.app import open_log, replica_conninfo, source_conninfo
from pipeline.board import read_reports
from pipeline.config import Config
from pipeline.control.observation import LogSeen, Observation, ReplicaSeen, SourceSeen, is_end_needed
from pipeline.logend import find_end
from pipeline.processes import lives, started_at
from pipeline.reports import NotReplicated, StageReport
from pipeline.selection import is_by_root, select_tables
from schemas.errors import InternalError, KeepstreamError, RetryLater
from schemas.lsn import Lsn
from schemas.validity import Chain

LOOK_S = 3.5
AGAIN_S = 1.0
BROKER_S = 2.0
"""How long a broker is waited for: less than a look takes, so that what it says comes into it."""
SHORTEST_LOOK_S = BROKER_S + 0.5
RATE_WINDOW_S = 0.2
"""How far apart the two readings of the insert LSN are that a single look takes a rate from."""

CATALOG_EVERY_S = 60.0
_START_S = 0.5

Seen = TypeVar("Seen")


def first_look_s() -> float:
    """How long the first look may take: what this process has needed to start comes off."""
    started = started_at(os.getpid())
    if started is None:
        return LOOK_S
    runs_s = time.clock_gettime(time.CLOCK_BOOTTIME) - int(started) / os.sysconf("SC_CLK_TCK")
    return max(SHORTEST_LOOK_S, LOOK_S + _START_S - runs_s)


class Observer:
    """Looks again and again. Not thread-safe; `close` lets threads that hang die with the process."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._log = open_log(config, patience_s=BROKER_S)
        self._source = _Watched("source", _SourceLook(config))
        self._reports = _Watched("log", _LogLook(self._log))
        self._end = _Watched("the log's end", _EndLook(config))
        self._replicas = {
            name: _Watched(f"replica {name}", _ReplicaLook(config, name)) for name in config.replicas
        }

    def look(self, timeout_s: float = LOOK_S) -> Observation:
        """One observation, after at most `timeout_s`; a torn one is made once more, which takes up to
        `AGAIN_S` longer."""
        deadline = time.monotonic() + timeout_s
        seen = self._look(deadline)
        return self._look(max(deadline, time.monotonic() + AGAIN_S)) if seen.is_torn else seen

    def _look(self, deadline: float) -> Observation:
        watched: list[_Watched[Any]] = [self._source, self._reports, *self._replicas.values()]
        for server in watched:
            server.begin()
        log, source = self._reports.result(deadline), self._source.result(deadline)
        if isinstance(log, LogSeen) and isinstance(source, SourceSeen) and is_end_needed(source, log):
            log = replace(log, end=self._look_at_end(deadline))
        processes = _processes(log.reports if isinstance(log, LogSeen) else {})
        return Observation(
            name=self._config.name,
            slot_name=self._config.slot_name,
            log_name=self._log.name,
            log=log,
            source=source,
            replicas={name: server.result(deadline) for name, server in self._replicas.items()},
            at=time.time(),
            dead=frozenset(key for key, alive in processes.items() if alive is False),
            running=frozenset(key for key, alive in processes.items() if alive),
        )

    def _look_at_end(self, deadline: float) -> Chain | KeepstreamError | None:
        """An answer that was asked for at an earlier look is older than what is now known of the slot."""
        is_new = self._end.begin()
        return self._end.result(deadline) if is_new else _not_in_time("the log's end")

    def close(self) -> None:
        self._source.close()
        self._end.close()
        for server in self._replicas.values():
            server.close()
        if self._reports.close():
            self._log.close()


class _Watched(Generic[Seen]):
    """One server: at most one look at it runs at a time; one that hangs is asked for again, not doubled."""

    def __init__(self, name: str, look: _Look[Seen]) -> None:
        self._name = name
        self._look = look
        self._running: Future[Seen] | None = None

    def begin(self) -> bool:
        """False: an earlier look still runs."""
        if self._running is not None and not self._running.done():
            return False
        self._running = Future()
        Thread(target=self._take, args=[self._running], name=self._name, daemon=True).start()
        return True

    def result(self, deadline: float) -> Seen | KeepstreamError:
        assert self._running is not None
        try:
            return self._running.result(max(0.0, deadline - time.monotonic()))
        except KeepstreamError as error:
            return error
        except NotInTime:
            return _not_in_time(self._name)

    def close(self) -> bool:
        """Whether it was idle; a session in use is left to its thread."""
        idle = self._running is None or self._running.done()
        if idle:
            self._look.close()
        return idle

    def _take(self, future: Future[Seen]) -> None:
        try:
            future.set_result(self._look.take())
        except KeepstreamError as error:
            future.set_exception(error)
        finally:
            if not future.done():
                future.set_exception(InternalError(f"the look at {self._name} failed", code="internal"))


def _not_in_time(name: str) -> RetryLater:
    return RetryLater(
        f"{name} did not answer in time",
        code="no-answer",
        hint="Look whether that server runs, and can be reached from this host.",
    )


class _Look(ABC, Generic[Seen]):
    """What to do at one server, on a session that is opened when it is first needed."""

    def __init__(self, connect_to: Callable[[], Session] | None) -> None:
        self._connect = connect_to
        self._session: Session | None = None

    @abstractmethod
    def take(self) -> Seen:
        """One look. Raises what the server's connector raises."""

    def session(self) -> Session:
        assert self._connect is not None
        if self._session is None or self._session.closed:
            self._session = self._connect()
        return self._session

    def close(self) -> None:
        if self._session is not None:
            self._session.close()


class _SourceLook(_Look[SourceSeen]):
    def __init__(self, config: Config) -> None:
        super().__init__(lambda: connect(source_conninfo(config), purpose=f"status:{config.name}"))
        self._config = config
        self._previous: tuple[float, Lsn] | None = None
        self._left_out: tuple[NotReplicated, ...] = ()
        self._left_out_at: float | None = None

    def take(self) -> SourceSeen:
        session, config = self.session(), self._config
        require_primary(session)
        began, begun_at = slots.read_wal_space(session).insert_lsn, time.monotonic()
        self._previous = self._previous or (begun_at, began)
        published = publication_identity(session, config.publication_name)
        time.sleep(max(0.0, RATE_WINDOW_S - (time.monotonic() - self._previous[0])))
        seen = SourceSeen(
            clock=_clock(session),
            slot=slots.read_slot(session, config.slot_name),
            owner=slots.read_owner(session, config.slot_name),
            space=(space := slots.read_wal_space(session)),
            insert_lsn=space.insert_lsn,
            publication_exists=bool(published),
            left_out=self._left_out_now(session),
            timeline=read_timeline(session),
            standbys=read_standbys(session),
        )
        return replace(seen, wal_bytes_per_s=self._rate(space.insert_lsn))

    def _left_out_now(self, session: Session) -> tuple[NotReplicated, ...]:
        """The catalog is read rarely: watching must not cost the source anything."""
        now = time.monotonic()
        if self._left_out_at is None or now - self._left_out_at > CATALOG_EVERY_S:
            source = self._config.source
            publication = self._config.publication_name
            tables = list_tables(session, publication=publication)
            published = read_publication(session, publication)
            by_root = is_by_root(published, source.partitions)
            chosen = select_tables(tables, source.tables, source.keyless, by_root=by_root)
            names = {t.qualified_name for t in published.tables} if published else set()
            self._left_out = tuple(each for each in chosen.not_replicated if each.table not in names)
            self._left_out_at = now
        return self._left_out

    def _rate(self, insert_lsn: Lsn) -> float:
        assert self._previous is not None
        then, before = self._previous
        now = time.monotonic()
        self._previous = (now, insert_lsn)
        return max(0, insert_lsn - before) / max(now - then, 1e-3)


class _LogLook(_Look[LogSeen]):
    def __init__(self, log: ChangeLog) -> None:
        super().__init__(None)
        self._log = log

    def take(self) -> LogSeen:
        return LogSeen(self._log.exists(), read_reports(self._log))


class _EndLook(_Look[Chain | None]):
    """Where the log ends; None: it has promised nothing. Its newest records are read again only when
    others came. On a log of its own, because it may still be reading while others look."""

    def __init__(self, config: Config) -> None:
        super().__init__(None)
        self._log = open_log(config, patience_s=BROKER_S)
        self._read_to: int | None = None
        self._chain: Chain | None = None

    def take(self) -> Chain | None:
        end = self._log.bounds().end
        if end != self._read_to:
            self._chain = find_end(self._log)
            self._read_to = end
        return self._chain

    def close(self) -> None:
        self._log.close()


class _ReplicaLook(_Look[ReplicaSeen]):
    def __init__(self, config: Config, replica: str) -> None:
        super().__init__(lambda: connect(replica_conninfo(config, replica), purpose=f"status:{config.name}"))
        self._name = config.name

    def take(self) -> ReplicaSeen:
        session = self.session()
        row = progress.read(session, self._name)
        if row is None:
            return ReplicaSeen(None, None)
        now, started = _clock(session), row.backend_start
        session_s = now - started.timestamp() if started is not None else None
        awaiting = tuple(sorted(left_out.read(session, self._name).awaiting))
        return ReplicaSeen(row, now - row.updated_at.timestamp(), session_s, awaiting)


def _clock(session: Session) -> float:
    with wrapped("reading the server's clock"):
        row = session.execute("select extract(epoch from clock_timestamp())::float8").fetchone()
    assert row is not None
    return float(row[0])


def _processes(reports: Mapping[str, StageReport]) -> dict[str, bool | None]:
    """Whether the process of each report lives, as far as that can be seen from here."""
    return {key: lives(report.pid, report.process) for key, report in reports.items()}
