"""The text that says where an anchor stands: read back as written, and nothing else taken for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.follow import AnchorHint


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32))
def test_a_hint_is_read_back_as_it_was_written(place: int, number: int, digest: bytes) -> None:
    written = str(AnchorHint(place, number, digest))
    parsed = AnchorHint.parse(written)
    assert parsed == AnchorHint(place, number, digest[:8])
    assert str(parsed) == written


@pytest.mark.parametrize(
    "text",
    [
        "",
        "None",
        "7",
        "7:1",
        "7:1:",
        "7:1:ab",
        "-7:1:0011223344556677",
        "7:1:00112233445566XY",
        "٧:1:0011223344556677",
    ],
)
def test_what_is_not_written_like_a_hint_is_none(text: str) -> None:
    assert AnchorHint.parse(text) is None
