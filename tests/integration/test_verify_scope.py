"""Which tables `verify` and `snapshot` take, and what they say of others, by what the publication sends."""

from __future__ import annotations

import pytest

from connectors.postgres.catalog.publication import is_via_root
from connectors.postgres.catalog.tables import list_tables
from connectors.postgres.copy.snapshot_tables import published_tables
from connectors.postgres.session import connect
from pipeline.config import Keyless, TablePattern, Tables
from pipeline.selection import EXCLUDED
from pipeline.verify.scope import Scope, choose_tables, not_replicated
from schemas.errors import OperatorNeeded
from tests.fix_postgres import Database

TREE = """
    create table t (id int primary key);
    create table ev (id int primary key) partition by range (id);
    create table mid partition of ev default partition by range (id);
    create table leaf partition of mid default;
"""


@pytest.mark.parametrize(
    ("published", "left_out", "why"),
    [
        (
            "t with (publish_via_partition_root)",
            [("public.ev", EXCLUDED)],
            {
                "ev": f"public.ev: {EXCLUDED}",
                "leaf": "public.leaf: it is a partition of public.ev, which is not replicated",
            },
        ),
        (
            "t, ev with (publish_via_partition_root)",
            [],
            {"leaf": "public.leaf: it is a partition of public.ev, which is replicated as a whole"},
        ),
        (
            "t",
            [("public.leaf", "not in the publication")],
            {
                "mid": "public.mid: none of its partitions is replicated",
                "leaf": "public.leaf: not in the publication",
            },
        ),
    ],
)
def test_tables_that_are_not_replicated_are_those_that_the_publication_does_not_send(
    source: Database, published: str, left_out: list[tuple[str, str]], why: dict[str, str]
) -> None:
    source.execute(TREE)
    source.execute_as_admin(f"create publication p for table {published}")
    tables = Tables(exclude=(TablePattern("public.ev"),))
    with connect(source.admin_dsn, purpose="test") as session:
        found, catalog = published_tables(session, "p"), list_tables(session, publication="p")
        by_root = is_via_root(session, "p")
    others = not_replicated(Scope(tables, Keyless.REFUSE), catalog, found, by_root=by_root)
    assert [(each.table, each.reason) for each in others] == left_out
    for name, reason in why.items():
        scope = Scope(tables, Keyless.REFUSE, (TablePattern(f"public.{name}"),))
        with pytest.raises(OperatorNeeded) as refused:
            choose_tables(found, catalog, scope, by_root=by_root)
        assert str(refused.value.message).endswith(f"({reason})")
