"""`${VAR}` and `${file:/path}` inside the configuration's texts; `$$` is a plain dollar sign."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.config.document import Document, Path

_REFERENCE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>[^{}]*)\}|(?P<open>\{))")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class _Fault(Exception):
    """Why one reference cannot be expanded."""


class _Unset(_Fault):
    """The variable may be set later."""


def expand(document: Document, environment: Mapping[str, str], *, unset_is_fault: bool = True) -> Any:
    """The document's value with every reference replaced.

    What cannot be replaced goes to `document.faults`, and the text stays as it was; an unset variable
    only if `unset_is_fault`.
    """

    def expanded(text: str, path: Path) -> str:
        try:
            return _REFERENCE.sub(lambda match: _replacement(match, environment), text)
        except _Fault as fault:
            if unset_is_fault or not isinstance(fault, _Unset):
                document.fault(path, str(fault))
            document.unexpanded.add(document.values[path])
            return text

    return _expand_value(document.value, (), expanded)


def _expand_value(value: Any, path: Path, expanded: Callable[[str, Path], str]) -> Any:
    if isinstance(value, dict):
        return {key: _expand_value(inner, (*path, key), expanded) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expand_value(inner, (*path, i), expanded) for i, inner in enumerate(value)]
    return expanded(value, path) if isinstance(value, str) and "$" in value else value


def _replacement(match: re.Match[str], environment: Mapping[str, str]) -> str:
    if match["dollar"]:
        return "$"
    if match["open"]:
        raise _Fault("`${` without its `}`; a plain dollar sign is written `$$`")
    name = match["name"].strip()
    if name.startswith("file:"):
        return _file_content(name.removeprefix("file:"))
    if not _VARIABLE.fullmatch(name):
        raise _Fault(f"`${{{name}}}` is neither ${{VARIABLE}} nor ${{file:/path}}")
    if name not in environment:
        raise _Unset(f"environment variable `{name}` is not set")
    return environment[name]


def _file_content(path: str) -> str:
    """A file's text without its last line break."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise _Fault(f"file `{path}` cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _Fault(f"file `{path}` is not UTF-8 text") from None
