"""README.md is code too: its blocks are run, its commands and tables compared with what is there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pytest_dspy_ft.cli import make_parser
from pytest_dspy_ft.gates.parser import parse

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(r"^```([^\n]*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
PYTHON = {body.split("\n")[0].removeprefix("# "): body for kind, body in BLOCKS if kind == "python"}
COMMANDS = [
    shlex.split(command)
    for kind, body in BLOCKS
    if kind == "console"
    for line in body.replace("\\\n", " ").split("\n")
    if line.startswith("$ ")
    for command in line[2:].split("&&")
]


def table(heading: str) -> list[list[str]]:
    """The cells of the rows of the first table below a heading, without the head of the table."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.split("\n") if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def pips(text: str) -> list[list[str]]:
    """The arguments of each ``pip install`` in a shell script."""
    found = [shlex.split(line) for line in text.split("\n") if line.startswith("pip install ")]
    return [[word for word in words[2:] if word != "--quiet"] for words in found]


@pytest.fixture(scope="module")
def help_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    command = [sys.executable, "-m", "pytest", "--help"]
    folder = tmp_path_factory.mktemp("help")
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def options_of(help_text: str) -> dict[str, str]:
    """By option, its metavar, as ``--help`` shows them."""
    return dict(re.findall(r"^  (--dspy-[a-z-]+)(?:=(\w+))?", help_text, flags=re.MULTILINE))


def test_every_block_is_of_a_kind_that_is_checked_here() -> None:
    assert {kind for kind, _ in BLOCKS} <= {"python", "console", "text"}
    assert {"test_tickets.py", "conftest.py"} <= set(PYTHON)
    assert all(re.fullmatch(r"\w+\.py", name) for name in PYTHON), "a block begins with the name of its file"
    assert any(command[0] == "pytest" and command[-2:] == ["-m", "model"] for command in COMMANDS)


def test_python_blocks_are_a_project_that_pytest_accepts(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSPY_CACHEDIR", str(pytester.path / "dspy_cache"))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    for name, body in PYTHON.items():
        (pytester.path / name).write_text(body, encoding="utf-8")
    rows = json.loads((REPOSITORY / "examples/ticket_sorting/tickets.json").read_text(encoding="utf-8"))[:40]
    (pytester.path / "tickets.json").write_text(json.dumps(rows), encoding="utf-8")
    arguments = ("--collect-only", "-q", "--strict-markers", "--dspy-lm=openai/gpt-4o-mini", "--dspy-stage=all")
    result = pytester.runpytest_subprocess(*arguments)
    tests = re.findall(r"^def (test_\w+)", PYTHON["test_tickets.py"], flags=re.MULTILINE)
    assert result.ret == 0, result.stdout.str() + result.stderr.str()
    result.stdout.fnmatch_lines([f"test_tickets.py::{test}" for test in tests])
    # The same with a stage that is not there: so the names were really checked.
    tests_file = pytester.path / "test_tickets.py"
    tests_file.write_text(tests_file.read_text("utf-8").replace('"finetuned >= 88%"', '"finetuend >= 88%"'), "utf-8")
    assert pytester.runpytest_subprocess(*arguments).ret == pytest.ExitCode.USAGE_ERROR


def test_commands_name_what_exists(help_text: str) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    known = options_of(help_text)
    for program, *words in COMMANDS:
        if program == "pytest":
            if "-m" in words:
                own = any((REPOSITORY / word).exists() for word in words)  # the examples have markers of their own
                ini = REPOSITORY / ("examples/pytest.ini" if own else "pyproject.toml")
                marker = words.pop(words.index("-m") + 1).removeprefix("not ")
                assert f"{marker}:" in ini.read_text("utf-8").partition("markers =")[2]
                words.remove("-m")
            for option, value in (("-n", "2"), ("--dist", "loadfile")):  # pytest-xdist's
                if option in words:
                    assert words.pop(words.index(option) + 1) == value
                    words.remove(option)
            words = [word for word in words if word != "--no-loadscope-reorder"]  # pytest-xdist's, too
            for word in words:
                if word.startswith("-"):
                    assert word.split("=")[0] in known, word
                else:
                    assert (REPOSITORY / word).exists(), word
        elif program == "pip":
            assert words.pop(0) == "install"
            if "-c" in words:
                assert (REPOSITORY / words[words.index("-c") + 1]).is_file()
            if "-e" in words:
                extras = re.fullmatch(r"\.\[([\w,]+)\]", words[words.index("-e") + 1])
                assert extras, words
                assert set(extras[1].split(",")) <= set(project["optional-dependencies"])
        elif program == "python" and words[:2] == ["-m", "pytest_dspy_ft"]:
            make_parser().parse_args(words[2:])  # it exits where it does not know a word
        else:
            assert [program, *words] in (["python3", "-m", "venv", ".venv"], [".", ".venv/bin/activate"])


def test_ci_runs_the_commands_of_the_readme() -> None:
    ci = (REPOSITORY / ".ci/run").read_text("utf-8")
    line = next(body for kind, body in BLOCKS if kind == "console" and "[local,dev]" in body)
    commands = [part.strip() for part in line[2:].split("&&")]
    wanted = pips("\n".join(commands))
    assert len(wanted) == 2
    assert pips(ci) == wanted
    tests = [command for command in commands if command.startswith("pytest")]
    assert [line for line in ci.splitlines() if line.startswith("pytest")] == tests
    assert [shlex.split(command)[-1] for command in tests] == ["not model", "model"]  # all of them


def test_option_table_is_what_is_registered(help_text: str) -> None:
    rows = table("Options")
    shown = dict(re.fullmatch(r"`(--[\w-]+)(?:=(\w+))?`", option).groups(default="") for option, _, _ in rows if option)  # type: ignore[union-attr]
    assert shown == options_of(help_text)
    inis = {ini.strip("`") for _, ini, _ in rows if ini}
    assert inis == set(re.findall(r"^  (dspy_\w+) \(", help_text, flags=re.MULTILINE))


def test_options_in_the_text_exist(help_text: str) -> None:
    assert set(re.findall(r"--dspy-[a-z-]+", README)) <= set(options_of(help_text))


def test_fixture_table_is_what_the_plugin_has(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    result = pytester.runpytest_subprocess("--fixtures", "-q")
    there = set(re.findall(r"^(dspy_\w+)", result.stdout.str(), flags=re.MULTILINE))
    shown = [name for names, _ in table("Fixtures") for name in re.findall(r"`(dspy_\w+)", names)]
    assert sorted(shown) == sorted(there)


@pytest.mark.parametrize("expression", [row[0].strip("`") for row in table("The words")])
def test_gates_in_the_table_are_gates(expression: str) -> None:
    parse(expression)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (REPOSITORY / target).exists(), target
