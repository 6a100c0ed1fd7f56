"""The messages that docs/troubleshooting.md is headed by are in the code, word for word."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^### (.*)$", PAGE, flags=re.MULTILINE)
MESSAGES = [message for heading in HEADINGS if heading.startswith("`") for message in re.findall(r"`([^`]+)`", heading)]
GAP = "…"


def texts() -> Iterator[str]:
    """Every text in the code, with a gap for what is put in when it runs; those that are joined by ``+`` as one."""
    for file in (REPOSITORY / "pytest_dspy_ft").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr | ast.Constant | ast.BinOp) and (text := text_of(node)):
                yield text


def text_of(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or GAP for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return (text_of(node.left) or GAP) + (text_of(node.right) or GAP)
    return ""


@pytest.fixture(scope="module")
def code() -> list[str]:
    return [text.replace("`", "") for text in texts()]


def test_the_page_quotes_messages() -> None:
    assert len(MESSAGES) > 35
    assert len(set(HEADINGS)) == len(HEADINGS)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_quoted_message_is_in_the_code(message: str, code: list[str]) -> None:
    parts = [part.strip() for part in message.split(GAP) if len(part.strip()) > 2]
    assert parts, "only gaps"
    wanted = re.compile(".*".join(map(re.escape, parts)), flags=re.DOTALL)
    assert any(wanted.search(text) for text in code), message
