"""Bringing rows of the source into the replica's open transaction, also such as COPY cannot send."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg.pq import TransactionStatus

from connectors.postgres.copy.copystream import Tick, stream_in_chunks
from connectors.postgres.copy.part_copier import value_too_large
from connectors.postgres.replication.walsender import TOO_LONG
from connectors.postgres.session import Session, wrapped

_REFUSALS: Final = (psycopg.errors.InternalError_, psycopg.errors.ProgramLimitExceeded)


@dataclass(frozen=True, slots=True)
class Copying:
    """COPY … TO STDOUT for the source, COPY … FROM STDIN for the replica. binary: the format of both."""

    read: str
    write: str
    binary: bool


def bring(
    source: Session, replica: Session, copying: Copying, *, table: str, wide: Callable[[], int], tick: Tick
) -> int:
    """The rows that came. `wide` brings them all, with none there yet, where one is too long for COPY in its
    form. Both sessions are in a transaction.

    Raises RefusedData (`value-too-large`), and what `stream_in_chunks` raises, as errors of ours.
    """
    with wrapped(f"bringing rows of {table}"):
        try:
            with source.transaction(), replica.transaction(), _closed_within_a_copy(source, replica):
                return stream_in_chunks(
                    source,
                    replica,
                    read=copying.read,
                    write=copying.write,
                    binary=copying.binary,
                    tick=tick,
                )
        except _REFUSALS as error:
            if not _is_too_long(error) or source.pgconn.transaction_status != TransactionStatus.INTRANS:
                raise
        try:
            return wide()
        except _REFUSALS as error:
            if _is_too_long(error):
                raise value_too_large(table) from error
            raise


@contextlib.contextmanager
def _closed_within_a_copy(*sessions: Session) -> Iterator[None]:
    """Of a session in the middle of a COPY nothing can be rolled back but by its end."""
    try:
        yield
    except BaseException:
        for session in sessions:
            if session.pgconn.transaction_status == TransactionStatus.ACTIVE:
                session.close()
        raise


def _is_too_long(error: psycopg.Error) -> bool:
    return re.search(TOO_LONG, str(error)) is not None
