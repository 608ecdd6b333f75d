"""Values that name an object of the database (regclass, regtype …): does it still bear the name of then?

Their text is looked up when it is written. An object whose catalog row, and those of all that its name is
made of, were written by transactions older than the slot's `catalog_xmin` had its name before anything that
the slot will still send: those had all ended when PostgreSQL moved that horizon, below what is confirmed. A
row's xmin that is too old to be compared counts as new.

Whether a function's or operator's name is qualified depends on others of its name in pg_catalog, too: those
that come or go there are not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import psycopg

from connectors.postgres.session import Session, wrapped

NAMING_TYPES: Final = {
    24: "proc",
    2202: "proc",
    2203: "operator",
    2204: "operator",
    2205: "class",
    2206: "type",
    3734: "ts_config",
    3769: "ts_dict",
    4089: "namespace",
    4096: "authid",
    4191: "collation",
}
"""By OID, the catalog in which each of these types looks names up."""

# A row for each object behind the names, with the catalog row's xmin; NULL where it is gone.
_BEHIND: Final = """
    with recursive named(catalog, oid) as (
        select * from unnest(%(catalogs)s::text[], %(oids)s::oid[])
        union
        select b.catalog, b.oid from named o cross join lateral (
            select 'namespace', relnamespace from pg_class where o.catalog = 'class' and oid = o.oid
            union all
            select unnest('{namespace,type}'::text[]), unnest(array[typnamespace, typelem])
              from pg_type where o.catalog = 'type' and oid = o.oid
            union all
            select 'namespace', pronamespace from pg_proc where o.catalog = 'proc' and oid = o.oid
            union all
            select 'type', unnest(proargtypes::oid[]) from pg_proc where o.catalog = 'proc' and oid = o.oid
            union all
            select unnest('{namespace,type,type}'::text[]), unnest(array[oprnamespace, oprleft, oprright])
              from pg_operator where o.catalog = 'operator' and oid = o.oid
            union all
            select 'namespace', cfgnamespace from pg_ts_config where o.catalog = 'ts_config' and oid = o.oid
            union all
            select 'namespace', dictnamespace from pg_ts_dict where o.catalog = 'ts_dict' and oid = o.oid
            union all
            select 'namespace', collnamespace from pg_collation where o.catalog = 'collation' and oid = o.oid
        ) b(catalog, oid) where b.oid <> 0
    ), written(by) as (
        select case o.catalog
               when 'class' then (select c.xmin from pg_class c where c.oid = o.oid)
               when 'type' then (select c.xmin from pg_type c where c.oid = o.oid)
               when 'proc' then (select c.xmin from pg_proc c where c.oid = o.oid)
               when 'operator' then (select c.xmin from pg_operator c where c.oid = o.oid)
               when 'ts_config' then (select c.xmin from pg_ts_config c where c.oid = o.oid)
               when 'ts_dict' then (select c.xmin from pg_ts_dict c where c.oid = o.oid)
               when 'namespace' then (select c.xmin from pg_namespace c where c.oid = o.oid)
               when 'collation' then (select c.xmin from pg_collation c where c.oid = o.oid) {roles} end
          from named o
    )
    select coalesce(bool_and(coalesce(age(w.by) > age(s.catalog_xmin), false)), true)
      from written w, pg_replication_slots s where s.slot_name = %(slot)s
"""
_ROLES: Final = "when 'authid' then (select c.xmin from pg_authid c where c.oid = o.oid)"


def are_settled(session: Session, slot: str, named: Sequence[tuple[int, int]]) -> bool:
    """Whether these objects, as (one of NAMING_TYPES, OID), had their names before whatever the slot
    sends."""
    if not named:
        return True
    catalogs = [NAMING_TYPES[type_oid] for type_oid, _ in named]
    query = _BEHIND.replace("{roles}", _ROLES if "authid" in catalogs else "")
    values = {"catalogs": catalogs, "oids": [oid for _, oid in named], "slot": slot}
    with wrapped("looking for names that changed"):
        try:
            return session.execute(query.encode(), values).fetchall() == [(True,)]
        except psycopg.errors.InsufficientPrivilege:
            return False  # of roles only a superuser can tell
