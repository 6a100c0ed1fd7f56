"""The worked examples as pages: the README of each, and its code."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "examples"
LADDERS = ("ticket_sorting", "rag_distillation", "better_together", "low_bootstrap")
SCRIPTS = "docs_as_scripts"


def pages() -> dict[str, str]:
    """The pages by their place in the site."""
    return {f"examples/{name}.md": page(name) for name in (*LADDERS, SCRIPTS)}


def page(name: str) -> str:
    """An example's README, its links turned to pages of the site, and its Python files."""
    folder = FOLDER / name
    text = (folder / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"\]\(\.\./(\w+)/(?:README\.md)?\)", r"](\1.md)", text)
    tested = sorted(folder.glob("test_*.py"))
    files = [folder / "conftest.py", *tested] if name in LADDERS else sorted(folder.glob("0*.py"))
    code = [f'??? example "`{file.relative_to(REPOSITORY)}`"\n\n{_fenced(file)}' for file in files]
    return "\n\n".join([text.rstrip(), "## The code", *code]) + "\n"


def _fenced(file: Path) -> str:
    lines = ["```python", *file.read_text(encoding="utf-8").rstrip().split("\n"), "```"]
    return "\n".join(f"    {line}" if line else "" for line in lines)
