"""Values that PostgreSQL may not send of a row that an UPDATE brings into a row filter: TOASTed ones that it
left as they were, where the replica identity does not hold them."""

from __future__ import annotations

from typing import Final

from connectors.postgres.session import Session, wrapped

_TOASTABLE: Final = """
    select c.oid::bigint, array_agg(a.attname::text order by a.attnum)
      from pg_publication p
      join pg_publication_rel r on r.prpubid = p.oid
      join pg_class c on c.oid = r.prrelid
      join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
     where p.pubname = %s and r.prqual is not null and c.relreplident <> 'f' and c.reltoastrelid <> 0
       and a.attlen = -1 and a.attstorage <> 'p' and a.attgenerated = ''
       and (r.prattrs is null or a.attnum = any (r.prattrs::int2[]))
     group by c.oid
"""


def read_toastable(session: Session, publication: str) -> dict[int, tuple[str, ...]]:
    """By OID, columns that may be TOASTed of the publication's filtered tables without REPLICA IDENTITY
    FULL."""
    with wrapped(f"reading the filtered tables of publication {publication}"):
        return {oid: tuple(columns) for oid, columns in session.execute(_TOASTABLE, [publication])}
