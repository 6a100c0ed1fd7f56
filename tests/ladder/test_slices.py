"""Gates in slices from a script: every measure, errors that leave the ladder as it was, limits."""

from __future__ import annotations

import enum
import warnings
from pathlib import Path
from typing import Any, Literal

import dspy
import pytest

from pytest_dspy_ft import Dataset, Experiment, Ladder
from pytest_dspy_ft.errors import ExperimentError, GateError
from pytest_dspy_ft.experiment.slices import label_of
from pytest_dspy_ft.gates.gate import Gate
from pytest_dspy_ft.report.confusion import confusions
from tests.scripted import CHAT, reply, scripted_lm
from tests.tickets import EACH, make_tickets, tickets


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Ladder:
    """The whole ladder, measured once."""
    folder = tmp_path_factory.mktemp("sliced")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        measured = Ladder(make_tickets(), folder / "store")
        for stage in ("baseline", "prompt_optimized"):
            measured.evaluate(stage)
    return measured


@pytest.mark.parametrize(
    ("expression", "settings", "worst"),
    [
        ("prompt_optimized >= baseline", {}, ("refund", "FAIL", "-42.5 pts in refund")),
        ("prompt_optimized / baseline >= 0.9", {}, ("refund", "FAIL", "0.47x in refund")),
        ("unparsed(prompt_optimized) <= 1%", {}, ("refund", "FAIL", "2.5% in refund")),
        ("tokens(prompt_optimized) <= 2 * tokens(baseline)", {"confidence": 0.9}, ("account", "UNDECIDED", None)),
        ("prompt_optimized >= baseline", {"by": "urgent"}, ("(none)", "PASS", None)),
    ],
)
def test_any_gate_in_slices(ladder: Ladder, expression: str, settings: dict[str, Any], worst: tuple[Any, ...]) -> None:
    verdict = ladder.judge(Gate.parse(expression, **{"by": "category", **settings}))
    name, outcome, observed = worst
    assert (verdict.slices[0].name, verdict.verdict) == (name, outcome), verdict.message
    assert observed in (None, verdict.observed)
    assert sum(part.n for part in verdict.slices) == 5 * EACH


def test_what_makes_no_slices_leaves_the_ladder_as_it_was(ladder: Ladder) -> None:
    before = ladder.record()
    for by in ("catgory", "text"):
        with pytest.raises(GateError, match=f"by='{by}'"):
            ladder.judge(Gate.parse("baseline >= 10%", by=by))
    assert ladder.record() == before


def test_weighed_among_others_it_is_corrected_for_both(ladder: Ladder) -> None:
    gate = Gate.parse("prompt_optimized >= baseline", by="category", confidence=0.9)
    assert {part.tried for part in ladder.weigh(gate, 3).slices} == {15}
    assert {part.tried for part in ladder.judge(gate, slice_divisors=dict.fromkeys(
        (part.name for part in ladder.slices(gate)), 8)).slices} == {8}  # fmt: skip


def test_a_limit_refuses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few examples may well have a label each: that is no free text."""
    monkeypatch.chdir(tmp_path)
    slices = {"number": lambda example: example.text.split(":")[0].split()[1]}
    short = Ladder(make_tickets(slices=slices, stages=[]), tmp_path / "store", limit=4)
    verdict = short.judge(Gate.parse("baseline >= 10%", by="number", min_n=1))
    assert [part.name for part in verdict.slices] == ["0"]


class Kind(enum.Enum):
    """Of which a plain prediction would be written ``Kind.FIRST``."""

    FIRST = "first kind"
    SECOND = "second kind"


@pytest.mark.parametrize(
    ("kind", "labels", "said"),
    [
        (Kind, list(Kind), "first kind"),
        (Kind, [kind.value for kind in Kind], "first kind"),
        (bool, [True, False], "True"),
        (Literal["x", "y"], ["x", "y"], "x"),
        (int, [1, 2], "1"),
        (str, ["x", "y"], " X "),
    ],
)
def test_confusions_of_typed_answers(tmp_path: Path, kind: Any, labels: list[Any], said: str) -> None:
    signature = dspy.Signature({"text": (str, dspy.InputField()), "label": (kind, dspy.OutputField())})
    rows = [dspy.Example(text=f"row {n}", label=labels[n % 2]).with_inputs("text") for n in range(30)]
    experiment = Experiment(
        "typed",
        program=dspy.Predict(signature),
        dataset=Dataset(dev=rows),
        metric=lambda example, prediction, trace=None: 0.5,
        lm=scripted_lm(lambda inputs, request: reply(label=said) if inputs["text"] != "row 1" else "unreadable"),
        adapter=CHAT,
    )
    ladder = Ladder(experiment, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that all predictions are the same
        ladder.evaluate("baseline")
    [matrix] = confusions(ladder.record())
    first, second = (label_of(label) for label in labels)
    counts = {cell: matrix.count(*cell) for cell in matrix.cells}
    assert counts == {(first, first): 15, (second, first): 14, (second, "unparsed"): 1}


def test_a_slice_function_that_fails_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = Dataset(dev=tickets(range(3)))
    broken = Ladder(make_tickets(slices={"bad": lambda e: e.nothing}, dataset=dataset, stages=[]), tmp_path / "store")
    with pytest.raises(ExperimentError, match=r"slice function 'bad' failed: AttributeError.*on example .* of dev"):
        broken.evaluate("baseline")
    assert not (tmp_path / "calls.log").exists()
