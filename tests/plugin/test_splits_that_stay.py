"""A file of labels that grows from session to session: who changes sides, what the sessions say, what they remember."""

from __future__ import annotations

import csv
import json
import random
from typing import Any

import pytest

from pytest_dspy_ft import Dataset
from pytest_dspy_ft.store.split_memory import SplitMemory
from pytest_dspy_ft.store.store import Store
from tests.plugin.projects import calls, run

CONFTEST = """
import pytest
from pytest_dspy_ft import Dataset
from parity import make_experiment

@pytest.fixture(scope="session")
def dspy_experiment():
    return make_experiment(dataset=Dataset.from_file("numbers.csv", inputs=["text"], {how}))
"""

GATES = """
import pytest

@pytest.mark.dspy_gate("baseline >= 10%")
def test_baseline(): ...

@pytest.mark.dspy_gate("prompt_optimized >= 10%")
def test_optimized(): ...
"""
STORE, PROMPT = ".dspy_ft", "--dspy-stage=prompt"


def rows(numbers: Any) -> list[dict[str, str]]:
    return [{"text": str(n), "label": "even" if n % 2 == 0 else "odd"} for n in numbers]


def write(project: pytest.Pytester, table: list[dict[str, str]]) -> None:
    with (project.path / "numbers.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(table[0]))
        writer.writeheader()
        writer.writerows(table)


def prepared(project: pytest.Pytester, how: str, gates: str = GATES) -> None:
    project.makeconftest(CONFTEST.format(how=how))
    project.makepyfile(test_it=gates)
    write(project, rows(range(500)))


def inputs(project: pytest.Pytester, split: str, **how: Any) -> set[str]:
    return set(Dataset.from_file(project.path / "numbers.csv", inputs=["text"], **how).inputs_ids(split))


def memory(project: pytest.Pytester) -> Any:
    return SplitMemory(Store(project.path / STORE, read_only=True), "parity").read()


def grown() -> list[dict[str, str]]:
    """1 000 rows: new ones everywhere, twenty old ones gone, in another order, with a label mended in some."""
    table = rows(range(1000))[20:]
    random.Random(5).shuffle(table)
    return [
        {**row, "label": "even", "note": "added"} if n % 50 == 0 else {**row, "note": ""} for n, row in enumerate(table)
    ]


def test_by_hash_not_one_example_changes_sides(project: pytest.Pytester) -> None:
    prepared(project, 'assign="hash"')
    run(project, PROMPT).assert_outcomes(passed=2)
    before = memory(project)
    assert before.dev == inputs(project, "dev", assign="hash")
    assert before.test == inputs(project, "test", assign="hash")
    write(project, grown())
    result = run(project, PROMPT)
    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*earlier sessions*")
    after = memory(project)
    assert before.dev < after.dev
    assert before.test < after.test
    assert not (after.dev | after.test) & inputs(project, "train", assign="hash")


@pytest.mark.parametrize("seed", [None, 0])
def test_by_order_the_session_says_how_many_did(project: pytest.Pytester, seed: int | None) -> None:
    prepared(project, f"seed={seed}")
    run(project, PROMPT).assert_outcomes(passed=2)
    dev, test = inputs(project, "dev", seed=seed), inputs(project, "test", seed=seed)
    write(project, rows(range(1000)))
    train = inputs(project, "train", seed=seed)
    from_dev, from_test = len(train & dev), len(train & test)
    assert from_test > 30
    result = run(project, PROMPT, "--dspy-report=run.json")
    result.assert_outcomes(passed=2)
    said = (
        f"{from_dev + from_test} examples of train were in dev or test in earlier sessions (dev {from_dev}, test "
        f"{from_test})"
    )
    changed = len(inputs(project, "dev", seed=seed) & test | inputs(project, "test", seed=seed) & dev)
    assert bool(changed) == (seed is not None)
    result.stdout.fnmatch_lines(
        [
            f"*LeakageWarning: dataset 'numbers': {said}*:",
            '*train[[]*] {"text": "*"}',
            '*With assign="hash" every example stays on its side*',
            "*delete *splits.json: the store remembers them from there.",
        ]
    )
    result.stdout.fnmatch_lines(["baseline >= 10%*PASS", "prompt_optimized >= 10%*PASS (!)"], consecutive=True)
    [record] = json.loads((project.path / "run.json").read_text("utf-8"))["experiments"]
    assert any(text.startswith(said) and ("changed between" in text) == bool(changed) for text in record["cautions"])
    marks = {verdict["expression"]: verdict["caution"] for verdict in record["verdicts"]}
    assert marks["baseline >= 10%"] == ""
    assert f"trained on {from_dev + from_test} examples that earlier sessions had" in marks["prompt_optimized >= 10%"]


def test_a_failed_gate_and_one_that_came_late_are_marked_too(project: pytest.Pytester) -> None:
    late = """
def test_late(request):
    request.applymarker(pytest.mark.dspy_gate("prompt_optimized <= 10%"))
"""
    prepared(project, "seed=0", GATES.replace("prompt_optimized >= 10%", "prompt_optimized <= 20%") + late)
    run(project, PROMPT)
    write(project, rows(range(1000)))
    result = run(project, PROMPT)
    result.assert_outcomes(passed=1, failed=2)
    marked = "*CAUTION: gate `prompt_optimized <= {}` judges `prompt_optimized`, trained on * examples*"
    result.stdout.fnmatch_lines([marked.format("20%")])
    result.stdout.fnmatch_lines([marked.format("10%")])


@pytest.mark.parametrize("option", ["--collect-only", "--dspy-plan", "--dspy-frozen"])
def test_sessions_that_measure_nothing_remember_nothing(project: pytest.Pytester, option: str) -> None:
    prepared(project, "seed=0")
    run(project, PROMPT, option)
    assert calls(project) == []
    assert not (project.path / STORE / "splits").exists()


def test_but_they_say_what_changed(project: pytest.Pytester) -> None:
    prepared(project, "seed=0")
    run(project, PROMPT)
    write(project, rows(range(1000)))
    before = memory(project)
    for option in ("--collect-only", "--dspy-plan"):
        run(project, PROMPT, option).stdout.fnmatch_lines(
            ["*LeakageWarning: dataset 'numbers': * examples of train were*"]
        )
    assert memory(project) == before
    refused = run(project, PROMPT, "-W", "error::pytest_dspy_ft.errors.LeakageWarning")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["*test_it.py:*: test_baseline: dataset 'numbers': * examples of train were*"])


