"""Imports point one way, pipeline → connectors → schemas, and in no circle; connectors are strangers."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAYERS = ("schemas", "connectors", "pipeline")
LEAVES = ("tests", "benchmarks")  # nothing in the product imports these


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _sources() -> dict[str, ast.Module]:
    paths = (path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py")))
    return {_module_name(path): ast.parse(path.read_text(), str(path)) for path in paths}


def _imports_of(module: str, tree: ast.AST, modules: Mapping[str, ast.Module]) -> Iterator[str]:
    """Our own modules that `module` imports at run time; an imported name counts as its module."""
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import, write the whole name"
            base = node.module or ""
            for alias in node.names:
                full = f"{base}.{alias.name}"
                if full in modules:
                    yield full
                elif base in modules or base.split(".")[0] in LAYERS + LEAVES:
                    yield base


def _graph(modules: Mapping[str, ast.Module]) -> dict[str, set[str]]:
    return {name: set(_imports_of(name, tree, modules)) for name, tree in modules.items()}


@cache
def _product() -> Mapping[str, set[str]]:
    return _graph(_sources())


def _violations(graph: Mapping[str, set[str]]) -> list[str]:
    """Imports that point up, out of the product, or from one connector to another."""
    found = []
    for module, targets in graph.items():
        for target in targets:
            own, other = module.split("."), target.split(".")
            allowed = LAYERS[: LAYERS.index(own[0]) + 1]
            siblings = own[0] == other[0] == "connectors" and len(own) > 2 and len(other) > 1
            if other[0] not in allowed:
                found.append(f"{module} imports {target}, which is above it")
            elif siblings and (ROOT / "connectors" / other[1]).is_dir() and own[1] != other[1]:
                found.append(f"{module} imports {target}, another connector")
    return sorted(found)


def test_imports_point_from_pipeline_to_connectors_to_schemas() -> None:
    assert _violations(_product()) == []


def _cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """The modules of one import cycle, the first repeated at the end; [] if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [str(module) for module in error.args[1]]
    return []


def test_no_module_imports_itself_through_others() -> None:
    assert _cycle(_product()) == []


def _rooms(graph: Mapping[str, set[str]], house: str) -> dict[str, set[str]]:
    """The packages and modules that stand in a package, and which of them imports which."""

    def room(module: str) -> str:
        return module.removeprefix(f"{house}.").split(".")[0] if module.startswith(f"{house}.") else ""

    found: dict[str, set[str]] = {}
    for module, targets in graph.items():
        found.setdefault(room(module), set()).update(map(room, targets))
    return {own: others - {own, ""} for own, others in found.items() if own}


def test_packages_of_capture_import_one_another_one_way() -> None:
    rooms = _rooms(_product(), "pipeline.capture")
    assert _cycle(rooms) == []
    assert rooms["entries"] == set()


def test_an_import_cycle_is_found() -> None:
    assert sorted(set(_cycle({"schemas.a": {"schemas.b"}, "schemas.b": {"schemas.a"}}))) == [
        "schemas.a",
        "schemas.b",
    ]


def test_packages_that_import_one_another_are_found_where_no_module_does() -> None:
    graph = {
        "pipeline.capture.a.one": {"pipeline.capture.b.two"},
        "pipeline.capture.b.three": {"pipeline.capture.a"},
    }
    assert _cycle(graph) == []
    assert sorted(set(_cycle(_rooms(graph, "pipeline.capture")))) == ["a", "b"]


def test_an_import_that_points_up_or_sideways_is_found() -> None:
    graph = {
        "schemas.change": {"connectors.interfaces"},
        "connectors.log.kafka": {"connectors.postgres.session", "connectors.interfaces", "schemas.lsn"},
        "pipeline.config": {"tests.fix_kafka"},
    }
    assert _violations(graph) == [
        "connectors.log.kafka imports connectors.postgres.session, another connector",
        "pipeline.config imports tests.fix_kafka, which is above it",
        "schemas.change imports connectors.interfaces, which is above it",
    ]


def test_imports_inside_functions_count_and_those_for_types_only_do_not() -> None:
    text = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pipeline.app\n"
        "def f():\n    from schemas import lsn\n"
    )
    modules = {"pipeline.app": ast.Module([], []), "schemas.lsn": ast.Module([], [])}
    assert list(_imports_of("schemas.frame", ast.parse(text), modules)) == ["schemas.lsn"]
