"""Every key that keepstream.yaml may have is told to people, and no other one is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from pipeline.config import Config
from pipeline.config.loading import keys_of
from pipeline.config.template import Choices, render_config

REFERENCE = Path(__file__).parents[2] / "docs" / "configuration.md"


def keys(part: type[BaseModel], above: str = "") -> Iterator[str]:
    """Dotted names; NAME stands for what people choose. A part itself is a key only where it is chosen."""
    for name, field in zip(keys_of(part), part.model_fields.values(), strict=True):
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from keys(inner, f"{above}{name}.")
        elif chosen := [
            arg for arg in get_args(inner) if isinstance(arg, type) and issubclass(arg, BaseModel)
        ]:
            yield f"{above}{name}.NAME"
            yield from keys(chosen[0], f"{above}{name}.NAME.")
        else:
            yield f"{above}{name}"


def test_the_walk_finds_keys_of_every_depth() -> None:
    assert {"name", "log.retain", "source.tables.include", "replicas.NAME.delay"} <= set(keys(Config))


def test_the_reference_describes_every_key_and_no_other() -> None:
    described = re.findall(r"^\| `([\w.]+)` \|", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(described) == sorted(keys(Config))


@pytest.mark.parametrize("replicas", [{}, {"standby": "postgresql://standby/crm"}])
def test_the_file_that_init_writes_mentions_every_section(replicas: dict[str, str]) -> None:
    text = render_config(Choices("crm", "postgresql://crm-db/crm", "file:///log", replicas))
    mentioned = set(re.findall(r"^(?:# )?(\w+):", text, re.MULTILINE))
    assert mentioned == set(keys_of(Config))