def test_a_limit_neither_spoils_the_memory_nor_takes_it_for_wrong(project: pytest.Pytester) -> None:
    prepared(project, "seed=0")
    run(project, PROMPT, "--dspy-limit=7").assert_outcomes(passed=2)
    assert (len(memory(project).dev), len(memory(project).test)) == (7, 7)
    whole = run(project, PROMPT)
    whole.assert_outcomes(passed=2)
    whole.stdout.no_fnmatch_line("*earlier sessions*")
    assert memory(project).test == inputs(project, "test", seed=0)
    run(project, PROMPT, "--dspy-limit=7").stdout.no_fnmatch_line("*earlier sessions*")


def test_workers_add_to_one_memory(project: pytest.Pytester) -> None:
    prepared(project, 'assign="hash"', GATES.replace('%")', '%", on="test")'))
    result = run(project, PROMPT, "-n2", "--dspy-report=run.json", "-p", "no:randomly")
    result.assert_outcomes(passed=2)
    assert memory(project).test == inputs(project, "test", assign="hash")
    [record] = json.loads((project.path / "run.json").read_text("utf-8"))["experiments"]
    assert record["tested_programs"] == len(memory(project).programs) == 2


def test_a_sorted_file_is_said_at_collection(project: pytest.Pytester) -> None:
    prepared(project, "seed=None")
    write(project, sorted(rows(range(500)), key=lambda row: row["label"]))
    result = run(project, "--collect-only")
    result.stdout.fnmatch_lines(
        ["*SplitWarning: dataset 'numbers': the examples stand sorted by 'label': *seed=0*stratify='label'"]
    )
    project.makeconftest(CONFTEST.format(how='stratify="label"'))
    run(project, "--collect-only").stdout.no_fnmatch_line("*SplitWarning*")


def test_rows_without_a_label_refuse_the_session(project: pytest.Pytester) -> None:
    prepared(project, "seed=0")
    project.makeconftest(CONFTEST.format(how="seed=0").replace(".csv", ".json"))
    table: list[Any] = rows(range(100))
    table[7]["label"] = None
    del table[80]["label"]
    table[80]["note"] = "forgotten"
    (project.path / "numbers.json").write_text(json.dumps(table, indent=1), encoding="utf-8")
    result = run(project)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*experiment 'parity': 2 of 100 examples have no label, label missing or null: *numbers.json:* (row *"]
    )
    assert calls(project) == []


def test_empty_labels_are_said_and_may_be_refused(project: pytest.Pytester) -> None:
    prepared(project, "seed=0")
    table = rows(range(100))
    table[7]["label"] = table[80]["label"] = ""
    write(project, table)
    said = "*experiment 'parity': 2 of 100 examples have no label, label empty: *numbers.csv:* (row *"
    result = run(project)
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines([f"(!) {said[1:]}"])
    assert "DatasetWarning" not in result.stdout.str()  # it is said once, below the figures
    refused = run(project, "-W", "error::pytest_dspy_ft.DatasetWarning")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines([said])


def test_what_was_mended_in_a_file_is_said(project: pytest.Pytester) -> None:
    prepared(project, "seed=0")
    lines = (project.path / "numbers.csv").read_text("utf-8").splitlines()
    indexed = [",text, label", *(f"{n},{line}" for n, line in enumerate(lines[1:]))]
    (project.path / "numbers.csv").write_text("\n".join(indexed), encoding="utf-8")
    result = run(project)
    result.stdout.fnmatch_lines(["*DatasetWarning: *numbers.csv: left out the index*; read ' label' as 'label'"])
    assert "Unnamed" not in result.stdout.str()
