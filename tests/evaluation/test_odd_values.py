"""Odd values: scores with rounding noise, replies that break an adapter, predictions that no file can hold."""

from __future__ import annotations

import enum
import json
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pydantic
import pytest

from pytest_dspy_ft import Ladder, Stage
from pytest_dspy_ft.evaluation.score import to_score
from tests.scripted import CHAT, experiment, numbers, reply, scripted_lm


class Number:
    """A number of some other library's, such as sympy's."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __float__(self) -> float:
        return self.value


@pytest.mark.parametrize(
    ("value", "score"),
    [
        (1.0000001, 1.0),
        (-1e-7, 0.0),
        (1 + 1e-6, 1.0),
        (np.float32(1.0000001), 1.0),
        (Decimal("1.0000000001"), 1.0),
        (Decimal("0.5"), 0.5),
        (Fraction(1, 4), 0.25),
        (Number(0.75), 0.75),
        (np.array([True]), 1.0),
        (dspy.Prediction(score=Fraction(1, 2)), 0.5),
        (dspy.Prediction(score=-1e-9), 0.0),
    ],
)
def test_numbers_of_any_type_count_and_rounding_is_taken_off(value: Any, score: float) -> None:
    assert to_score(value) == score
    assert str(to_score(value)) == str(score)  # never -0.0


@pytest.mark.parametrize("value", [1.00001, -1e-5, Decimal("NaN"), Decimal("Infinity"), Fraction(9, 8), 1j, "1", b"1"])
def test_what_is_beyond_rounding_or_no_number_is_refused(value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        to_score(value)


# --- replies that an adapter cannot read, whatever it raises


class Colour(enum.Enum):
    RED = "red"


class Picky(pydantic.BaseModel):
    """Its validator fails in a way that pydantic lets through."""

    name: str

    @pydantic.field_validator("name")
    @classmethod
    def known(cls, value: str) -> str:
        return {"red": "red"}[value]


class Shouting(dspy.ChatAdapter):
    """A user's own adapter, which reads replies its own way."""

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        return {"label": completion.split("ANSWER: ")[1]}


class Misspelt(dspy.ChatAdapter):
    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        return read_it(completion)  # type: ignore[name-defined] # noqa: F821


def outcomes(tmp_path: Path, program: Any, answer: Any, adapter: Any) -> set[tuple[str, str | None]]:
    ladder = Ladder(experiment(program, scripted_lm(answer, num_retries=0), adapter=adapter), tmp_path)
    return {(result.outcome, result.fault) for result in ladder.evaluate("baseline").examples}


@pytest.mark.parametrize("adapter", [CHAT, dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter()])
@pytest.mark.parametrize(
    ("kind", "value"),
    [(Colour, {"name": "x"}), (Colour, ["red"]), (list[Colour], [{"a": 1}]), (Picky, {"name": "blue"})],
)
def test_a_reply_that_breaks_the_adapter_is_unparsed(tmp_path: Path, adapter: Any, kind: Any, value: Any) -> None:
    program = dspy.Predict(dspy.Signature({"text": (str, dspy.InputField()), "colour": (kind, dspy.OutputField())}))

    def answer(fields: Any, request: Any) -> str:
        plain = json.dumps(value)
        if isinstance(adapter, dspy.JSONAdapter):
            return json.dumps({"colour": value})
        return f"<colour>{plain}</colour>" if isinstance(adapter, dspy.XMLAdapter) else reply(colour=plain)

    assert outcomes(tmp_path, program, answer, adapter) == {("unparsed", None)}


def test_an_own_adapter_that_fails_on_a_reply_finds_it_unparsed(tmp_path: Path) -> None:
    program = dspy.Predict("text -> label")
    assert outcomes(tmp_path, program, lambda fields, request: "no idea", Shouting()) == {("unparsed", None)}


def test_an_own_adapter_that_lacks_a_name_is_an_error(tmp_path: Path) -> None:
    program = dspy.Predict("text -> label")
    assert outcomes(tmp_path, program, lambda fields, request: "no idea", Misspelt()) == {("error", "program")}


class Careless(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("text -> label")

    def forward(self, text: str) -> Any:
        return {"even": 0}[self.answer(text=text)]  # type: ignore[index]


def test_what_the_program_does_with_a_reply_is_its_own_fault(tmp_path: Path) -> None:
    assert outcomes(tmp_path, Careless(), lambda fields, request: reply(label="x"), CHAT) == {("error", "program")}


def test_an_extracting_lm_that_fails_is_no_unreadable_reply(tmp_path: Path) -> None:
    def fail(fields: Any, request: Any) -> str:
        raise ZeroDivisionError("the extracting LM is broken")

    adapter = dspy.TwoStepAdapter(extraction_model=scripted_lm(fail, model="toy/extract", num_retries=0))
    found = outcomes(tmp_path, dspy.Predict("text -> label"), lambda fields, request: "it is even", adapter)
    assert {outcome for outcome, _ in found} == {"error"}


# --- predictions that no file can hold as they are


def odd_values() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    deep: list[Any] = []
    for _ in range(400):
        deep = [deep]
    return [
        float("nan"),
        float("inf"),
        10**6000,
        loop,
        deep,
        b"\xff",
        "\ud83d",
        {"\udc97": float("nan")},
        np.array([np.nan]),
    ]


class Odd(dspy.Module):
    """Gives an odd value beside its LM's answer."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("text -> label")

    def forward(self, text: str) -> Any:
        prediction = self.answer(text=text)
        prediction["odd"] = odd_values()[int(text) % len(odd_values())]
        return prediction


def test_odd_predictions_are_scored_kept_and_loaded_again(tmp_path: Path) -> None:
    lm = scripted_lm(lambda fields, request: reply(label="even\ud83d"))

    def metric(example: Any, prediction: Any, trace: Any = None) -> bool:
        return bool(prediction.label == "even\ud83d") and "odd" in prediction

    declared = experiment(Odd(), lm, metric=metric, dataset=_odd_dataset())
    first = Ladder(declared, tmp_path).evaluate("baseline")
    assert (first.score, first.errors, first.n) == (1.0, 0, 18)
    again = Ladder(experiment(Odd(), lm, metric=metric, dataset=_odd_dataset()), tmp_path).evaluate("baseline")
    assert again.loaded
    assert again.examples == first.examples
    shown = [result.prediction["odd"] for result in first.examples[7:16] if result.prediction]
    assert shown[0] == "nan"
    assert shown[2].startswith("0x")
    assert "nested too deeply" in str(shown[3])
    assert shown[6] == "\\ud83d"


def test_demos_hold_nan_and_lone_surrogates(tmp_path: Path) -> None:
    prompts: list[str] = []

    def answer(fields: Any, request: Any) -> str:
        prompts.append(str(request.messages))
        return reply(label="even")

    def declared() -> Any:
        return experiment(
            dspy.Predict("text -> label"),
            scripted_lm(answer),
            [Stage("few", dspy.LabeledFewShot(k=4))],
            dataset=_odd_dataset(),
        )

    Ladder(declared(), tmp_path / "store").evaluate("few")
    built, prompts[:] = sorted(prompts), []
    other = Ladder(declared(), tmp_path / "store")
    demos = other.program("few").predictors()[0].demos
    assert {str(demo["price"]) for demo in demos} == {"nan", "\udc97"}
    assert other.evaluate("few").loaded
    assert built


def _odd_dataset() -> Any:
    from pytest_dspy_ft import Dataset

    odd = numbers(38, price=lambda n: float("nan") if n % 2 else "\udc97")
    return Dataset(train=odd[:20], dev=odd[20:])
