"""DSPy's insides: one room leans on them, and what a version of DSPy lacks is said in words."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import dspy
import pytest

from pytest_dspy_ft.insides.needs import MODULES, UnsupportedDspyError, check, has_fields, needed, there
from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "pytest_dspy_ft"
ROOM = PACKAGE / "insides"
OTHERS = [file for file in sorted(PACKAGE.rglob("*.py")) if ROOM not in file.parents]
OPEN_MODULES = {"dspy", "dspy.lm15"}
"""What DSPy documents: its own names, and the types of requests and answers."""


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imported(node: ast.AST) -> Iterator[str]:
    """The modules of DSPy that a statement imports, and of its names those that are private."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names if alias.name.startswith("_"))


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and len(name) > 2


def private_names() -> set[str]:
    """The private names of DSPy that the room uses: attributes of others, imports, and names in tables."""
    names = set()
    for file in ROOM.glob("*.py"):
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id == "self"):
                names.add(node.attr)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dspy"):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
                names.add(node.value)
    return set(filter(is_private, names)) - {"_getframe", "_hidden_params"}  # Python's, LiteLLM's


def test_no_other_room_imports_what_dspy_does_not_document() -> None:
    found = {
        f"{file.relative_to(PACKAGE)}: {name}"
        for file in OTHERS
        for node in ast.walk(tree(file))
        for name in imported(node)
        if name.partition(".")[0] == "dspy" and name not in OPEN_MODULES
    }
    assert found == set()


def test_no_other_room_reaches_into_dspys_modules() -> None:
    found = []
    for file in OTHERS:
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "dspy":
                inside = isinstance(getattr(dspy, node.attr, None), ModuleType) and node.attr != "lm15"
                if inside or (node.attr.startswith("_") and node.attr != "__version__"):
                    found.append(f"{file.relative_to(PACKAGE)}:{node.lineno}: dspy.{node.attr}")
    assert found == []


def test_no_other_room_uses_a_private_name_of_dspys() -> None:
    private = private_names()
    assert {"_record_response", "_call_postprocess", "_compiled", "_engine_spec"} <= private
    found = []
    for file in OTHERS:
        for node in ast.walk(tree(file)):
            own = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
            name = getattr(node, "attr", None) if isinstance(node, ast.Attribute) else getattr(node, "value", None)
            if (
                isinstance(node, (ast.Attribute, ast.Constant))
                and not own
                and isinstance(name, str)
                and name in private
            ):
                found.append(f"{file.relative_to(PACKAGE)}:{node.lineno}: {name}")
    # What is put in DSPy's place goes by the name that it has there.
    replaced = (": _record_response", ": _delay", ": _compute_embeddings")
    assert [place for place in found if not place.endswith(replaced)] == []


def test_every_module_of_the_room_that_imports_dspy_is_checked() -> None:
    leaning = {file.stem for file in ROOM.glob("*.py") if any("dspy" in name.split(".") for name in names_in(file))}
    assert leaning == set(MODULES)
    check()


def names_in(file: Path) -> Iterator[str]:
    return (name for node in ast.walk(tree(file)) for name in imported(node))


# --- in words --------------------------------------------------------------------------------------------------------


def import_module() -> None:
    import dspy.clients.gone  # noqa: F401


def import_name() -> None:
    from dspy.clients.execution import gone  # noqa: F401


@pytest.mark.parametrize(
    ("look_up", "name"),
    [
        (import_module, "dspy.clients.gone"),
        (import_name, "dspy.clients.execution.gone"),
        (lambda: there(dspy.BaseLM._gone), "dspy.clients.base_lm.BaseLM._gone"),
        (lambda: there(dspy.clients.execution._gone), "dspy.clients.execution._gone"),
        (
            lambda: has_fields(dspy.clients.execution.PreparedCall, "prompt", "gone"),
            "dspy.clients.execution.PreparedCall.gone",
        ),
    ],
)
def test_a_missing_module_name_or_attribute_is_said_with_what_it_is_for(look_up: Any, name: str) -> None:
    with pytest.raises(UnsupportedDspyError) as told, needed("to count calls"):
        look_up()
    said = str(told.value)
    assert said.startswith(f"DSPy {metadata.version('dspy')} has no {name}, which pytest-dspy-ft needs to count calls;")
    assert "pip install 'dspy" in said


def test_what_is_missing_elsewhere_is_not_dspys() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_package"), needed("to count"):
        import no_such_package  # noqa: F401
    with pytest.raises(AttributeError), needed("to count"):
        there(ast.gone)  # type: ignore[attr-defined]


@pytest.mark.parametrize("imports", ["", "from pytest_dspy_ft import Experiment"])
def test_a_session_says_all_that_is_missing_as_it_starts(imports: str, tmp_path: Path) -> None:
    """By whichever way it first comes to DSPy: a conftest.py that declares an experiment, or our fixtures."""
    (tmp_path / "conftest.py").write_text(
        "import dspy.clients.execution, dspy.teleprompt.mipro_optimizer_v2 as mipro\n"
        f"del dspy.clients.execution._cached, mipro.AUTO_RUN_SETTINGS\n{imports}\n"
    )
    (tmp_path / "test_it.py").write_text("def test_it(dspy_lm): raise AssertionError('it ran')\n")
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    for name in ("dspy.clients.execution._cached", "dspy.teleprompt.mipro_optimizer_v2.AUTO_RUN_SETTINGS"):
        assert f"has no {name}, which pytest-dspy-ft needs to " in said
    assert "it ran" not in said
