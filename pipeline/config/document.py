"""YAML text → plain values, remembering at which line and column each key and value stands."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

import yaml

from schemas.errors import ConfigError

Path = tuple[str | int, ...]

MAX_VALUES, MAX_DEPTH = 10_000, 20
"""Bounds of a file, with its aliases written out: no real one comes near."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Line and column, both from 1."""

    line: int = 1
    column: int = 1


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """Something wrong with the file, and where."""

    place: Place
    text: str


@dataclass(slots=True)
class Document:
    """`value` is made of dict, list and scalars. Places are by path, such as ("source", "url").

    What stands at an `unexpanded` place is not the value that was meant: no more is said of it.
    """

    name: str
    value: Any = None
    keys: dict[Path, Place] = field(default_factory=dict)
    values: dict[Path, Place] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    unexpanded: set[Place] = field(default_factory=set)

    def fault(self, path: Path, text: str, *, of_key: bool = False) -> None:
        """Note a fault at the longest part of `path` that is written in the file."""
        for length in range(len(path), -1, -1):
            known = self.keys if of_key and path[:length] in self.keys else self.values
            if path[:length] in known:
                if known[path[:length]] not in self.unexpanded:
                    self.faults.append(Fault(known[path[:length]], text))
                return
        self.faults.append(Fault(Place(), text))

    def fault_lines(self) -> list[str]:
        """`keepstream.yaml:4:3: …`, in the file's order, each once."""
        return [
            f"{self.name}:{fault.place.line}:{fault.place.column}: {fault.text}"
            for fault in sorted(set(self.faults))
        ]


def parse_document(text: str, name: str) -> Document:
    """Raises ConfigError (`config-yaml`) with line, column and what was expected."""
    document = Document(name)
    try:
        with contextlib.closing(_Loader(text)) as loader:
            node = loader.get_single_node()
            document.value = None if node is None else _convert(loader, node, (), document)
    except yaml.YAMLError as error:
        raise _broken(error, name) from None
    except RecursionError:
        raise _too_big(name) from None
    return document


class _Loader(yaml.SafeLoader):
    def close(self) -> None:
        self.dispose()


def _convert(loader: _Loader, node: yaml.Node, path: Path, document: Document) -> Any:
    document.values[path] = _place(node.start_mark)
    if len(document.values) > MAX_VALUES or len(path) > MAX_DEPTH:
        raise _too_big(document.name)
    if isinstance(node, yaml.SequenceNode):
        return [_convert(loader, item, (*path, i), document) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)
        return _convert_mapping(loader, node, path, document)
    try:
        return loader.construct_object(node)
    except (ValueError, LookupError, ArithmeticError, AttributeError):
        # PyYAML lets these out where a tag, or what a plain text looks like, does not fit its value.
        kind = str(node.tag).rpartition(":")[2]
        document.fault(path, f"is no {kind}, although it looks like one: write it between double quotes")
        document.unexpanded.add(document.values[path])
        return None


def _convert_mapping(
    loader: _Loader, node: yaml.MappingNode, path: Path, document: Document
) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            document.faults.append(Fault(_place(key_node.start_mark), "a key must be a plain text"))
            continue
        key = str(key_node.value)
        if key in mapping:
            document.faults.append(Fault(_place(key_node.start_mark), f"`{key}` is written twice"))
        document.keys[(*path, key)] = _place(key_node.start_mark)
        mapping[key] = _convert(loader, value_node, (*path, key), document)
    return mapping


def _place(mark: yaml.Mark | None) -> Place:
    return Place(mark.line + 1, mark.column + 1) if mark else Place()


def _broken(error: yaml.YAMLError, name: str) -> ConfigError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not readable as YAML"
    context = getattr(error, "context", None)
    return ConfigError(
        f"{place}: broken YAML: {problem}" + (f" {context}" if context else ""),
        code="config-yaml",
        hint="Mend that line: indent with spaces, write `key: value`, and put a text that holds "
        "`: `, ` #`, `{` or `}` between double quotes.",
    )


def _too_big(name: str) -> ConfigError:
    return ConfigError(
        f"{name}: more than {MAX_VALUES} values or {MAX_DEPTH} levels, with its aliases written out",
        code="config-yaml",
        hint="Write the file without YAML aliases that multiply.",
    )
