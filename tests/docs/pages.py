"""The pages that people read, and the blocks of code in them."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
FENCED = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]+) -->\s*?\n)?"
    r"^(?P<indent>[ ]*)```(?P<kind>[^\n]*)\n(?P<body>.*?)^(?P=indent)```[ ]*$",
    flags=re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    """Seen from the repository."""
    line: int
    kind: str
    body: str
    reason: str
    """Why it is not run; empty where it is."""

    @property
    def file(self) -> str:
        """The name of the file that it is, where its first line says one."""
        named = re.match(r"# ([\w./-]+\.(?:py|ini|toml))\b", self.body)
        return named[1] if named else ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Every page of prose: of the repository's root, of the site, of the examples."""
    found = [*REPOSITORY.glob("*.md"), *DOCS.rglob("*.md"), *(REPOSITORY / "examples").glob("*/README.md")]
    return sorted(page for page in found if page.name != "CHANGELOG.md")


def blocks(*kinds: str) -> list[Block]:
    """The blocks of these kinds on all pages, or all blocks; without those that a page says cannot be run."""
    return [block for block in all_blocks() if not block.reason and (not kinds or block.kind in kinds)]


def all_blocks() -> Iterator[Block]:
    """Every block of every page."""
    for page in pages():
        text = page.read_text(encoding="utf-8")
        for found in FENCED.finditer(text):
            line = text.count("\n", 0, found.start("kind")) + 1
            body = textwrap.dedent(found["body"])
            yield Block(str(page.relative_to(REPOSITORY)), line, found["kind"], body, found["reason"] or "")


def shell_lines(block: Block) -> Iterator[str]:
    """The lines of a console that are typed, or those of a script; continued lines joined."""
    for line in block.body.replace("\\\n", " ").split("\n"):
        if block.kind != "console":
            yield line
        elif line.startswith("$ "):
            yield line[2:]


def commands(line: str) -> Iterator[list[str]]:
    """The commands of a line of shell, each as its words; comments and redirections left out."""
    reader = shlex.shlex(line, posix=True, punctuation_chars="&|;()<>")
    reader.whitespace_split = True
    words: list[str] = []
    for word in reader:
        if set(word) <= set("&|;()"):
            if words:
                yield words
            words = []
        else:
            words.append(word)
    if words:
        yield words
