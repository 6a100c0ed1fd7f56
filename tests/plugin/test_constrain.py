"""``--dspy-constrain``: what it goes with, and what it cannot do, said before anything is asked."""

from __future__ import annotations

from pathlib import Path

import dspy
import pytest

from pytest_dspy_ft import Dataset, Experiment, Ladder, resolve_lm
from pytest_dspy_ft.constants import IN_ADAPTERS_FORMAT
from pytest_dspy_ft.errors import ExperimentError, LMError
from pytest_dspy_ft.fingerprint import lm_identity

ROWS = [dspy.Example(text=f"ticket {n}", names=["a"]).with_inputs("text") for n in range(6)]


class Names(dspy.Signature):
    """Names in a ticket."""

    text: str = dspy.InputField()
    names: list[str] = dspy.OutputField()


def right(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    return bool(example.names == prediction.names)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--dspy-lm=openai/gpt-4o-mini"],
            "--dspy-lm=openai/gpt-4o-mini does not: leave it out, or use --dspy-lm=local",
        ),
        (["--dspy-serve=http://127.0.0.1:9"], "--dspy-serve has a server answer: leave one of them out"),
    ],
)
def test_what_it_does_not_go_with(project: pytest.Pytester, arguments: list[str], words: str) -> None:
    project.makepyfile("import pytest\n\n@pytest.mark.dspy_gate('baseline >= 50%')\ndef test_it(): ...\n")
    result = project.runpytest_subprocess("--dspy-constrain", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert words in " ".join(result.stderr.str().split())


def test_a_format_that_an_adapter_does_not_have_is_refused_before_a_call(tmp_path: Path) -> None:
    lm = resolve_lm("local", constrained=True)
    experiment = Experiment(
        "names",
        program=dspy.Predict(Names),
        dataset=Dataset.from_examples(ROWS, split=(0.5, 0.5, 0.0)),
        metric=right,
        lm=lm,
        adapter=dspy.XMLAdapter(),
    )
    with pytest.raises(ExperimentError, match=r"'baseline', predictor 'self'.*'names' as elements.*--dspy-constrain"):
        Ladder(experiment, tmp_path / "store").evaluate("baseline")
    assert not lm.history


def test_it_is_part_of_what_an_lm_is() -> None:
    free, kept = resolve_lm("local"), resolve_lm("local", constrained=True)
    assert kept.kwargs["response_format"] == IN_ADAPTERS_FORMAT
    assert lm_identity(free) != lm_identity(kept)
    assert lm_identity(kept.copy()) == lm_identity(kept)
    with pytest.raises(LMError, match="only LMs that run on this machine"):
        resolve_lm("openai/gpt-4o-mini", constrained=True)
