"""A table joins with what stands for its name then, whatever it was called while it was dumped."""

from __future__ import annotations

from dataclasses import replace

import pytest

from connectors.interfaces import ChangeLog
from connectors.postgres.catalog.tableddl import TableDdl, dump_table
from pipeline.config.model import Tables
from schemas.change import Message
from schemas.join import Join
from tests.capturing import begun, capture_options, capturing
from tests.fix_postgres import Database


def test_a_table_whose_schema_is_renamed_while_it_is_dumped_joins_as_its_new_name_may(
    source: Database, change_log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed: list[str] = []

    def dump_and_rename(*arguments: object, **named: object) -> TableDdl:
        dumped = dump_table(*arguments, **named)  # type: ignore[arg-type]
        if not renamed:
            renamed.append("made")
            source.execute("alter schema made rename to live")
        return dumped

    monkeypatch.setattr("pipeline.capture.joins.definitions.dump_table", dump_and_rename)
    monkeypatch.setattr("pipeline.capture.housekeeping.LOOK_EVERY_S", 0.2)
    source.grant_ownership()
    limits = Tables.model_validate({"limits": {"live.lead": {"columns": ["id"]}}})
    with capturing(replace(capture_options(source, change_log), tables=limits)):
        content = begun(change_log)
        source.execute(
            "create schema made; create table made.lead (id int primary key, note text);"
            " insert into made.lead values (1, 'hidden')"
        )
        content.wait(lambda now: bool(now.committed), "the join")
    told = [change.payload for change in content.committed[0].changes if isinstance(change.payload, Message)]
    join = Join.from_json(told[0].content)
    assert (join.schema, join.columns) == ("live", ("id",))
    assert not any(b"hidden" in each.content for each in told)
