"""Texts that lie beside ``docs/`` in the repository and are pages of the site, too."""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

from pytest_dspy_ft.constants import DOCUMENTATION

REPOSITORY = Path(__file__).resolve().parents[2]


def readme() -> str:
    """README.md below its title, with links to the site as links within it, so that they work offline."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8").partition("\n")[2].strip()

    def inside(match: re.Match[str]) -> str:
        page, hash_, anchor = match[1].partition("#")
        page = re.sub(r"\.html$", ".md", page or "index.md")
        return f"]({page}{hash_}{anchor})"

    return re.sub(rf"\]\({re.escape(DOCUMENTATION)}([^)]*)\)", inside, text)


def changelog() -> str:
    """CHANGELOG.md, with its links to pages as seen from ``reference/``."""
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    return re.sub(r"\]\(docs/([^)]*)\)", r"](../\1)", text)


def store() -> str:
    """The layout of a store, from the docstring of the module that keeps it."""
    text = (REPOSITORY / "pytest_dspy_ft" / "store" / "store.py").read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text)) or ""
    layout = docstring.partition("::\n\n")[2].partition("\n\n")[0]
    return f"```text\n{textwrap.dedent(layout).rstrip()}\n```"
