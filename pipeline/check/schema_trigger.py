"""The source's event triggers: are they there, do they tell every change, and may capture read their key?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from connectors.postgres.catalog.tables import Table
from connectors.postgres.ddl.install import VERSION, enable_sql, grants_sql
from connectors.postgres.ddl.installed import Installed, larger_than_sent, read_installed
from connectors.postgres.session import Session, wrapped
from pipeline.check.findings import SOURCE, named
from pipeline.quantities import human_bytes
from schemas.finding import Finding

_SUBJECT = "schema changes"
_RAISE = "update keepstream.schema_settings set max_rows_bytes = {};"
_INSTALL = (
    "Run `keepstream schema install` as a role that may create event triggers, or give such a role what"
    " `keepstream schema install --print` prints."
)


def check_schema_trigger(session: Session) -> Finding:
    """One finding. None of its errors keeps stages from running: capture itself knows what it can follow."""
    found = read_installed(session)
    if found is None:
        return SOURCE.note(
            "schema-trigger-absent",
            _SUBJECT,
            "no event triggers: ADD COLUMN is followed, other DDL on published tables stops capture",
            fix=f"To follow schema changes: {_INSTALL}",
        )
    if not found.readable:
        return _unreadable(session)
    if not found.is_current:
        return SOURCE.error("schema-trigger-outdated", _SUBJECT, _seen(found), fix=_INSTALL, blocks=False)
    if found.disabled:
        return SOURCE.error(
            "schema-trigger-disabled",
            _SUBJECT,
            f"event triggers do not fire in every session: {', '.join(found.disabled)}",
            sql=enable_sql(),
            blocks=False,
        )
    return SOURCE.ok(
        "schema-trigger", _SUBJECT, f"are told by event triggers of version {found.version}, which all fire"
    )


def check_rewrites(session: Session, tables: Sequence[Table]) -> Iterator[Finding]:
    """Tables whose rows the event triggers, which must work, would not send if a command rewrote them."""
    names = {table.oid: table.qualified_name for table in tables}
    larger = larger_than_sent(session, list(names))
    if larger:
        limit, enough = larger[0].limit_bytes, 1 << larger[0].size_bytes.bit_length()
        shown = named([f"{names[each.oid]} ({human_bytes(each.size_bytes)})" for each in larger])
        yield SOURCE.note(
            "rewrite-too-large",
            _SUBJECT,
            f"no more than {human_bytes(limit)} of a table are sent anew: at a command that rewrites rows"
            f" (ALTER COLUMN … TYPE, a volatile default) of {shown} replicas empty the table and copy it"
            " again",
            fix=f"To have them sent, with room for the rows in the source's WAL: {_RAISE.format(enough)}",
        )


def _unreadable(session: Session) -> Finding:
    with wrapped("reading our role's name"):
        row = session.execute("select current_user").fetchone()
    assert row is not None
    return SOURCE.error(
        "schema-trigger-unreadable",
        _SUBJECT,
        f"event triggers are installed, but {row[0]} may not read the key of their messages",
        sql=grants_sql(row[0]),
        blocks=False,
    )


def _seen(found: Installed) -> str:
    if found.version != VERSION:
        return f"the event triggers are of version {found.version}, this release has {VERSION}"
    if not found.at_home:
        return "the event triggers came with a restored dump, or from before an upgrade of the server"
    return f"event triggers are missing: {', '.join(found.missing)}"
