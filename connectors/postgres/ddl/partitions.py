"""Partitions of a table whose rows come under the name of the whole, on a replica that may not have them.

A replica whose table is a plain one, or has other partitions, has no use for what the source does to its own.
But rows come and go with some of it: those of an attached partition come in messages, and for those of one
that is detached or dropped an operator decides.
"""

from __future__ import annotations

import shlex
from collections.abc import Container
from typing import Final

from psycopg import sql

from connectors.postgres.partitions.bounds import plain_bound
from connectors.postgres.session import Session
from schemas.ddl.kinds import Kind
from schemas.ddl.step import Manner, Phase, Step
from schemas.errors import OperatorNeeded
from schemas.identifiers import qualified

_IS_THERE: Final = "select to_regclass(format('%%I.%%I', %s::text, %s::text)) is not null"
_IS_PARTITIONED: Final = """
    select exists (select from pg_catalog.pg_class
                    where oid = to_regclass(format('%%I.%%I', %s::text, %s::text)) and relkind = 'p')
"""
_BOUND: Final = """
    select pg_catalog.pg_get_expr(relpartbound, 0) from pg_catalog.pg_class
     where oid = to_regclass(format('%%I.%%I', %s::text, %s::text))
"""
_TAKING: Final = (Kind.DETACH_PARTITION, Kind.DROP_TABLE)
"""With which rows go."""


def is_mirrored(conn: Session, step: Step) -> bool:
    """Whether the replica has what the step is about, or is to make it: the whole has partitions there, and
    this one is there or is made now. Where it goes, it must take the same rows there."""
    if not _one(conn, _IS_PARTITIONED, step.whole):
        return False
    if step.drops and step.kind in _TAKING:
        (bound,) = conn.execute(_BOUND.encode(), step.object).fetchone() or (None,)
        return bound is not None and plain_bound(bound) == plain_bound(step.bound)
    if step.kind is Kind.CREATE_TABLE and step.phase in (Phase.TABLE, Phase.ATTACH):
        return True
    is_own = step.kind not in (Kind.ATTACH_PARTITION, Kind.DETACH_PARTITION)  # else it needs the whole
    tables = (step.object, step.needs) if is_own and step.needs is not None else (step.object,)
    return any(_one(conn, _IS_THERE, table) for table in tables if len(table) == 2)


def is_there(conn: Session, table: tuple[str, str]) -> bool:
    return _one(conn, _IS_THERE, table)


def is_partitioned(conn: Session, table: tuple[str, str]) -> bool:
    return _one(conn, _IS_PARTITIONED, table)


def empties_whole(step: Step) -> bool:
    """Whether all rows of the whole come again: a change of its columns has rewritten its partitions, or
    rows of one are too many for the log, so that the whole is to be copied."""
    is_attached = step.kind is Kind.ATTACH_PARTITION
    return step.manner is Manner.AWAIT or (step.manner is Manner.EMPTY and not is_attached)


def require_rows_stay(step: Step, dropped: Container[tuple[str, ...]], *, replica: str) -> None:
    """Raises OperatorNeeded (`partition-rows-stay`) where the step takes rows away with a partition that the
    replica does not have. `dropped`: tables that the command drops."""
    if not step.drops or step.kind not in _TAKING or step.whole in dropped:
        return
    whole, name = qualified(*step.whole), qualified(*step.object)
    named = shlex.quote(sql.Identifier(*step.whole).as_string())
    raise OperatorNeeded(
        f"the source has taken partition {name} from {whole}, and {replica} does not know which of its rows"
        " those are",
        code="partition-rows-stay",
        hint=f"Leave such changes out (`schema: {{policies: {{{step.kind}: ignore}}}}` in keepstream.yaml),"
        f" start again, and then run `keepstream verify {replica} --repair --tables {named}`, which takes"
        " the rows away.",
    )


def _one(conn: Session, query: str, values: tuple[str, ...]) -> bool:
    return conn.execute(query.encode(), values).fetchone() == (True,)
