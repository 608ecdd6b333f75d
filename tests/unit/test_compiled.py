"""What is written in C is there and used where there is a compiler, as in CI; the Python is not, unseen."""

from __future__ import annotations

import os

import pytest

from connectors.postgres.apply import set_plans
from connectors.postgres.copy import copytext
from connectors.postgres.replication import copydata, runs
from schemas import changecodec, framecodec, rowcode
from schemas.compiled import find_compiled

BUILT = find_compiled("schemas._rowcode", "encode_row") is not None


@pytest.mark.skipif(not BUILT and not os.environ.get("CI"), reason="no C compiler was found")
def test_every_function_in_c_is_found() -> None:
    for found in (
        rowcode.encode_row,
        rowcode.decode_row,
        changecodec.encode_row_change,
        changecodec.walk_changes,
        changecodec.are_rows,
        changecodec.split_by_table,
        framecodec.decode_transactions,
        copytext.encode_in_c,
        set_plans.encode_apart,
        copydata.take_in_c,
        runs._encode_changes,
        runs._encode_transactions,
    ):
        assert type(found).__name__ == "builtin_function_or_method"


def test_what_was_not_built_is_none() -> None:
    assert find_compiled("schemas._nothing", "encode_row") is None
    assert find_compiled("schemas.compiled", "no_such_function") is None
