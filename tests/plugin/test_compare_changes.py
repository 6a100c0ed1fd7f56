"""``--dspy-compare`` where experiment, data or file changed: said, refused, or shown example by example."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.plugin.projects import COMPARE, DEV, FILE, FULL, SAVE, calls, content, run, text, wrong


def test_new_removed_and_changed_examples_are_listed(saved: pytest.Pytester) -> None:
    conftest = saved.path / "conftest.py"
    conftest.write_text(
        """
import dspy, pytest
from parity import examples, make_experiment
from pytest_dspy_ft import Dataset

@pytest.fixture(scope="session")
def dspy_experiment():
    relabelled = dspy.Example(text="80", label="odd").with_inputs("text")
    dev = [relabelled, *examples(range(82, 90)), *examples([1000, 1001, 90])]
    return make_experiment(dataset=Dataset(train=examples(range(80)), dev=dev, test=examples(range(91, 100))))
"""
    )
    result = run(saved, COMPARE, "--dspy-stage=prompt")
    result.assert_outcomes(passed=3, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "baseline*dev*8*50.0%*50.0%*no loss could have been seen in 8 examples",
            "prompt_optimized*dev*8*100.0%*100.0%*no loss seen (87.5 points or more would have been)",
            "the splits have other sizes: dev 10 -> 12, test 10 -> 9",
            "examples of dev: 8 as they were, 3 new, 1 removed, 1 changed; only those as they were are compared",
            "new: *, *, *",
            "removed: *",
            "changed: * -> *",
        ]
    )


def test_another_metric_is_refused(saved: pytest.Pytester) -> None:
    conftest = saved.path / "conftest.py"
    conftest.write_text(
        conftest.read_text().replace("make_experiment()", "make_experiment(metric=always)")
        + "\n\ndef always(example, prediction, trace=None):\n    return True\n"
    )
    result = run(saved, FULL, COMPARE, SAVE)
    assert result.parseoutcomes()["failed"] >= 1
    result.stdout.fnmatch_lines(
        [
            "*the metric is not the one that baseline.json was measured with*",
            "REFUSED: the metric is not the one*",
            "baseline NOT saved to *experiment 'parity' did not pass the comparison with this very file",
        ]
    )


def test_another_lm_is_compared_and_said(saved: pytest.Pytester) -> None:
    conftest = saved.path / "conftest.py"
    conftest.write_text(
        conftest.read_text()
        .replace("make_experiment()", "make_experiment(lm=other)")
        .replace(
            "import make_experiment", "import make_experiment, toy_lm\n\nother = toy_lm()\nother.model = 'toy/other'"
        )
    )
    result = run(saved, COMPARE)
    result.stdout.fnmatch_lines(["the LM was toy/parity, now it is toy/other*"])


def test_an_experiment_that_the_file_does_not_hold_is_skipped_aloud(saved: pytest.Pytester) -> None:
    conftest = saved.path / "conftest.py"
    conftest.write_text(conftest.read_text().replace("make_experiment()", "make_experiment('newcomer')"))
    result = run(saved, COMPARE, "-rs")
    result.assert_outcomes(passed=1, skipped=3)
    result.stdout.fnmatch_lines(
        [
            "baseline.json also holds experiment 'parity', which was not compared in this session",
            "SKIPPED*baseline.json holds no experiment 'newcomer' (it holds parity): nothing to compare with",
        ]
    )


def test_a_regression_is_not_saved_over_the_file_it_was_found_with(
    saved: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = text(saved)
    result = run(saved, FULL, COMPARE, SAVE, wrong(monkeypatch, DEV))
    result.stdout.fnmatch_lines(["baseline NOT saved to *did not pass the comparison with this very file"])
    assert text(saved) == before


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (None, "there is no file *make it with --dspy-save-baseline=*"),
        ("<<<<<<< ours\n{}\n", "is no JSON*merge conflict*"),
        ("[]", 'is no baseline: it lacks "format"*'),
        ('{"schema_version": 1, "experiments": []}', 'is no baseline: it lacks "format"*'),
        ("newer", "has schema version 7; this pytest-dspy-ft reads version 2; *upgrade*"),
        ("older", "has schema version 'zero'; *save it anew*"),
        ("lacking", "is damaged: *"),
        ("edited", "experiment 'parity' is not as it was saved: its checksum does not match *"),
        ("edited before", "is damaged: experiment 'parity': stage 'baseline' on dev says n = 10, score 0.5, but *"),
    ],
)
def test_a_file_that_cannot_be_read_is_said_before_anything_runs(
    saved: pytest.Pytester, written: str | None, message: str
) -> None:
    changes: dict[str, dict[str, Any]] = {
        "newer": {"schema_version": 7},
        "older": {"schema_version": "zero"},
        "lacking": {"schema_version": 1, "experiments": [{"name": "parity"}]},
    }
    path = saved.path / FILE
    if written is None:
        path.unlink()
    elif written.startswith("edited"):
        path.write_text(text(saved).replace('"baseline": 0,', '"baseline": 1,', 1))
        if written == "edited before":  # version 1 had no checksums
            old = content(saved)
            del old["experiments"][0]["checksum"]
            path.write_text(json.dumps({**old, "schema_version": 1}))
    elif written in changes:
        path.write_text(json.dumps({**content(saved), **changes[written]}))
    else:
        path.write_text(written)
    before = calls(saved)
    for how in ((), ("-n1",)):
        result = run(saved, COMPARE, "--dspy-store=other", *how)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"*--dspy-compare={FILE}: *{message}"])
    assert calls(saved) == before


def test_a_forgotten_example_is_shown_on_its_way(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    project.makeconftest(
        """
        import dspy, pytest
        from parity import make_experiment
        from pytest_dspy_ft import Stage

        def forget(program, *, trainset, teacher):
            program.demos = []
            return program

        @pytest.fixture(scope="session")
        def dspy_experiment():
            few = Stage("few", dspy.LabeledFewShot(k=3))
            return make_experiment(stages=[few, Stage("bare", forget, start="few")])
        """
    )
    project.makepyfile(
        """
        import pytest

        @pytest.mark.dspy_gate("few >= baseline")
        def test_few(): ...

        @pytest.mark.dspy_gate("bare >= few")
        def test_bare(): ...
        """
    )
    result = run(project, "--dspy-stage=prompt")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "  0 fixed, 5 broke of 10 examples (few -> bare)",
            "  examples by their way through baseline, few, bare: 5 always right, 5 forgotten",
            "  broke *: text='80'",
            "    expected label='even'",
            "    few label='even'",
            "    bare label='odd'",
            "    baseline wrong, few right, bare wrong: forgotten",
            "examples of dev, lowest to highest stage: 5 always right, 5 forgotten",
        ]
    )


def test_the_script_of_the_docs_runs(saved: pytest.Pytester) -> None:
    docs = (REPOSITORY / "docs" / "how-to" / "baselines.md").read_text(encoding="utf-8")
    [script] = re.findall(r"^```python\n(.*?)^```$", docs, flags=re.MULTILINE | re.DOTALL)
    shutil.copy(saved.path / FILE, saved.path / "today.json")
    done = subprocess.run([sys.executable, "-c", script], cwd=saved.path, capture_output=True, text=True, check=True)
    assert done.stdout == "()\n"
