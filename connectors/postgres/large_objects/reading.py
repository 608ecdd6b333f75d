"""Reading large objects a piece at a time, as the session's snapshot shows them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final, NamedTuple

from connectors.postgres.session import Session, wrapped

PIECE_BYTES: Final = 256 * 1024
AT_ONCE: Final = 500
"""So many are locked in one transaction, and so many of their names held."""
_PAGES_FETCHED: Final = 128


@dataclass(frozen=True, slots=True)
class LargeObject:
    """readable: our role may read it."""

    oid: int
    owner: str
    readable: bool


class Piece(NamedTuple):
    """Bytes of one. Where a hole is, nothing is sent, if our role may read the pages themselves."""

    oid: int
    offset: int
    content: bytes


# Whoever may read the table of all pages may read all of them; others by each one's own privileges.
_DIRECT: Final = "select pg_catalog.has_table_privilege('pg_catalog.pg_largeobject', 'select')"

_LIST: Final = """
    select m.oid::bigint, pg_catalog.pg_get_userbyid(m.lomowner),
           pg_catalog.has_table_privilege('pg_catalog.pg_largeobject', 'select')
           or current_setting('lo_compat_privileges')::boolean
           or pg_catalog.pg_has_role(m.lomowner, 'usage')
           or exists (select from pg_catalog.aclexplode(m.lomacl) a
                       where a.privilege_type = 'SELECT'
                         and (a.grantee = 0 or pg_catalog.pg_has_role(a.grantee, 'usage')))
      from pg_catalog.pg_largeobject_metadata m
"""
_PAGE_OF_LIST: Final = f"{_LIST} where m.oid > %s::oid order by m.oid limit {AT_ONCE}"

_HIDDEN: Final = f"select count(*) from ({_LIST}) l(oid, owner, readable) where not readable"  # noqa: S608 - a constant

_PAGES: Final = """
    select loid::bigint, pageno::bigint * (current_setting('block_size')::bigint / 4), data
      from pg_catalog.pg_largeobject
     where loid = any(%s::oid[]) order by loid, pageno
"""


def count_hidden(session: Session) -> int:
    """How many our role may not read."""
    with wrapped("looking for large objects"):
        ((number,),) = session.execute(_HIDDEN).fetchall()
    return int(number)


def list_large_objects(session: Session) -> Iterator[Sequence[LargeObject]]:
    """All of them by their OIDs, AT_ONCE at a time."""
    last = 0
    while True:
        with wrapped("listing large objects"):
            some = [LargeObject(*row) for row in session.execute(_PAGE_OF_LIST, [last])]
        if not some:
            return
        yield some
        last = some[-1].oid


def read_pieces(session: Session, oids: Sequence[int]) -> Iterator[Piece]:
    """What these hold, each in order. The session must be in a transaction."""
    with wrapped("reading large objects"):
        ((direct,),) = session.execute(_DIRECT).fetchall()
        yield from _join_pages(session, oids) if direct else _get_pieces(session, oids)


def _join_pages(session: Session, oids: Sequence[int]) -> Iterator[Piece]:
    """Pages that follow each other become one piece."""
    oid, start, held = 0, 0, bytearray()
    with session.cursor(name="keepstream_large_objects", binary=True) as pages:
        pages.itersize = _PAGES_FETCHED
        for page_of, offset, data in pages.execute(_PAGES, [list(oids)]):
            if held and (page_of != oid or offset != start + len(held) or len(held) >= PIECE_BYTES):
                yield Piece(oid, start, bytes(held))
                held.clear()
            if not held:
                oid, start = page_of, offset
            held += data
    if held:
        yield Piece(oid, start, bytes(held))


def _get_pieces(session: Session, oids: Sequence[int]) -> Iterator[Piece]:
    for oid in oids:
        for number in count():
            offset = number * PIECE_BYTES
            query = "select pg_catalog.lo_get(%s::oid, %s::bigint, %s::integer)"
            ((content,),) = session.execute(query, [oid, offset, PIECE_BYTES], binary=True).fetchall()
            if content:
                yield Piece(oid, offset, content)
            if len(content) < PIECE_BYTES:
                break


def digest_of(session: Session, oid: int) -> bytes:
    """SHA-256 of its content, in which a hole is zeros. The session must be in a transaction."""
    digest, end = hashlib.sha256(), 0
    for piece in read_pieces(session, [oid]):
        while end < piece.offset:
            zeros = bytes(min(PIECE_BYTES, piece.offset - end))
            digest.update(zeros)
            end += len(zeros)
        digest.update(piece.content)
        end += len(piece.content)
    return digest.digest()
