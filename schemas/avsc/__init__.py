"""The Avro schemas of everything Keepstream writes, as .avsc files in this package."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from fastavro import parse_schema


def load(file: str) -> Any:
    """The parsed schema in `file`, for fastavro."""
    return parse_schema(json.loads(files(__package__).joinpath(file).read_text(encoding="utf-8")))


def load_named(file: str, record: str, *, field: str) -> Any:
    """The parsed schema of one field of the top record in `file`."""
    schema = json.loads(files(__package__).joinpath(file).read_text(encoding="utf-8"))
    if schema["name"] != record:
        raise KeyError(record)
    found = next(entry["type"] for entry in schema["fields"] if entry["name"] == field)
    return parse_schema(found)
