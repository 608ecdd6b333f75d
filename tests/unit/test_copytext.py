"""COPY's text format: what is encoded reads back as it was, whatever the values hold."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.postgres.copy.copytext import NotUtf8, encode_in_c, encode_in_python, encode_rows

_ESCAPES = {b"\\": b"\\", b"t": b"\t", b"n": b"\n", b"r": b"\r"}


def decode(block: bytes) -> list[list[bytes | None]]:
    """PostgreSQL's reading of it (CopyReadAttributesText), in its shortest form."""
    assert block.endswith(b"\n")
    return [[_value(field) for field in line.split(b"\t")] for line in block[:-1].split(b"\n")]


def _value(field: bytes) -> bytes | None:
    if field == b"\\N":
        return None
    pieces, rest = [], field
    while b"\\" in rest:
        plain, _, rest = rest.partition(b"\\")
        pieces += [plain, _ESCAPES[rest[:1]]]
        rest = rest[1:]
    return b"".join([*pieces, rest])


TEXT = st.one_of(
    st.none(),
    st.text(alphabet="a\\\t\n\r N.", max_size=6).map(str.encode),
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=6).map(
        str.encode
    ),
)


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(TEXT, min_size=n, max_size=n), min_size=1)))
def test_any_rows_read_back_as_they_were(rows: list[list[bytes | None]]) -> None:
    assert decode(encode_rows(rows)) == rows
    assert encode_in_python(rows) == encode_rows(rows)


@pytest.mark.skipif(encode_in_c is None and not os.environ.get("CI"), reason="no C compiler was found")
@given(st.lists(st.lists(st.none() | st.binary(max_size=9), min_size=2, max_size=2), min_size=1))
def test_in_c_any_bytes_read_back_as_they_were(rows: list[list[bytes | None]]) -> None:
    assert encode_in_c is not None
    assert decode(encode_in_c(rows)) == rows
    with pytest.raises(TypeError):
        encode_in_c([*rows, ["text"]])  # type: ignore[list-item]


def test_the_bytes_are_those_of_copy() -> None:
    rows: list[list[bytes | None]] = [[b"1", None, b""], [b"\\N", b"a\tb\nc\rd", b"\\x00"]]
    assert encode_rows(rows) == b"1\t\\N\t\n\\\\N\ta\\tb\\nc\\rd\t\\\\x00\n"
    assert encode_rows([]) == encode_in_python([]) == b""


@pytest.mark.parametrize("byte", [b"\xfd", b"\xfe", b"\xff"])
def test_a_byte_that_no_utf8_text_has_is_refused(byte: bytes) -> None:
    with pytest.raises(NotUtf8):
        encode_in_python([[b"a", b"b" + byte]])
