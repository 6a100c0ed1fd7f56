"""Python on pages: files are projects that pytest collects, the rest is run, page by page, in a world of toys."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Ladder
from pytest_dspy_ft.records.baseline import Baseline, saved_experiment, write_baseline
from tests.conftest import REPOSITORY
from tests.docs.pages import Block, blocks
from tests.parity import Labels, make_experiment, right_label

pytestmark = pytest.mark.usefixtures("loaded")

ELSEWHERE = {
    "docs/how-to/scripted-lm.md": "tests/testing/test_page.py",
    "docs/how-to/shipping.md": "tests/shipping/test_docs.py",
    "docs/tutorial.md": "tests/test_tutorial.py",
}
"""Pages whose blocks take a world of their own, or are done one after the other: the test that runs them."""


def is_test_file(block: Block) -> bool:
    """True for a file of a project that pytest collects."""
    return block.file == "conftest.py" or block.file.startswith("test_")


def by_page(*, files: bool) -> list[tuple[str, list[Block]]]:
    """The Python blocks of each page that are files of a project, or those that are not."""
    found: dict[str, list[Block]] = defaultdict(list)
    for block in blocks("python"):
        if block.page not in ELSEWHERE and is_test_file(block) == files:
            found[block.page].append(block)
    return list(found.items())


def first_ladder() -> str:
    """README's conftest.py, with a slice function: what stands beside test files of pages that show no conftest.py."""
    own = next(block.body for block in blocks("python") if block.page == "README.md" and block.file == "conftest.py")
    return own.replace("lm=dspy_lm,", "lm=dspy_lm, slices={'length': lambda example: len(example.text) > 80},")


@pytest.mark.parametrize(
    ("page", "files"), by_page(files=True), ids=lambda value: value if isinstance(value, str) else ""
)
def test_files_are_a_project_that_pytest_collects(
    page: str, files: list[Block], pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSPY_CACHEDIR", str(pytester.path / "dspy_cache"))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    (pytester.path / "conftest.py").write_text(first_ladder(), encoding="utf-8")
    for block in files:
        place = pytester.path / block.file
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(block.body, encoding="utf-8")
    rows = json.loads((REPOSITORY / "examples/ticket_sorting/tickets.json").read_text(encoding="utf-8"))
    (pytester.path / "tickets.json").write_text(json.dumps(rows), encoding="utf-8")
    arguments = ("--collect-only", "-q", "--strict-markers", "--dspy-lm=openai/gpt-4o-mini", "--dspy-stage=all")
    result = pytester.runpytest_subprocess(*arguments)
    tests = [block for block in files if "def test_" in block.body]
    assert tests or page == "README.md", "a conftest.py alone shows no test"
    assert result.ret == 0, result.stdout.str() + result.stderr.str()
    for block in tests:
        assert f"{block.file}::test_" in result.stdout.str(), block


def test_a_stage_that_is_not_there_is_found_by_collecting_a_page(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So names on pages are really checked by the test above."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    (pytester.path / "conftest.py").write_text(first_ladder(), encoding="utf-8")
    rows = json.loads((REPOSITORY / "examples/ticket_sorting/tickets.json").read_text(encoding="utf-8"))
    (pytester.path / "tickets.json").write_text(json.dumps(rows), encoding="utf-8")
    own = next(block.body for block in blocks("python") if block.page == "README.md" and block.file != "conftest.py")
    assert '"finetuned >= 88%"' in own
    pytester.makepyfile(test_it=own.replace('"finetuned >= 88%"', '"finetuend >= 88%"'))
    arguments = ("--collect-only", "-q", "--dspy-lm=openai/gpt-4o-mini", "--dspy-stage=all")
    assert pytester.runpytest_subprocess(*arguments).ret == pytest.ExitCode.USAGE_ERROR


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a reader has at hand: a program, data, a metric, an experiment, and files that sessions left."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    experiment = make_experiment()
    with Ladder(experiment, store=tmp_path / "store") as ladder:
        ladder.evaluate("baseline", on="dev")
        saved = (saved_experiment(ladder.record()),)
    for name in ("baseline.json", "today.json"):
        write_baseline(tmp_path / name, Baseline(created="2026-12-01T00:00:00Z", versions={}, experiments=saved))
    (tmp_path / "dspy_recordings").mkdir()
    return {
        "__name__": "page",
        "Experiment": type(experiment),
        "dataset": experiment.dataset,
        "dspy": dspy,
        "exact_category": right_label,
        "experiment": experiment,
        "lm": experiment.lm,
        "metric": right_label,
        "program": dspy.Predict(Labels),
    }


@pytest.mark.parametrize(
    ("page", "code"), by_page(files=False), ids=lambda value: value if isinstance(value, str) else ""
)
def test_code_runs(page: str, code: list[Block], world: dict[str, Any]) -> None:
    for block in code:
        exec(compile("\n" * block.line + block.body, REPOSITORY / page, "exec"), world)


def test_pages_that_are_run_elsewhere_are() -> None:
    pages = {block.page for block in blocks("python") if block.page in ELSEWHERE}
    assert pages
    for page in pages:
        assert Path(page).name in (REPOSITORY / ELSEWHERE[page]).read_text("utf-8")
