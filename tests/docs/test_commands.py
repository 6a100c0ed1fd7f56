"""Commands that pages tell people to type: programs, options, commands, extras and files that exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from pytest_dspy_ft.cli import make_parser
from tests.conftest import REPOSITORY
from tests.docs.pages import Block, blocks, commands, shell_lines

EXTRAS = set(tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"])
OTHER_PROGRAMS = {".", "cd", "export", "git", "jq", "lint-imports", "mkdir", "mkdocs", "mypy", "ruff", "vulture"}
"""Programs on consoles that are not ours, and that need no look."""
OF_PYTEST = {"-m", "-k", "-n", "-W", "-x", "-q", "-o", "-v", "--dist", "--lf", "--junitxml", "--no-loadscope-reorder"}
WITH_VALUE = {"-m", "-k", "-n", "-W", "-o", "--dist"}
OF_USERS = {"tests", "tests/", "test_tickets.py"}
"""Paths that stand for a reader's own."""


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The options that this plugin adds to pytest."""
    folder = tmp_path_factory.mktemp("help")
    command = [sys.executable, "-m", "pytest", "--help"]
    text = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
    return set(re.findall(r"^  (--dspy-[a-z-]+)", text, flags=re.MULTILINE))


@pytest.mark.parametrize("block", blocks("console", "bash"), ids=str)
def test_what_is_typed_can_be_typed(block: Block, options: set[str]) -> None:
    typed = [words for line in shell_lines(block) for words in commands(filled(line))]
    assert typed, "no line begins with $"
    for words in typed:
        check(words, options, strict=block.kind == "console")


@pytest.mark.parametrize("block", blocks("yaml", "groovy"), ids=str)
def test_what_a_ci_service_runs_can_be_run(block: Block, options: set[str]) -> None:
    for script in scripts(block):
        for line in script.replace("\\\n", " ").split("\n"):
            for words in commands(filled(line)):
                check(words, options, strict=False)


def filled(line: str) -> str:
    """A line with a value for each variable: a number, which is also a path, a name and a text."""
    return re.sub(r"\$\{\{.*?\}\}|\$\{\w+\}|\$(?=[A-Za-z_])\w+", "1", line)


def scripts(block: Block) -> Iterator[str]:
    """The shell scripts within a CI service's file."""
    if block.kind == "groovy":
        yield from (
            found[1] for found in re.findall(r"\bsh\s*\(?\s*(\"\"\"|'''|'|\")(.*?)\1", block.body, flags=re.DOTALL)
        )
    else:
        yield from _scripts_of(yaml.safe_load(block.body))


def _scripts_of(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("run", "script", "before_script", "after_script", "bash"):
                yield from [value] if isinstance(value, str) else (line for line in value if isinstance(line, str))
            else:
                yield from _scripts_of(value)
    elif isinstance(node, list):
        for item in node:
            yield from _scripts_of(item)


def check(words: list[str], options: set[str], *, strict: bool) -> None:
    """Hold a command against what is there.

    Args:
        words: Its words.
        options: Those of this plugin.
        strict: Whether a program that is unknown here is wrong.
    """
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):  # an environment variable in front
        words = words[1:]
    program, *arguments = words
    if program in ("python", "python3") and arguments[:2] == ["-m", "pytest"]:
        program, arguments = "pytest", arguments[2:]
    if program == "pytest":
        check_pytest(arguments, options)
    elif program in ("python", "python3") and arguments[:2] == ["-m", "pytest_dspy_ft"]:
        make_parser().parse_args(arguments[2:])  # it exits where it does not know a word
    elif program in ("python", "python3") and arguments[0] != "-m":
        check_script(arguments[0], arguments[1:])
    elif program in ("python", "python3") and arguments[1].startswith("benchmarks."):
        check_script(arguments[1].replace(".", "/") + ".py", arguments[2:])
    elif program in ("python", "python3"):
        assert arguments[1] in ("venv", "pip", "build"), shlex.join(words)
    elif program == "pip":
        check_pip(arguments)
    else:
        assert program in OTHER_PROGRAMS or not strict, shlex.join(words)


def check_pytest(arguments: list[str], options: set[str]) -> None:
    skip = False
    for word in arguments:
        name = word.split("=")[0]
        if skip:
            skip = False
        elif name.startswith("--dspy-"):
            assert name in options, word
        elif name.startswith("-"):
            assert name in OF_PYTEST, word
            skip = word in WITH_VALUE
        else:
            assert word in OF_USERS or word == "1" or (REPOSITORY / word).exists(), word


def check_pip(arguments: list[str]) -> None:
    assert arguments[0] in ("install", "uninstall"), arguments
    for word in arguments[1:]:
        if found := re.fullmatch(r"(?:pytest-dspy-ft|\.)\[([\w,]+)\]", word):
            assert set(found[1].split(",")) <= EXTRAS, word
    if "-c" in arguments:
        assert (REPOSITORY / arguments[arguments.index("-c") + 1]).is_file()


def check_script(file: str, arguments: list[str]) -> None:
    path = REPOSITORY / file
    assert path.is_file(), file
    beside = path.with_name("plain.py")  # the examples' scripts share their command line
    text = path.read_text("utf-8") + (beside.read_text("utf-8") if beside.is_file() else "")
    for word in arguments:
        if word.startswith("--"):
            assert f'"{word.split("=")[0]}"' in text, f"{file} has no {word}"


def test_ci_runs_the_commands_of_the_readme() -> None:
    ci = (REPOSITORY / ".ci/run").read_text("utf-8")
    line = next(block.body for block in blocks("console") if block.page == "README.md" and "[local,dev]" in block.body)
    parts = [part.strip() for part in line[2:].split("&&")]
    assert len(pips("\n".join(parts))) == 2
    assert pips(ci) == pips("\n".join(parts))
    tests = [part for part in parts if part.startswith("pytest")]
    assert [line for line in ci.splitlines() if line.startswith("pytest")] == tests
    assert [shlex.split(command)[-1] for command in tests] == ["not model", "model"]  # all of them


def test_markers_that_commands_choose_by_are_there() -> None:
    """``-m MARKER`` is one of pyproject's, or of the examples', which are a project of their own."""
    chosen = [
        (words, words[words.index("-m") + 1].removeprefix("not "))
        for block in blocks("console")
        for line in shell_lines(block)
        for words in commands(line)
        if words[0] == "pytest" and "-m" in words
    ]
    assert len(chosen) >= 3
    for words, marker in chosen:
        ini = REPOSITORY / ("examples/pytest.ini" if any("examples" in word for word in words) else "pyproject.toml")
        assert f"{marker}:" in ini.read_text("utf-8").partition("markers =")[2], shlex.join(words)


def pips(text: str) -> list[list[str]]:
    """The arguments of each ``pip install`` in a shell script."""
    found = [shlex.split(line) for line in text.split("\n") if line.startswith("pip install ")]
    return [[word for word in words[2:] if word != "--quiet"] for words in found]
