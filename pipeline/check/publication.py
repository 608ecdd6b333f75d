"""The publication: may we make it, or is the one that stands the one we need?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from psycopg import sql

from connectors.postgres.catalog.publication import (
    Publication,
    add_tables_sql,
    create_publication_sql,
    drop_table_sql,
    give_publication_sql,
)
from connectors.postgres.catalog.replica_identity import full_identity_sql, identity_sql, index_identity_sql
from connectors.postgres.catalog.tables import Table
from connectors.postgres.instance import has_role, lending_sql, superusers
from connectors.postgres.limits.limit import Limits
from connectors.postgres.limits.unsent import read_toastable
from connectors.postgres.server import Role
from connectors.postgres.session import Session
from pipeline.check.findings import SOURCE, comment, losing
from pipeline.check.partitions import check_partitions
from pipeline.config import Keyless, Partitions
from pipeline.reports import Endangered
from pipeline.selection import EXCLUDED, Selection, is_by_root
from schemas.errors import BEGIN_ANEW
from schemas.finding import Finding


def check_publication(
    session: Session,
    name: str,
    publication: Publication | None,
    selection: Selection,
    role: Role,
    *,
    established: bool,
    partitions: Partitions = Partitions.LEAVES,
) -> Iterator[Finding]:
    """`established`: the slot exists, so that the publication is part of the history (P11)."""
    by_root = is_by_root(publication, partitions)
    if publication is None:
        yield _may_be_made(session, name, selection, role, by_root=by_root)
        return
    mixed = tuple(check_partitions(publication, partitions, established=established))
    if mixed:
        yield from mixed
        return
    problems = publication.problems
    if problems:
        yield _unfit(session, publication, selection, problems, established=established)
        return
    limited = sum(table.columns is not None or table.is_filtered for table in publication.tables)
    some = f", of {limited} of them some columns or rows only" if limited else ""
    yield SOURCE.ok("publication", f"publication {name}", f"lists {len(publication.tables)} tables{some}")
    may_join = has_role(session, publication.owner)
    if not (established or may_join) and superusers(session, [publication.owner]):
        yield _of_superuser(session, publication, selection)
    missing = publication.lacks(selection.wanted)
    if missing:
        yield _incomplete(
            session,
            publication,
            missing,
            role,
            limits=selection.limits,
            may_join=may_join,
            established=established,
        )
    yield from _unwanted(publication, selection)


def check_endangered(
    session: Session,
    tables: Iterable[Table],
    publication: Publication | None,
    keyless: Keyless,
    *,
    established: bool,
) -> Iterator[Finding]:
    """Published tables whose UPDATE and DELETE fail in the application now, or reach no replica, whatever the
    configuration says of them. Once the pipeline runs, nothing is gained by keeping capture from starting: it
    may mend them."""
    listed = {table.oid for table in publication.tables} if publication else set()
    for table in tables:
        if publication is None or table.oid not in listed or table.identity_problem is None:
            continue
        helps = table.owned and table.full_problem is None
        may_leave = not helps and has_role(session, publication.owner)
        if table.writes_fail:
            code, seen = "writes-fail", "fail in the application, because it is published"
        else:
            code, seen = "replica-identity", "do not tell replicas of which row they are"
        yield SOURCE.error(
            code,
            table.qualified_name,
            f"its UPDATE and DELETE {seen}: {table.identity_problem}",
            sql=identity_sql(table) or _key_needed(table, publication, may_leave=may_leave),
            blocks=not (established or (helps and keyless is Keyless.FULL)),
        )


def check_filtered(
    session: Session, tables: Iterable[Table], publication: Publication | None
) -> Iterator[Finding]:
    """Filtered tables of which a row can come without all of its values."""
    toastable = read_toastable(session, publication.name) if publication is not None else {}
    for table in tables:
        yield from filter_incomplete(table, toastable.get(table.oid, ()))


def filter_incomplete(table: Table, toastable: Iterable[str]) -> Iterator[Finding]:
    """`toastable`: columns of a filtered table, as `read_toastable` has them."""
    unsent = [name for name in toastable if name not in table.identity_columns]
    if unsent:
        yield SOURCE.warning(
            "filter-incomplete",
            table.qualified_name,
            "an UPDATE of its key that brings a row into the row filter comes without long values that it"
            f" leaves as they are ({', '.join(unsent)}): capture stops there (row-incomplete)",
            **_filter_remedy(table),
        )


def _filter_remedy(table: Table) -> dict[str, str]:
    if table.full_problem is None:
        return {"sql": f"{full_identity_sql((table.schema, table.name))};"}
    return {
        "fix": "See to it that no UPDATE of a key does that: no REPLICA IDENTITY FULL goes with its list."
    }


def check_left(left: Iterable[Endangered]) -> Iterator[Finding]:
    """Tables that capture took out of the publication, as it tells of them."""
    for each in left:
        yield SOURCE.warning("table-left", each.table, each.left_seen, fix=each.fix)


def _key_needed(table: Table, publication: Publication, *, may_leave: bool) -> str:
    """`may_leave`: capture can take the table out of the publication by itself (docs/decisions/010)."""
    name = (table.schema, table.name)
    ways = [
        "give it a primary key, or a unique index on NOT NULL columns and:",
        index_identity_sql(name, "INDEX_NAME"),
        "or start Keepstream: capture takes it out of the publication"
        if may_leave
        else f"or at once, and then {BEGIN_ANEW}:\n{drop_table_sql(publication.name, name)};",
    ]
    return "\n".join(map(comment, ways))


def _may_be_made(session: Session, name: str, selection: Selection, role: Role, *, by_root: bool) -> Finding:
    subject = f"publication {name}"
    foreign = sorted({table.owner for table in selection.wanted if not table.owned})
    if role.creates_in_database and not foreign:
        return SOURCE.ok("publication", subject, f"will be made, with {len(selection.wanted)} tables")
    lacks = (
        f"not the owner of its tables ({', '.join(foreign)})" if foreign else "without CREATE on the database"
    )
    database = sql.Identifier(session.info.dbname).as_string()
    ours, version = sql.Identifier(role.name).as_string(), session.info.server_version
    lend = _lend(session, foreign, role)
    return SOURCE.error(
        "privilege-publication",
        subject,
        f"does not exist, and {role.name} cannot make it, being {lacks}",
        sql="\n".join(
            [
                "-- as the owner of the tables, or as a superuser, who gives it to that:",
                create_publication_sql(
                    name,
                    selection.names,
                    server_version=version,
                    by_root=by_root,
                    limits=selection.limits,
                )
                + ";",
                *_give(session, name, selection.wanted),
                "-- or lend the owner's rights, so that new tables join by themselves:",
                *map(comment, [f"grant create on database {database} to {ours};", *lend]),
            ]
        ),
    )


def _of_superuser(session: Session, publication: Publication, selection: Selection) -> Finding:
    """Before the first start: afterwards it can be given away only at the price of beginning anew (P11)."""
    return SOURCE.warning(
        "publication-of-superuser",
        f"publication {publication.name}",
        f"belongs to {publication.owner}, a superuser, whose rights are not to be lent, so that no table can"
        " join later; once it runs, giving it away means to begin anew",
        sql="\n".join(_give(session, publication.name, selection.wanted)),
    )


def _give(session: Session, name: str, tables: Iterable[Table]) -> Iterator[str]:
    """The publication, to whom `init --grants` gives it. Who of several owners gets it is not ours to say."""
    owners = _lenders(session, tables)
    if len(owners) == 1:
        yield f"{give_publication_sql(name, owners[0])};"
        return
    yield "-- so that tables can join later, as a superuser to a role that is none:"
    for owner in owners or (None,):
        yield comment(f"{give_publication_sql(name, owner)};")


def _lenders(session: Session, tables: Iterable[Table]) -> list[str]:
    """The owners of the tables whose rights can be lent."""
    owners = {table.owner for table in tables}
    return sorted(owners - superusers(session, owners))


def _unfit(
    session: Session,
    publication: Publication,
    selection: Selection,
    problems: tuple[str, ...],
    *,
    established: bool,
) -> Finding:
    subject, message = f"publication {publication.name}", "; ".join(problems)
    if established:
        return SOURCE.error(
            "publication-unfit",
            subject,
            message,
            fix=f"It is part of the log's history: {BEGIN_ANEW}.",
        )
    name = sql.Identifier(publication.name).as_string()
    version = session.info.server_version
    made = create_publication_sql(
        publication.name,
        selection.names,
        server_version=version,
        by_root=publication.via_partition_root,
        limits=selection.limits,
    )
    anew = [losing("it for whoever else reads it", f"drop publication {name};"), comment(f"then: {made};")]
    message += "; to make it anew takes it from whoever else reads it"
    return SOURCE.error("publication-unfit", subject, message, sql="\n".join(anew))


def _incomplete(
    session: Session,
    publication: Publication,
    missing: list[Table],
    role: Role,
    *,
    limits: Limits,
    may_join: bool,
    established: bool,
) -> Finding:
    subject = f"publication {publication.name}"
    names = [(table.schema, table.name) for table in missing]
    message = f"lacks {len(missing)} tables: {', '.join(table.qualified_name for table in missing[:10])}"
    if may_join and all(table.owned for table in missing):
        return SOURCE.note("tables-join", subject, f"{message}; they join by themselves")
    if not established:
        return SOURCE.warning(
            "tables-not-published",
            subject,
            f"{message}; {role.name} may not add them, and once it runs nobody else may",
            sql="-- as the owner of publication and tables, before the first start:\n"
            f"{add_tables_sql(publication.name, names, limits)};",
        )
    message += f"; {role.name} may not add them, and a change by anybody else would break the history"
    owners = sorted({publication.owner, *(table.owner for table in missing)} - {role.name})
    if superusers(session, [publication.owner]):
        return SOURCE.warning(
            "tables-not-published", subject, message, fix=_too_late(session, publication, missing)
        )
    lend = "\n".join(_lend(session, owners, role))
    return SOURCE.warning("tables-not-published", subject, message, sql=lend)


def _too_late(session: Session, publication: Publication, missing: list[Table]) -> str:
    """A superuser's rights are not to be lent, and giving its publication away is a change of that (P11)."""
    lenders = _lenders(session, missing)
    give = give_publication_sql(publication.name, next(iter(lenders), None))
    lend = "".join(f" {lending_sql(owner, session.info.user)}" for owner in lenders)
    return (
        "Leave them out (source.tables.exclude). The publication belongs to a superuser, and giving it away"
        f" is such a change, too: to replicate them, stop, run `{give};{lend}`, then {BEGIN_ANEW}. A table"
        " that belongs to a superuser needs another owner first."
    )


def _lend(session: Session, owners: list[str], role: Role) -> Iterator[str]:
    """The owners' rights for our role. Those of a superuser would make a superuser of it."""
    barred = superusers(session, owners)
    for owner in owners:
        if owner in barred:
            name = sql.Identifier(owner).as_string()
            yield comment(
                f"{name} is a superuser: let another role own the tables, and lend the rights of that"
            )
        else:
            yield lending_sql(owner, role.name)


def _unwanted(publication: Publication, selection: Selection) -> Iterator[Finding]:
    """But for those that lack a key, which are `check_endangered`'s."""
    wanted = {table.oid for table in selection.wanted}
    reasons = {left_out.table: left_out.reason for left_out in selection.not_replicated}
    for table in publication.tables:
        name = table.qualified_name
        if table.oid not in wanted and reasons.get(name, EXCLUDED) == EXCLUDED:
            yield SOURCE.warning(
                "table-published-unwanted",
                name,
                f"is in publication {publication.name} although it is not to be replicated:"
                f" {reasons.get(name, 'not selected')}",
                fix=f"Take it up in source.tables, or {BEGIN_ANEW}.",
            )
