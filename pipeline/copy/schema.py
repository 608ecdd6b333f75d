"""The replica's schema: one pg_dump in the copy's snapshot, restored in two sections (P20).

What stands before the rows (tables, types, functions) is restored first, what is faster or only right
after them (indexes, constraints, triggers) at the end.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from connectors.postgres.copy.snapshot import ExportedSnapshot, TableChanged
from connectors.postgres.pgtools import Finished, PgTools, open_login, run_tool
from connectors.scratch import scratch_folder
from pipeline.copy.toc import TocChoice, TocEntry, parse_toc, progress_of, restore_errors
from schemas.errors import OperatorNeeded, RetryLater

_NO_STATISTICS_SINCE: Final = 18

# What pg_dump says when an object of the snapshot's catalog is not there any more.
_GONE = re.compile(r"does not exist|could not open relation|cache lookup failed|no longer exists")


@dataclass(frozen=True, slots=True)
class SchemaTools:
    """Programs, servers and the wish to stop, of one copy."""

    tools: PgTools
    source: str
    replica: str
    application_name: str
    stop: threading.Event


class DumpedSchema:
    """A dump in a folder of its own, which `close` deletes."""

    def __init__(self, tools: SchemaTools) -> None:
        self._tools = tools
        self._resources = ExitStack()
        folder = self._resources.enter_context(scratch_folder())
        self._archive = str(folder / "schema.dump")
        self._list = str(folder / "list")

    def close(self) -> None:
        self._resources.close()

    def dump(self, snapshot: ExportedSnapshot, *, with_lz4: bool) -> None:
        """Dump the schema as the snapshot shows it.

        Raises TableChanged, RetryLater (`connection-lost`), OperatorNeeded (`pg-dump-failed`).
        """
        command = [
            self._tools.tools.pg_dump,
            "--schema-only",
            "--format=custom",
            f"--snapshot={snapshot.name}",
            f"--file={self._archive}",
            "--exclude-schema=keepstream",
            "--encoding=UTF8",
            "--no-password",
            *("--no-owner", "--no-privileges", "--no-tablespaces", "--no-security-labels"),
            *("--no-publications", "--no-subscriptions"),
            *self._newer_options(with_lz4),
        ]
        finished = self._run(command, self._tools.source)
        if finished.status != 0:
            raise _dump_error(finished)

    def _newer_options(self, with_lz4: bool) -> list[str]:
        options = []
        if not with_lz4:
            options.append("--no-toast-compression")
        if self._tools.tools.major >= _NO_STATISTICS_SINCE:
            options.append("--no-statistics")
        return options

    def entries(self, section: str) -> list[TocEntry]:
        """The dump's objects in `pre-data` or `post-data`."""
        command = [self._tools.tools.pg_restore, "--list", f"--section={section}", self._archive]
        finished = run_tool(command, dict(os.environ) | {"LC_ALL": "C"}, stop=self._tools.stop)
        if finished.status != 0:
            raise _restore_error(finished, section)
        return parse_toc(finished.output)

    def restore(self, section: str, choice: TocChoice, *, jobs: int, on_item: Callable[[str], None]) -> None:
        """Make the chosen objects of one section. `on_item` hears from another thread of each that was made.

        Raises RetryLater (`connection-lost`), OperatorNeeded (`restore-failed`).
        """
        Path(self._list).write_text("".join(f"{entry.line}\n" for entry in choice.kept), encoding="utf-8")
        parallel = [f"--jobs={jobs}"] if jobs > 1 else []
        command = [
            self._tools.tools.pg_restore,
            f"--section={section}",
            f"--use-list={self._list}",
            "--verbose",
            "--no-password",
            *("--no-owner", "--no-privileges", "--no-tablespaces", "--no-security-labels"),
            *parallel,
        ]

        def heard(line: str) -> None:
            item = progress_of(line, parallel=jobs > 1)
            if item is not None:
                on_item(item)

        finished = self._run(command, self._tools.replica, on_error_line=heard, archive=self._archive)
        errors = restore_errors(finished.errors)
        if errors or finished.status not in (0, 1):
            raise _restore_error(finished, section)

    def _run(
        self,
        command: Sequence[str],
        conninfo: str,
        *,
        on_error_line: Callable[[str], None] | None = None,
        archive: str | None = None,
    ) -> Finished:
        # The copy's last transaction flushes it all; a replica may be read-only for everybody else.
        options = "-c synchronous_commit=off -c default_transaction_read_only=off"
        with open_login(conninfo, application_name=self._tools.application_name, options=options) as login:
            public, environment = login
            command = [*command, f"--dbname={public}", *([archive] if archive else [])]
            return run_tool(command, environment, stop=self._tools.stop, on_error_line=on_error_line)


def _dump_error(finished: Finished) -> Exception:
    said = finished.last_words
    if finished.lost_its_server:
        return RetryLater(f"pg_dump lost the source: {said}", code="connection-lost")
    if _GONE.search(said):
        return TableChanged(f"an object was dropped while the schema was read: {said}", code="table-changed")
    return OperatorNeeded(
        f"pg_dump could not read the source's schema: {said}",
        code="pg-dump-failed",
        hint="Grant our role what pg_dump names, with `keepstream init --grants`.",
    )


def _restore_error(finished: Finished, section: str) -> Exception:
    errors = restore_errors(finished.errors)
    said = "; ".join(map(str, errors[:3])) or finished.last_words
    if len(errors) > 3:
        said += f"; and {len(errors) - 3} more"
    if finished.lost_its_server:
        return RetryLater(f"pg_restore lost the replica: {said}", code="connection-lost")
    return OperatorNeeded(
        f"pg_restore could not make the replica's {section} objects: {said}",
        code="restore-failed",
        hint="Mend what PostgreSQL names (an extension, a role, a privilege, a collation) and start again; "
        "or make the schema yourself and set `initial: data`.",
    )
