"""Gates that can only pass or only fail, confidences that decide nothing, and stages that cancel out of a gate."""

from __future__ import annotations

import pytest

from tests.plugin.projects import run


def gate(arguments: str) -> str:
    return f"import pytest\n\n@pytest.mark.dspy_gate({arguments})\ndef test_it(): ...\n"


def refused(project: pytest.Pytester, *lines: str, arguments: tuple[str, ...] = ()) -> None:
    result = run(project, *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR, result.stdout.str() + result.stderr.str()
    result.stderr.fnmatch_lines(list(lines))
    assert not (project.path / "calls.log").exists()


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        ('"baseline >= baseline"', ("*py:3: test_it: *can only pass: `baseline` cancels out*", "*          ^")),
        ('"errors(baseline) <= 1", on="test"', ("*py:3: test_it: *can only pass: *did you mean `1%`?*",)),
        ('"baseline > 100%", confidence=0.95', ("*py:3: test_it: *can only fail: *did you mean `>=`?*",)),
        ('"finetuned >= 0.88%"', ("*py:3: test_it: *did you mean `88%`?*", "*             ^")),
        ('"baseline >= 40%", confidence=0.05', ("*py:3: test_it: *at least 0.5*not 0.05; did you mean 0.95?*",)),
    ],
)
def test_refused_at_collection(project: pytest.Pytester, arguments: str, lines: tuple[str, ...]) -> None:
    project.makepyfile(gate(arguments))
    refused(project, *lines)


def test_refused_where_the_test_would_not_run(project: pytest.Pytester) -> None:
    project.makepyfile(gate('"finetuned >= finetuned", lm="openai/*"') + "\ndef test_other(): ...\n")
    refused(project, "*py:3: test_it: *can only pass*", arguments=("-k", "other"))


@pytest.mark.parametrize("value", ["0.05", "0.49", "1", "0", "-1", "nan"])
def test_a_default_confidence_that_decides_nothing(project: pytest.Pytester, value: str) -> None:
    project.makepyfile(gate('"baseline >= 40%"'))
    refused(
        project,
        f"*--dspy-confidence: '{value}' is not a confidence of at least 0.5 and below 1, such as 0.95",
        arguments=(f"--dspy-confidence={value}",),
    )


def test_so_in_the_ini_file(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\ndspy_confidence = 0.05\n")
    project.makepyfile(gate('"baseline >= 40%"'))
    refused(project, "*dspy_confidence = '0.05' is not a confidence of at least 0.5 and below 1, such as 0.95")


@pytest.mark.parametrize("arguments", [(), ("--dspy-confidence=0.5",)])
def test_a_stage_that_cancels_out_of_graded_scores(project: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    project.makeconftest(
        """
        import dspy, pytest
        from pytest_dspy_ft import Stage
        from parity import make_experiment

        def demonstrated(program, *, trainset, teacher=None):
            program.demos = [dspy.Example(text="2", label="even")]
            return program

        def graded(example, prediction, trace=None):
            return (len(example.text) + int(example.text) % 7) / 10

        @pytest.fixture(scope="session")
        def dspy_experiment():
            stages = [Stage("first", demonstrated), Stage("second", dspy.LabeledFewShot(k=3))]
            return make_experiment(metric=graded, stages=stages)
        """
    )
    project.makepyfile(
        """
        import pytest

        @pytest.mark.dspy_gate("first - baseline >= second - baseline - 50%")
        @pytest.mark.dspy_gate("first + baseline >= baseline + 5%", confidence=0.95)
        @pytest.mark.dspy_gate("min(first, second) - baseline >= first - baseline - 60%", confidence=0.9)
        def test_holds(): ...

        @pytest.mark.dspy_gate("first - baseline >= second - baseline + 50%", confidence=0.95)
        def test_does_not(): ...
        """
    )
    result = run(project, "--dspy-stage=all", *arguments)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*Gate `first - baseline >= second - baseline + 50%` failed*", "*95% interval*"])
