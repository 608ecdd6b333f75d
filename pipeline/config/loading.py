"""keepstream.yaml → Config, or one ConfigError that lists everything wrong with it."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline.config import document as yaml_document
from pipeline.config.document import Document
from pipeline.config.expansion import expand
from pipeline.config.model import Config, Log, Replica, SchemaChanges, Source, Tables, Tools
from pipeline.config.reading import read_bytes
from schemas.errors import ConfigError

logger = logging.getLogger("keepstream.config")

DEFAULT_PATH = Path("keepstream.yaml")

_NO_MAPPING = frozenset({"model_type", "model_attributes_type", "dict_type", "mapping_type"})

_PARTS: dict[tuple[str, ...], type[BaseModel]] = {
    (): Config,
    ("source",): Source,
    ("source", "tables"): Tables,
    ("log",): Log,
    ("replicas", "NAME"): Replica,
    ("replicas", "NAME", "schema"): SchemaChanges,
    ("schema",): SchemaChanges,
    ("tools",): Tools,
}


def load_config(
    path: Path = DEFAULT_PATH, environment: Mapping[str, str] = os.environ, *, warn: bool = True
) -> Config:
    """Read and validate a file. Warns (log) if others may read it, unless told not to.

    Raises ConfigError: `config-missing`, `config-unreadable`, `config-yaml`, `config-invalid`.
    """
    config = parse_config(_read(path), name=str(path), environment=environment)
    if warn and readable_by_others(path):
        logger.warning(
            "configuration is readable by others", extra={"file": str(path), "fix": f"chmod 600 {path}"}
        )
    return config.remember_path(path)


def parse_config(text: str, *, name: str, environment: Mapping[str, str]) -> Config:
    """The same from the file's text; `name` is what messages call it."""
    document = yaml_document.parse_document(text, name)
    config = _validate(document, expand(document, environment))
    if config is None or document.faults:
        raise _invalid(document)
    return config


def faults_of(text: str, *, name: str, environment: Mapping[str, str]) -> list[str]:
    """What is wrong with a file whose variables need not be set yet. Raises ConfigError (`config-yaml`)."""
    document = yaml_document.parse_document(text, name)
    _validate(document, expand(document, environment, unset_is_fault=False))
    return document.fault_lines()


def _validate(document: Document, value: Any) -> Config | None:
    """None: no configuration could be made; why is in `document.faults`."""
    if not isinstance(value, dict):
        document.fault((), "expected a mapping with the keys name, source, log and replicas")
        return None
    try:
        return Config.model_validate(value)
    except ValidationError as error:
        _note_faults(error, document)
    return None


def readable_by_others(path: Path) -> bool:
    return bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))


def _read(path: Path) -> str:
    try:
        return read_bytes(path).decode()
    except FileNotFoundError:
        raise ConfigError(
            f"there is no configuration file {path}",
            code="config-missing",
            hint="Write one with `keepstream init`, or name yours with `keepstream -c FILE …` or "
            "$KEEPSTREAM_CONFIG.",
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not UTF-8 text: byte {error.start}",
            code="config-unreadable",
            hint="Save the file as UTF-8.",
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}",
            code="config-unreadable",
            hint=f"Make it readable for the user that runs keepstream: ls -l {path}",
        ) from None


def _invalid(document: Document) -> ConfigError:
    lines = document.fault_lines()
    message = lines[0] if len(lines) == 1 else f"{len(lines)} errors\n  " + "\n  ".join(lines)
    return ConfigError(
        message,
        code="config-invalid",
        hint=f"Mend {document.name}; docs/configuration.md describes every key.",
    )


def _note_faults(error: ValidationError, document: Document) -> None:
    for fault in error.errors(include_url=False, include_input=False, include_context=False):
        path = fault["loc"]
        path = path[:-1] if path[-1:] == ("[key]",) else path  # as pydantic says it of a mapping's key
        dotted = ".".join(str(part) for part in path)
        if fault["type"] == "extra_forbidden":
            document.fault(path, f"unknown key `{dotted}`{_suggestion(path)}", of_key=True)
        elif fault["type"] == "missing":
            document.fault(path, f"`{dotted}` is missing")
        elif fault["type"] in _NO_MAPPING:
            document.fault(path, f"`{dotted}` is empty or no mapping")
        elif fault["type"] == "tuple_type":
            document.fault(path, f"`{dotted}` must be a list: write its values between [ and ]")
        elif fault["type"] == "string_type":
            document.fault(path, f"`{dotted}` must be a text: write it between double quotes")
        else:
            document.fault(path, f"{_subject(dotted)}{_sentence(fault['msg'])}")


def _subject(dotted: str) -> str:
    return f"`{dotted}` " if dotted else ""


def _sentence(message: str) -> str:
    text = message.removeprefix("Value error, ").removeprefix("Input ")
    return text[:1].lower() + text[1:]


def _suggestion(path: tuple[int | str, ...]) -> str:
    """`; did you mean …`, or where the key belongs, or nothing."""
    key, here = str(path[-1]), _shape(path[:-1])
    close = get_close_matches(key, _keys(here), n=1)
    if close:
        return f"; did you mean `{close[0]}`?"
    for there in _PARTS:
        if there != here and key in _keys(there):
            return f"; it belongs under `{'.'.join(there)}`" if there else "; it belongs at the top level"
    return f"; known here: {', '.join(_keys(here))}"


def _shape(path: tuple[int | str, ...]) -> tuple[str, ...]:
    parts = tuple(str(part) for part in path)
    return ("replicas", "NAME", *parts[2:]) if len(parts) >= 2 and parts[0] == "replicas" else parts


def _keys(shape: tuple[str, ...]) -> list[str]:
    model = _PARTS.get(shape)
    return keys_of(model) if model else []


def keys_of(model: type[BaseModel]) -> list[str]:
    """As they stand in the file."""
    return [field.alias or name for name, field in model.model_fields.items()]
