"""The demo's own proof, in plain SQL."""

from __future__ import annotations

from pipeline.demo.proof import differing_tables
from tests.fix_postgres import Database


def test_what_another_session_keeps_for_itself_is_not_compared(source: Database, replica: Database) -> None:
    """Apply has staging tables, which nobody else may read."""
    for side in (source, replica):
        side.execute_as_admin("create table t as select 1 as id")
    with replica.connect() as apply:
        apply.execute("create temporary table stage as select 2 as id")
        assert differing_tables(source.admin_dsn, replica.admin_dsn) == []
        replica.execute_as_admin("update t set id = 3")
        assert differing_tables(source.admin_dsn, replica.admin_dsn) == ["public.t"]
