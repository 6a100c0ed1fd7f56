"""The house stays as it is drawn in docs/architecture.md: rooms, layers, sizes, names.

Layers and what no room may know are import-linter's (`lint-imports`, in pyproject.toml); here is what it does not see.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "pytest_dspy_ft"
FILES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((REPOSITORY / "tests").rglob("*.py"))
LONGEST_FILE = 400
ROOM_DEPTH = 8


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("pytest_dspy_ft", cache_dir=None)


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def longest_chain(imports: dict[str, set[str]]) -> list[str]:
    longest: dict[str, list[str]] = {}
    for name in TopologicalSorter(imports).static_order():
        below = max((longest[other] for other in imports.get(name, ())), key=len, default=[])
        longest[name] = [name, *below]
    return max(longest.values(), key=len)


def test_no_module_imports_itself_through_others(graph: grimp.ImportGraph) -> None:
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    list(TopologicalSorter(imports).static_order())  # a circle raises CycleError, which names it


def test_rooms_are_few_layers_deep(graph: grimp.ImportGraph) -> None:
    rooms: dict[str, set[str]] = defaultdict(set)
    for module in graph.modules:
        for other in graph.find_modules_directly_imported_by(module):
            if room(module) != room(other) and "pytest_dspy_ft" not in (module, other):
                rooms[room(module)].add(room(other))
    rooms.pop("__main__", None)
    assert len(longest_chain(rooms)) <= ROOM_DEPTH


def test_every_file_is_read_in_one_sitting() -> None:
    lines = {str(file.relative_to(REPOSITORY)): len(file.read_text("utf-8").splitlines()) for file in FILES + TESTS}
    assert {file: count for file, count in lines.items() if count > LONGEST_FILE} == {}


def test_one_class_name_means_one_thing() -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for file in FILES:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                homes[node.name.lstrip("_")].append(str(file.relative_to(PACKAGE)))
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}


def first_sentence(file: Path) -> str:
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.partition("\n\n")[0].split())


def test_the_architecture_page_names_every_module_as_it_names_itself() -> None:
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    missing = []
    for file in FILES:
        place = file.relative_to(PACKAGE)
        if place.name == "__init__.py":
            continue
        inside = place.relative_to(place.parts[0]) if len(place.parts) > 1 else place
        if f"| `{inside}` | {first_sentence(file)} |" not in page:
            missing.append(f"| `{inside}` | {first_sentence(file)} |")
    assert missing == []
