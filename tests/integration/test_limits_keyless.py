"""`keyless: full` beside limits: what these do not allow is refused before a table is altered."""

from __future__ import annotations

import pytest

from connectors.interfaces import ChangeLog
from connectors.postgres.limits.harmless import preview
from connectors.postgres.session import connect
from pipeline.config.limits import TableLimit
from pipeline.dev.process import require
from schemas.errors import OperatorNeeded
from tests.capturing import RunningCapture, begun, capturing
from tests.fix_postgres import Database
from tests.limited import limiting

LISTED, FILTERED = TableLimit(columns=("id", "n")), TableLimit(where="n <> 'x'")
TABLES = "create table {} (id int, n text, secret text); create table {} (id int, n text)"


def identities(source: Database) -> dict[str, str]:
    return dict(source.execute("select relname, relreplident from pg_class where relname ~ '^(a|b|c|d)_'"))


@pytest.fixture
def owned(source: Database) -> Database:
    source.grant_ownership()
    return source


def test_a_list_is_refused_before_any_replica_identity_is_altered(
    owned: Database, change_log: ChangeLog
) -> None:
    owned.execute(TABLES.format("a_listed", "b_filtered"))
    running = RunningCapture(limiting(owned, change_log, a_listed=LISTED, b_filtered=FILTERED))
    assert running.ended_with().code == "limit-unfit"
    assert identities(owned) == {"a_listed": "d", "b_filtered": "d"}
    with connect(owned.dsn, purpose="test") as session:
        few = preview(session, ("public", "b_filtered"), FILTERED.limit, by_root=False, make_full=True)
        assert few is not None
        with pytest.raises(OperatorNeeded, match="replica identity full with a column list"):
            preview(session, ("public", "a_listed"), LISTED.limit, by_root=False, make_full=True)


def test_a_table_that_would_join_with_a_list_is_refused_before_its_replica_identity_is_altered(
    owned: Database, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.capture.housekeeping.LOOK_EVERY_S", 0.1)
    with capturing(limiting(owned, change_log, c_listed=LISTED, d_filtered=FILTERED)) as running:
        begun(change_log)
        owned.execute(TABLES.format("c_listed", "d_filtered"))
        require(lambda: identities(owned)["d_filtered"] == "f", 20.0, what="the other one's joining")

        def is_refused() -> bool:
            told = running.reports[-1].not_replicated if running.reports else ()
            return any(one.table == "public.c_listed" and "limit-unfit" in one.reason for one in told)

        require(is_refused, 20.0, what="the refusal")
    assert identities(owned)["c_listed"] == "d"
