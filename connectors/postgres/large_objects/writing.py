"""Making large objects on a replica, under the OIDs of the source's, and taking them away."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import psycopg
from psycopg import sql

from connectors.postgres.catalog.tables import count_large_objects
from connectors.postgres.large_objects.reading import AT_ONCE, PIECE_BYTES, LargeObject, Piece
from connectors.postgres.session import Session, wrapped
from schemas.errors import OperatorNeeded

_BATCH_BYTES: Final = 4 * PIECE_BYTES
_BATCH_PIECES: Final = 500

_CREATE: Final = "select pg_catalog.lo_create(o) from unnest(%s::oid[]) o"
_PUT: Final = """
    select pg_catalog.lo_put(p.oid, p.start, p.content)
      from unnest(%b::oid[], %b::bigint[], %b::bytea[]) as p(oid, start, content)
"""
_UNLINK: Final = """
    select pg_catalog.lo_unlink(o.oid)
      from (select oid from pg_catalog.pg_largeobject_metadata limit %s) o
"""


def require_none(session: Session) -> None:
    """Raises OperatorNeeded (`replica-not-empty`): theirs could have the OIDs of the source's."""
    there = count_large_objects(session)
    if there:
        raise OperatorNeeded(
            f"the replica has {there} large objects, and the source has some, too",
            code="replica-not-empty",
            hint="Name a database without any; or, if nobody needs them, which cannot be undone, run there:"
            " select lo_unlink(oid) from pg_largeobject_metadata;",
        )


def write_large_objects(session: Session, objects: Sequence[LargeObject], pieces: Iterable[Piece]) -> None:
    """Make them in the open transaction. Raises OperatorNeeded where an OID is taken."""
    with wrapped("making large objects"):
        session.execute(_CREATE, [[each.oid for each in objects]])
        held: list[Piece] = []
        held_bytes = 0
        for piece in pieces:
            held.append(piece)
            held_bytes += len(piece.content)
            if held_bytes >= _BATCH_BYTES or len(held) >= _BATCH_PIECES:
                _put(session, held)
                held, held_bytes = [], 0
        if held:
            _put(session, held)


def _put(session: Session, pieces: Sequence[Piece]) -> None:
    session.execute(
        _PUT,
        [
            [str(piece.oid) for piece in pieces],
            [piece.offset for piece in pieces],
            [piece.content for piece in pieces],
        ],
    )


def give_to_owners(session: Session, objects: Iterable[LargeObject]) -> dict[str, int]:
    """In the open transaction. How many stay ours, because a role of their owner's name is not there or our
    role may not give them to it, by that name."""
    kept: dict[str, int] = {}
    by_owner: dict[str, list[int]] = {}
    for each in objects:
        by_owner.setdefault(each.owner, []).append(each.oid)
    for owner, oids in by_owner.items():
        if owner != session.info.user and not _give(session, owner, oids):
            kept[owner] = len(oids)
    return kept


def _give(session: Session, owner: str, oids: Sequence[int]) -> bool:
    giving = sql.SQL("; ").join(
        sql.SQL("alter large object {} owner to {}").format(sql.Literal(oid), sql.Identifier(owner))
        for oid in oids
    )
    with wrapped("giving large objects to their owners"):
        try:
            with session.transaction():
                session.execute(giving)
        except (psycopg.errors.UndefinedObject, psycopg.errors.InsufficientPrivilege):
            return False
    return True


def unlink_all(session: Session, tick: Callable[[], None]) -> None:
    """Take all away, some at a time."""
    with wrapped("unlinking large objects"):
        while session.execute(_UNLINK, [AT_ONCE]).fetchall():
            tick()
