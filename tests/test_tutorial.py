"""docs/tutorial.md, done: every command and every block of code, in the order of the page."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_dspy_ft.cli import make_parser
from pytest_dspy_ft.gates.parser import parse
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "tutorial.md").read_text(encoding="utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(r"^```([^\n]*)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
CODE = [body for kind, body in BLOCKS if kind == "python"]
COMMANDS = [
    shlex.split(part)
    for kind, body in BLOCKS
    if kind == "console"
    for line in body.splitlines()
    for part in line.removeprefix("$ ").split("&&")
]
TEAMS = {"delivery": "logistics", "return": "logistics", "payment": "finance", "product": "sales"}


def block(head: str, containing: str = "") -> str:
    """The code of the block that begins with a comment, without that comment."""
    (found,) = [body for body in CODE if body.startswith(f"# {head}\n") and containing in body]
    return found.partition("\n")[2]


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("GITHUB_", "PYTEST_"))}
    environment |= {"PYTHONPATH": str(REPOSITORY), "DSPY_CACHEDIR": str(folder / "cache"), "COLUMNS": "132"}
    words = ("-m", "pytest", "-p", "no:cacheprovider", *words[1:]) if words[0] == "pytest" else words[1:]
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def gates(tmp_path: Path) -> Path:
    """The folder that the page's first command writes."""
    done = run(tmp_path, *next(words for words in COMMANDS if "init" in words))
    assert done.returncode == 0, done.stderr
    return tmp_path / "gates"


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert text.count(old) == 1, (path.name, old)
    path.write_text(text.replace(old, new), "utf-8")


def own_data(gates: Path) -> None:
    """What the page says to change for a file of one's own."""
    rows = json.loads((gates / "messages.json").read_text("utf-8"))
    with (gates / "tickets.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("question", "team"), *((row["text"], TEAMS[row["topic"]]) for row in rows)])
    conftest = (gates / "conftest.py").read_text("utf-8")
    for mark in ("(1)", "(2)", "(3)"):
        old = re.search(rf"^# {re.escape(mark)}.*?\n(?!#)(.*?)\n(?=\n\n|\Z)", conftest, re.MULTILINE | re.DOTALL)
        assert old, mark
        conftest = conftest.replace(old[1] + "\n", block(f"conftest.py {mark}"))
    (gates / "conftest.py").write_text(conftest, "utf-8")
    replace(gates / "conftest.py", 'stratify="topic"', 'stratify="team"')
    known = block("test_messages.py, in part", "test_a_known_message")
    tests = gates / "test_messages.py"
    tests.write_text(
        re.sub(r"def test_a_known_message.*", known.replace("\\", ""), tests.read_text("utf-8"), flags=re.DOTALL)
    )


def test_every_block_is_of_a_kind_that_is_checked_here() -> None:
    assert {kind for kind, _ in BLOCKS} == {"python", "console", "text"}
    assert all(re.match(r"# [\w.]+\.py( \(\d\)|, in part)?\n", body) for body in CODE)


def test_what_it_shows_of_the_files_is_in_them(gates: Path) -> None:
    shown = block("conftest.py, in part")
    indented = "".join(f"        {line}\n" for line in shown.splitlines())
    assert indented in (gates / "conftest.py").read_text("utf-8")
    assert block("test_messages.py, in part", "few_shot > baseline") in (gates / "test_messages.py").read_text("utf-8")


def test_gates_are_gates() -> None:
    for expression in re.findall(r"dspy_gate\(\"(.*?)\"", PAGE):
        parse(expression)


def test_commands_exist(tmp_path: Path) -> None:
    known = run(tmp_path, "pytest", "--help").stdout
    for program, *words in COMMANDS:
        if program == "pytest":
            assert all(word.split("=")[0] in known for word in words), words
        elif words[:2] == ["-m", "pytest_dspy_ft"]:
            make_parser().parse_args(words[2:])
        else:
            assert program in ("python3", ".", "pip", "cd")
    for option in re.findall(r"--dspy-[a-z-]+", PAGE):
        assert option in known


def test_ones_own_data_in_three_places(gates: Path) -> None:
    own_data(gates)
    arguments = ("--dspy-lm=openai/gpt-4o-mini", "--dspy-stage=all")
    found = run(gates, "pytest", "--collect-only", "-q", *arguments)
    assert found.returncode == 0, found.stdout
    plan = run(gates, "pytest", "--dspy-plan", *arguments)
    assert "measure finetuned on test" in plan.stdout


def test_the_notebook_of_the_page_is_plain_dspy() -> None:
    import dspy

    from pytest_dspy_ft.testing import ScriptedLM

    names = {
        "devset": [dspy.Example(text="x", topic="a").with_inputs("text")],
        "same_topic": lambda example, prediction, trace=None: prediction.topic == example.topic,
        "program": dspy.Predict("text -> topic"),
    }
    with dspy.context(lm=ScriptedLM({"x": {"topic": "a"}})):
        exec(block("notebook.py"), names)


def test_the_scripted_lm_of_the_page(tmp_path: Path) -> None:
    (tmp_path / "test_script.py").write_text(block("test_script.py"), "utf-8")
    done = run(tmp_path, "pytest", "-q", "test_script.py")
    assert "1 passed" in done.stdout, done.stdout


@pytest.mark.model
def test_the_whole_page_on_the_embedded_model(gates: Path) -> None:
    """The commands in their order, with what each has to show; then the same on other data."""
    first = run(gates, "pytest")
    assert first.returncode == 0, first.stdout
    assert re.search(r"^baseline +dev +0\.0%.* 40 +0 ", first.stdout, re.MULTILINE), first.stdout
    replace(gates / "test_messages.py", "few_shot > baseline", "few_shot >= 50%")
    failing = run(gates, "pytest", "--dspy-stage=prompt")
    assert failing.returncode == 1
    assert "Gate `few_shot >= 50%` failed (on dev, n = 40)" in failing.stdout
    show = next(words for words in COMMANDS if "show" in words)
    shown = run(gates, *show)
    assert "[[ ## topic ## ]]" in shown.stdout, shown.stderr
    replace(gates / "test_messages.py", "few_shot >= 50%", "few_shot > baseline")
    plan = run(gates, "pytest", "--dspy-stage=finetune", "--dspy-plan")
    assert re.search(r"^build finetuned .* (min|s) ", plan.stdout, re.MULTILINE), "the time of the training is told"
    tuned = run(gates, "pytest", "--dspy-stage=finetune")
    assert tuned.returncode == 0, tuned.stdout
    again = run(gates, "pytest", "--dspy-stage=finetune")
    assert again.returncode == 0, again.stdout
    assert "· 0 built, 3 loaded ·" in again.stdout
