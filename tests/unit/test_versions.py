"""Which versions of tables the log knows, where the stream tells less than it should."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from connectors.postgres.replication.pgoutput import RelationChanged
from pipeline.capture.entries.told import Told
from pipeline.capture.versions.versions import TableVersions
from schemas.entries import Entries
from schemas.errors import RefusedData
from schemas.table import Column, ReplicaIdentity, TableSchema

TABLE = TableSchema("crm", "customer", ReplicaIdentity.DEFAULT, (Column("id", 23, -1, "integer", True),))


def test_rows_that_no_schema_message_told_are_refused_by_their_tables_name() -> None:
    """Of a table that was described only before rows which the log has already."""
    told = {7: Told(7, "crm", "customer", columns="those of a later message")}
    tracking = SimpleNamespace(is_tracked=True, told=told)
    capture = SimpleNamespace(
        sql=None, chain=SimpleNamespace(publication=Entries()), tracking=tracking, live_tables=()
    )
    unused = cast("Any", None)
    versions = TableVersions(cast("Any", capture), unused, unused, publication="p")
    versions.begin(5, skipping=True)
    versions.described(RelationChanged(7, TABLE))
    with pytest.raises(RefusedData) as refused:
        versions.introduce(TABLE.id)
    assert refused.value.code == "schema-unconfirmed"
    assert refused.value.message == ("rows of crm.customer have other columns than its schema messages told")
