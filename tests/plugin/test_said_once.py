"""What a session prints is short, and nothing in it is said twice, however pytest is asked to show it."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.plugin.projects import run

FIVE = """
import pytest

@pytest.mark.dspy_gate("baseline >= 70%")
def test_a(): ...
@pytest.mark.dspy_gate("baseline >= prompt_optimized")
def test_b(): ...
@pytest.mark.dspy_gate("prompt_optimized >= baseline + 60%")
def test_c(): ...
@pytest.mark.dspy_gate("baseline >= 99%", on="test")
def test_d(): ...
@pytest.mark.dspy_gate("prompt_optimized >= baseline + 55%", on="test", confidence=0.95)
def test_e(): ...
"""
BROKEN = """
import pytest
from parity import make_experiment
from pytest_dspy_ft import Stage
import dspy

def index_it(program, *, trainset, teacher=None):
    raise ValueError("the vector index is empty")

@pytest.fixture(scope="session")
def dspy_experiment():
    return make_experiment(stages=[
        Stage("broken", index_it),
        Stage("on_broken", dspy.LabeledFewShot(k=2), start="broken"),
        Stage("few", dspy.BootstrapFinetune(metric=lambda *a, **k: False), teacher="baseline"),
    ])
"""
ON_BROKEN = """
import unittest
import pytest

@pytest.mark.dspy_gate("broken >= 70%")
def test_a(): ...
@pytest.mark.dspy_gate("broken >= baseline")
def test_b(): ...
@pytest.mark.dspy_gate("on_broken >= baseline", on="test")
def test_c(): ...
def test_d(dspy_program):
    dspy_program("broken")
@pytest.fixture
def program(dspy_program):
    return dspy_program("broken")
def test_e(program): ...
def test_f(dspy_ladder):
    dspy_ladder.build("on_broken")
@pytest.mark.dspy_gate("few >= baseline")
def test_g(): ...
@pytest.mark.dspy_gate("few >= 2 * baseline", on="test")
def test_h(): ...

@pytest.mark.dspy_gate("broken >= 10%")
class TestOld(unittest.TestCase):
    def test_old(self): ...
"""
CAUSE = "ValueError: the vector index is empty"


def lines_of(result: pytest.RunResult) -> list[str]:
    """What was printed, line by line, without colours."""
    return [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in result.outlines]


def said_twice(lines: list[str]) -> list[str]:
    """Sentences that stand more than once. Rules, headings, and the source that pytest quotes are none."""
    said = [line.strip() for line in lines if not re.match(r"[=_>]|\[gw\d|\s*(def |\^)|E  ", line)]
    said = [line for line in said if ", which failed" not in line]  # what points to the one place that says it
    sentences = [part.strip() for line in said for part in re.split(r"(?<=[.;])\s", line)]
    return [
        text for text, number in Counter(sentences).items() if number > 1 and len(re.findall(r"[a-z]{3,}", text)) > 3
    ]


@pytest.mark.parametrize("width", ["80", "120"])
def test_five_failed_gates_take_sixty_lines(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, width: str
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    project.makepyfile(test_five=FIVE)
    lines = lines_of(run(project, "--dspy-stage=all", "--color=yes"))
    assert len(lines) <= 60, "\n".join(lines)
    assert said_twice(lines) == []


def test_the_short_summary_keeps_what_was_observed_and_the_verdict(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    project.makepyfile(test_five=FIVE)
    lines = [line for line in lines_of(run(project, "--dspy-stage=all")) if line.startswith("FAILED")]
    assert [line.partition(" - ")[2].partition(":")[0] for line in lines] == [
        "FAIL at 50.0%",
        "FAIL at -50.0 pts",
        "FAIL at +50.0 pts",
        "FAIL at 50.0%",
        "UNDECIDED at +50.0 pts",
    ]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    "how", ["", "-q", "-v", "-n2", "--tb=short", "--tb=long", "--tb=native", "--tb=line", "--tb=no"]
)
def test_a_failed_stage_is_told_once(project: pytest.Pytester, how: str) -> None:
    if how == "-n2":
        pytest.importorskip("xdist")
    project.makeconftest(BROKEN)
    project.makepyfile(test_broken=ON_BROKEN)
    lines = lines_of(run(project, "--dspy-stage=all", *filter(None, [how])))
    text = "\n".join(lines)
    assert said_twice(lines) == [], text
    assert "During handling" not in text
    assert "direct cause" not in text
    body = text.partition("short test summary info")[0]
    assert body.count(CAUSE) == (2 if how == "--tb=line" else 1), text  # a line of its own, and one in the table
    assert body.count("what helps:") == 1, text
    pointers = re.findall(r"needs stage '\w+', which failed: see test_broken.py::", body)
    assert len(pointers) == (0 if how == "--tb=no" else 7), text
    assert "pytest_dspy_ft/ladder" not in text, "no traceback through our code"


def test_an_error_of_a_fixture_is_told_once(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest
        from pytest_dspy_ft import Dataset

        @pytest.fixture
        def rows():
            return Dataset.from_file("tickets.json", inputs=["text"])

        def test_a(rows): ...
        def test_b(rows): ...
        """
    )
    result = run(project)
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        [
            ">*return Dataset.from_file(*",
            "E  *DatasetError: no such file: *tickets.json*",
            "*test_an_error_of_a_fixture_is_told_once.py:6: DatasetError",
            "as test_an_error_of_a_fixture_is_told_once.py::test_a says: no such file: *",
        ]
    )
    assert "pytest_dspy_ft/experiment" not in str(result.stdout)


def test_an_error_at_collection_ends_at_the_users_line(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_it="from pytest_dspy_ft import Dataset\nDataset.from_file('tickets.json', inputs=['text'])\n"
    )
    result = run(project)
    result.stdout.fnmatch_lines(
        ["test_it.py:2: in <module>", "E  *no such file: *tickets.json*", "ERROR test_it.py - no such *"]
    )
    assert "pytest_dspy_ft/experiment" not in str(result.stdout)
    assert "pytest_dspy_ft/errors.py" in str(run(project, "--full-trace").stdout)


def test_a_gate_of_many_tests_stands_once(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.mark.dspy_gate("baseline >= 40%")
        @pytest.mark.parametrize("n", [1, 2, 3])
        def test_a(n): ...
        @pytest.mark.dspy_gate("baseline >= 70%")
        @pytest.mark.parametrize("n", [1, 2])
        def test_b(n): ...
        """
    )
    result = run(project)
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines(
        [
            "Gate `baseline >= 70%` failed *",
            "as test_a_gate_of_many_tests_stands_once.py::test_b[[]1[]] says: FAIL at 50.0%: baseline >= 70% on dev",
            "baseline >= 40%  dev     50.0%  PASS (3 tests)",
            "baseline >= 70%  dev     50.0%  FAIL (2 tests)",
        ]
    )
    assert str(result.stdout).count("Gate `baseline >= 70%`") == 1


def test_what_is_said_below_the_figures_is_no_warning_as_well(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.mark.dspy_gate("baseline >= 40%", on="train")
        def test_a(): ...
        """
    )
    text = str(run(project).stdout)
    assert text.count("a program that looks at its input would hardly do that") <= 1
    failed = run(project, "-Werror::pytest_dspy_ft.MeasurementWarning", "--dspy-store=other")
    failed.assert_outcomes(failed=1)
