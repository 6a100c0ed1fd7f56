"""The fixtures, from the plugin's own functions."""

from __future__ import annotations

import ast
from pathlib import Path

FILE = Path(__file__).resolve().parents[2] / "pytest_dspy_ft" / "plugin" / "fixtures.py"


def markdown() -> str:
    """A table of the fixtures: name, scope, what it gives, what it is."""
    rows = ["| fixture | scope | gives | |", "|---|---|---|---|"]
    for node in ast.parse(FILE.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and (scope := _scope(node)):
            gives = ast.unparse(node.returns) if node.returns else ""
            text = " ".join((ast.get_docstring(node) or "").replace("``", "`").split()).replace("|", r"\|")
            rows.append(f"| `{node.name}` | {scope} | `{gives}` | {text} |")
    return "\n".join(rows)


def _scope(node: ast.FunctionDef) -> str:
    """The scope of a fixture; empty for a function that is none."""
    for decorator in node.decorator_list:
        call = decorator.func if isinstance(decorator, ast.Call) else decorator
        if ast.unparse(call) == "pytest.fixture":
            keywords = decorator.keywords if isinstance(decorator, ast.Call) else []
            values = {keyword.arg: keyword.value for keyword in keywords}
            return str(ast.literal_eval(values["scope"])) if "scope" in values else "function"
    return ""
