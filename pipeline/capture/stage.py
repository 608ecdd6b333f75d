"""Capture as a stage: open, pump, and when a server goes away or another capture comes first, again
from the start with back-off. Only what an operator must mend ends it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

from connectors.postgres.binary.values import SourceValues
from connectors.postgres.failover.hosts import at_server
from connectors.postgres.replication.slot import read_slot
from connectors.postgres.replication.walsender import VALUE_TOO_LARGE
from pipeline.capture.entries.ended import tracking_details
from pipeline.capture.history.timelines import Lineage
from pipeline.capture.housekeeping import Housekeeping
from pipeline.capture.joins.joins import Joins, SeenTables
from pipeline.capture.opened import OpenCapture
from pipeline.capture.options import CaptureOptions
from pipeline.capture.pump import Pump
from pipeline.capture.rates import Rates
from pipeline.capture.sendform import SendForm
from pipeline.capture.sequences import SequenceReader, Sequences
from pipeline.capture.startup.startup import Startup
from pipeline.capture.versions.added import AddedColumns
from pipeline.capture.waits import CaptureStopped, Waits
from pipeline.capture.writing.trimming import Trimmer
from pipeline.reports import CAPTURE_STAGE, Report, ReportedError, StageReport, StageState
from pipeline.retries import Retries
from schemas.entries import Entries
from schemas.errors import KeepstreamError, RefusedData
from schemas.lsn import ZERO, Lsn, format_lsn

logger = logging.getLogger("keepstream.capture")

IDLE_AFTER_S = 3.0
_REPORT_EVERY_S = 1.0
_ASK_EVERY_S = 0.25


class CaptureStage:
    """Runs capture until `stop`. `report` is called about once a second from a thread of its own."""

    def __init__(self, options: CaptureOptions, stop: threading.Event, report: Report) -> None:
        self._options = options
        self._stop = stop
        self._report = report
        self._rates = Rates()
        self._state = StageState.STARTING
        self._waits = Waits(stop)
        self._last_error: ReportedError | None = None
        self._capture: OpenCapture | None = None
        self._tables = SeenTables()
        self._stream: bytes | None = None
        self._lineage: Lineage | None = None
        self._entries: Entries | None = None
        self._sequences: Sequences | None = None
        self._form = SendForm()
        self._asked_at = 0.0

    def run(self) -> None:
        """Returns after `stop`. Raises OperatorNeeded, RefusedData or InternalError."""
        ended = threading.Event()
        reporting = threading.Thread(
            target=self._report_always, args=[ended], name="capture report", daemon=True
        )
        reporting.start()
        if self._options.trim is not None:
            trimmer = Trimmer(self._options.name, self._options.trim, self._options.replicas)
            threading.Thread(target=trimmer.run, args=[self._stop], name="trim", daemon=True).start()
        retries = Retries()
        try:
            while not self._stop.is_set():
                try:
                    self._run_once(retries)
                except CaptureStopped:
                    return
                except KeepstreamError as error:
                    if not retries.outlives(error):
                        raise
                    self._note(error)
                    if retries.wait(self._stop):
                        return
        except KeepstreamError as error:
            self._last_error = ReportedError.of(error)
            raise
        finally:
            ended.set()
            reporting.join()
            self._state = StageState.STOPPED
            self._report(self.snapshot())

    def _run_once(self, retries: Retries) -> None:
        is_binary = self._form.is_binary
        startup = Startup(self._options, self._stop, self._waits, binary=is_binary)
        try:
            self._capture = startup.open()
        finally:
            self._lineage = startup.lineage or self._lineage
            self._entries = startup.entries or self._entries
        if self._capture is None:
            return
        capture = self._capture
        self._options = replace(self._options, take_over=False)  # once: else two take over from each other
        self._tables = SeenTables(
            capture.selection.not_replicated,
            tuple(table.qualified_name for table in capture.selection.undecided),
        )
        self._lineage = capture.chain.lineage
        self._waits.end()
        if self._stream != capture.chain.stream:
            self._stream, self._rates.durable_lsn = capture.chain.stream, ZERO
        self._rates.position, self._rates.beat_at = capture.chain.position, time.monotonic()
        try:
            options = replace(self._options, source=at_server(self._options.source, capture.sql))
            with closing(_sequences(options)) as sequences, retries.trying(lambda: self._rates.durable_lsn):
                self._sequences = sequences
                self._pump(capture, options, sequences)
        finally:
            capture.close()
            self._entries, self._capture = capture.chain.publication, None

    def _pump(self, capture: OpenCapture, options: CaptureOptions, sequences: Sequences) -> None:
        """Until `stop`, or until rows are to come in another form."""
        joins = Joins(capture, options, self._set_tables)
        added = AddedColumns(options.source, options.publication, purpose=f"{options.name}:added")
        housekeeping = Housekeeping(capture, joins, added)
        with self._values(options) as values:
            pump = Pump(
                capture,
                housekeeping,
                added,
                sequences,
                self._rates,
                publication=options.publication,
                values=values,
                is_over=lambda confirmed: self._is_past(capture, confirmed),
            )
            self._state = StageState.STREAMING
            try:
                pump.run(self._stop)
            except RefusedData as error:
                if error.code != VALUE_TOO_LARGE or not self._form.failed(
                    pump.failed_at, tail=capture.chain.position.lsn
                ):
                    raise
                self._tell_form(error.message)
            else:
                if values is not None and not self._stop.is_set():
                    self._form.passed()
                    self._tell_form("the log has the transaction")

    def _is_past(self, capture: OpenCapture, confirmed: Lsn) -> bool:
        """Whether the source has forgotten the transaction that comes in binary form. A server that is
        sending may not read for long what was confirmed to it, and then sends that transaction again."""
        until, now = self._form.binary_until, time.monotonic()
        if until is None or confirmed <= until or now - self._asked_at < _ASK_EVERY_S:
            return False
        self._asked_at = now
        slot = read_slot(capture.sql, self._options.slot)
        return slot is not None and (slot.confirmed_flush_lsn or ZERO) > until

    @contextmanager
    def _values(self, options: CaptureOptions) -> Iterator[SourceValues | None]:
        """None: rows come as text."""
        if not self._form.is_binary:
            yield None
            return
        purpose = f"{options.name}:values"
        with closing(SourceValues(options.source, purpose=purpose, slot=options.slot)) as values:
            yield values

    def _tell_form(self, why: str) -> None:
        until = self._form.binary_until
        if until is None:
            logger.info("rows come as text again", extra={"reason": why})
        else:
            until_lsn = format_lsn(until)
            logger.info("rows come in binary form", extra={"reason": why, "commit_lsn": until_lsn})

    def _note(self, error: KeepstreamError) -> None:
        self._state = StageState.RETRYING
        self._waits.end()
        self._last_error = ReportedError.of(error)
        logger.warning("capture retries", extra={"code": error.code, "error": error.message})

    def _set_tables(self, tables: SeenTables) -> None:
        self._tables = tables

    def snapshot(self) -> StageReport:
        """What the stage says of itself now."""
        changes_per_s, bytes_per_s = self._rates.take_rates()
        commit_lsn = self._rates.last_commit_lsn
        capture = self._capture  # which the other thread may close and forget meanwhile
        entries = self._entries if capture is None else capture.chain.publication
        return StageReport(
            stage=CAPTURE_STAGE,
            state=self._shown_state(capture),
            owner=(owner := self._state is StageState.STREAMING),
            hung_s=round(time.monotonic() - self._rates.beat_at, 1) if owner else 0.0,
            stream=self._stream.hex() if self._stream is not None else None,
            position=format_lsn(self._rates.position.lsn) if self._rates.position.lsn else None,
            commit_lsn=format_lsn(commit_lsn) if commit_lsn is not None else None,
            commit_time=self._rates.position.commit_time / 1e6 or None,
            changes_per_s=changes_per_s,
            bytes_per_s=bytes_per_s,
            transactions=self._rates.transactions,
            changes=self._rates.changes,
            last_error=self._last_error,
            waiting_for=self._waits.what,
            not_replicated=self._tables.not_replicated,
            undecided=self._tables.undecided,
            endangered=self._tables.protected.endangered,
            left=self._tables.protected.left,
            details=(self._lineage.to_details() if self._lineage else {})
            | {
                "form": "binary" if self._form.is_binary else "text",
                "reads_wal": self._waits.reads_wal,
                "durable_lsn": format_lsn(self._rates.durable_lsn),
                "complete_lsn": format_lsn(self._rates.complete_lsn),
                "complete_at": self._rates.complete_at,
                "unchanged_s": round(time.monotonic() - self._rates.last_change_at, 1),
                "sequences": None if self._sequences is None else self._sequences.to_json(),
                "schema_changes": None if entries is None else tracking_details(entries),
            },
        )

    def _shown_state(self, capture: OpenCapture | None) -> StageState:
        if self._state is not StageState.STREAMING or capture is None:
            return self._state
        idle = time.monotonic() - self._rates.last_change_at > IDLE_AFTER_S
        return StageState.IDLE if idle and capture.stream.queued_bytes == 0 else StageState.STREAMING

    def _report_always(self, ended: threading.Event) -> None:
        while not ended.wait(_REPORT_EVERY_S):
            self._report(self.snapshot())


def _sequences(options: CaptureOptions) -> Sequences:
    purpose = f"{options.name}:sequences"
    return Sequences(SequenceReader(options.source, options.publication, purpose=purpose))
