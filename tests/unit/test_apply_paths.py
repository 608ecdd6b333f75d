"""When changes go as sets."""

from __future__ import annotations

import pytest

from pipeline.apply.paths import least_set_changes
from schemas.errors import UsageError


def test_a_test_says_from_how_many_changes_on() -> None:
    assert (least_set_changes({}), least_set_changes({"KEEPSTREAM_SET_CHANGES": "4"})) == (100, 4)


@pytest.mark.parametrize("text", ["", "0", "-1", "four", "9" * 5000])
def test_what_is_no_number_of_changes_is_the_caller_s_error_and_no_bug_of_ours(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        least_set_changes({"KEEPSTREAM_SET_CHANGES": text})
    assert caught.value.code == "variable-invalid"
