"""Columns and rows: does PostgreSQL take what the configuration says of them, and is that what it sends?"""

from __future__ import annotations

from collections.abc import Iterator

from connectors.postgres.catalog.publication import (
    Publication,
    TableName,
    add_tables_sql,
    drop_table_sql,
)
from connectors.postgres.limits.harmless import Preview, preview, read_limits
from connectors.postgres.limits.limit import Limit
from connectors.postgres.limits.unfit import read_unfit
from connectors.postgres.server import Role
from connectors.postgres.session import Session
from pipeline.check.findings import SOURCE, comment
from pipeline.check.publication import filter_incomplete
from pipeline.config.model import Tables
from pipeline.selection import Selection, unheld
from schemas.errors import BEGIN_ANEW, KeepstreamError
from schemas.finding import Finding
from schemas.identifiers import qualified


def check_limits(
    session: Session,
    publication: Publication | None,
    selection: Selection,
    chosen: Tables,
    role: Role,
    *,
    by_root: bool,
    established: bool,
) -> Iterator[Finding]:
    """`established`: the slot exists, so that a list or filter is part of the history (P11)."""
    yield from _unused(selection, chosen, by_root=by_root, established=established)
    unfit = read_unfit(session, publication.name) if publication else []
    for each in unfit:
        yield SOURCE.error(
            "limit-unfit", each.qualified_name, each.problem, fix=each.remedy, blocks=not established
        )
    sent = read_limits(session, publication.name) if publication and selection.limits else {}
    owned = {(table.schema, table.name) for table in selection.wanted if table.owned}
    made_full = {(table.schema, table.name) for table in selection.make_full}
    for name, limit in selection.limits.items():
        wanted: Preview | None = None
        if name in owned and role.creates_in_database:
            try:
                wanted = preview(session, name, limit, by_root=by_root, make_full=name in made_full)
            except KeepstreamError as error:
                if name not in {each.table for each in unfit}:
                    yield SOURCE.caught(error, qualified(*name))
                continue
        if wanted is not None and name not in sent:
            yield from filter_incomplete(wanted.table, wanted.toastable)
        tried = wanted.limit if wanted is not None else None
        if publication is not None and name in sent and _differs(sent[name], limit, tried):
            yield _differing(publication, name, limit, established=established)


def _unused(selection: Selection, chosen: Tables, *, by_root: bool, established: bool) -> Iterator[Finding]:
    for name in chosen.limits_by_name:
        if name in selection.unheld:
            message, fix = unheld(by_root=by_root)
            yield SOURCE.error("limit-unused", qualified(*name), message, fix=fix, blocks=not established)
        elif name not in selection.limits:
            yield SOURCE.warning(
                "limit-unused",
                qualified(*name),
                "source.tables.limits names it, and it is no table that is replicated",
                fix="Names are matched as PostgreSQL stores them.",
            )


def _differs(sent: Limit, limit: Limit, wanted: Limit | None) -> bool:
    """`wanted`: as PostgreSQL has the limit; None where it could not be asked, so that of a filter nothing is
    known but whether there is one."""
    if wanted is not None:
        return sent != wanted
    columns = [None if each is None else set(each) for each in (sent.columns, limit.columns)]
    return columns[0] != columns[1] or (sent.where is None) != (limit.where is None)


def _differing(publication: Publication, name: TableName, limit: Limit, *, established: bool) -> Finding:
    message = (
        f"publication {publication.name} sends other columns or rows of it than source.tables.limits says"
    )
    if established:
        fix = f"It is part of the log's history: say what it sends, or {BEGIN_ANEW}."
        return SOURCE.error("limit-differs", qualified(*name), message, fix=fix, blocks=False)
    anew = [drop_table_sql(publication.name, name), add_tables_sql(publication.name, [name], {name: limit})]
    told = comment(
        "takes other rows from whoever else reads the publication: " + " ".join(f"{each};" for each in anew)
    )
    return SOURCE.error("limit-differs", qualified(*name), message, sql=told)
