"""What is published of the kinds of schema change is what Keepstream does."""

from __future__ import annotations

import re
from pathlib import Path

from schemas.ddl.kinds import DEFAULTS, MEANINGS, NEVER_APPLIED, Kind, Policy

DOCUMENT = Path(__file__).parents[2] / "docs" / "schema-changes.md"


def test_the_published_table_has_every_kind_with_its_default_and_meaning() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*) \|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [(kind.value, DEFAULTS[kind].value, MEANINGS[kind]) for kind in Kind]


def test_nothing_that_loses_something_is_applied_unasked() -> None:
    waits = {kind for kind, policy in DEFAULTS.items() if policy is Policy.PAUSE}
    assert waits == {Kind.DROP_TABLE, Kind.DROP_COLUMN, Kind.ALTER_TYPE, Kind.DROP_SCHEMA, Kind.DROP_TYPE}
    assert not any(DEFAULTS[kind] is Policy.APPLY for kind in NEVER_APPLIED)
