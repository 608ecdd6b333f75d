"""Names that Avro allows, for any name that PostgreSQL allows: reversible, so never colliding.

Avro names match [A-Za-z_][A-Za-z0-9_]*. Any other character, a leading digit, and an underscore that
would look like the start of an escape become `_x` + the code point in hex + `_`:

    e-mail    e_x2d_mail        2nd       _x32_nd        _xa    _x5f_xa
"""

from __future__ import annotations

import re
from typing import Final

# After an unescaped `_` there is never `x` and a hex digit, so an escape is never mistaken.
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_]|^[0-9]|_(?=x[0-9a-f])")
_ESCAPE: Final = re.compile(r"_x([0-9a-f]+)_")


def encode_name(name: str) -> str:
    """A PostgreSQL identifier → an Avro name. Plain ones stay as they are."""
    return _UNSAFE.sub(lambda match: f"_x{ord(match[0]):x}_", name)


def decode_name(name: str) -> str:
    """What `encode_name` was given."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), name)
