"""pg_restore's table of contents: choosing what a replica gets, and reading what pg_restore says. Pure.

A line of `pg_restore --list` is `dump id; catalog OID, object OID, kind, schema, name, owner`, the
last four separated by blanks that names may hold too: so objects are recognised by their OIDs, and
kinds by prefix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from connectors.postgres.catalog.source_schema import PG_CLASS, PG_NAMESPACE
from connectors.postgres.ddl.install import EVENT_TRIGGERS

_LINE = re.compile(r"(\d+); (\d+) (\d+) (.*)")
_ENTRY = re.compile(r"pg_restore: (?:from )?TOC entry \d+; \d+ \d+ (.*)")
_ERROR = re.compile(r"pg_restore: error: (.*)")
_MADE = re.compile(r"pg_restore: creating (.*)")
_FINISHED = re.compile(r"pg_restore: finished item \d+ (.*)")

# What acts on a server or needs a superuser, and is not data. A replica must not publish, subscribe
# or fire by itself; the rest of them hold links and passwords to other servers.
_LEFT_OUT: Final = (
    "EVENT TRIGGER ",
    "PUBLICATION",
    "SUBSCRIPTION",
    "FOREIGN DATA WRAPPER ",
    "SERVER ",
    "USER MAPPING ",
    "FOREIGN TABLE ",
    "SECURITY LABEL ",
    "PROCEDURAL LANGUAGE ",
    "DATABASE",
    "COMMENT - EXTENSION ",
    "COMMENT - EVENT TRIGGER ",
    "COMMENT - PUBLICATION ",
    "COMMENT - SUBSCRIPTION ",
    "COMMENT - SERVER ",
    "COMMENT - FOREIGN DATA WRAPPER ",
    "COMMENT - PROCEDURAL LANGUAGE ",
    "COMMENT - DATABASE ",
)
# Of `keepstream schema install`, on the source alone.
_OURS: Final = tuple(f"EVENT TRIGGER - {name} " for name in EVENT_TRIGGERS)
_TOLD: Final = ("EVENT TRIGGER ", "FOREIGN TABLE ", "PROCEDURAL LANGUAGE ", "SECURITY LABEL ")


@dataclass(frozen=True, slots=True)
class TocEntry:
    """One object of the dump. `text`: kind, schema, name and owner as pg_restore prints them."""

    dump_id: int
    catalog: int
    oid: int
    text: str

    @property
    def line(self) -> str:
        """As it stands in a list file."""
        return f"{self.dump_id}; {self.catalog} {self.oid} {self.text}"


def parse_toc(listing: str) -> list[TocEntry]:
    """The entries of `pg_restore --list`, in its order."""
    matches = (_LINE.fullmatch(line) for line in listing.splitlines())
    return [TocEntry(int(m[1]), int(m[2]), int(m[3]), m[4]) for m in matches if m]


@dataclass(frozen=True, slots=True)
class TocChoice:
    """kept: what is restored. left_out: what is not and is worth telling, for people."""

    kept: tuple[TocEntry, ...]
    left_out: tuple[str, ...]


def choose(
    entries: Iterable[TocEntry],
    *,
    existing_schemas: frozenset[int],
    existing_schema_names: frozenset[str],
    unavailable: frozenset[int],
    omitted: frozenset[tuple[int, int]],
) -> TocChoice:
    """What of the dump the replica gets.

    existing_schemas: OIDs, on the source, of schemas that the replica has already, and their names
    there. unavailable: OIDs of relations that cannot be had (foreign tables, views on them).
    omitted: catalogs and OIDs of keys that the replica is made without.
    """
    comments = tuple(f"COMMENT - SCHEMA {name} " for name in existing_schema_names)
    kept, told = [], []
    for entry in entries:
        if entry.catalog == PG_CLASS and entry.oid in unavailable:
            told.append(entry.text)
        elif entry.text.startswith(_LEFT_OUT):
            told += [entry.text] if entry.text.startswith(_TOLD) and not entry.text.startswith(_OURS) else []
        elif not (
            (entry.catalog == PG_NAMESPACE and entry.oid in existing_schemas)
            or (entry.catalog, entry.oid) in omitted
            or entry.text.startswith(comments)
        ):
            kept.append(entry)
    return TocChoice(tuple(kept), tuple(told))


def progress_of(line: str, *, parallel: bool) -> str | None:
    """The object that pg_restore --verbose says it has made, or None for any other line."""
    match = (_FINISHED if parallel else _MADE).fullmatch(line)
    return match[1] if match else None


@dataclass(frozen=True, slots=True)
class RestoreError:
    """One failure. `entry` is empty where pg_restore did not say at which object."""

    entry: str
    message: str

    def __str__(self) -> str:
        return f"{self.entry}: {self.message}" if self.entry else self.message


def restore_errors(lines: Sequence[str]) -> list[RestoreError]:
    """The failures in pg_restore's stderr, without one that is none: a newer pg_restore sets
    `transaction_timeout` to 0 at servers that do not have it."""
    errors, entry = [], ""
    for line in lines:
        if match := _ENTRY.match(line):
            entry = match[1]
        elif match := _ERROR.match(line):
            if not ("transaction_timeout" in match[1] and "could not execute query" in match[1]):
                errors.append(RestoreError(entry, match[1]))
            entry = ""
    return errors
