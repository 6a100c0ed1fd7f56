"""``ScriptedLM`` in plain DSPy: every adapter, typed outputs, failures, counts, and what it is to the store."""

from __future__ import annotations

import asyncio
import doctest
import enum
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import dspy
import pydantic
import pytest
from dspy.adapters.baml_adapter import BAMLAdapter

from pytest_dspy_ft.errors import ScriptError
from pytest_dspy_ft.fingerprint import lm_identity
from pytest_dspy_ft.testing import ScriptedCall, ScriptedLM, ScriptedReply, scripted_lm


class Urgency(enum.Enum):
    LOW = "low"
    HIGH = "high"


class Item(pydantic.BaseModel):
    name: str
    count: int


class Order(dspy.Signature):
    """Read the order."""

    text: str = dspy.InputField()
    kind: Literal["new", "change"] = dspy.OutputField()
    urgency: Urgency = dspy.OutputField()
    items: list[Item] = dspy.OutputField()
    paid: bool = dspy.OutputField()
    total: float = dspy.OutputField()


TYPED = {"kind": "new", "urgency": Urgency.HIGH, "items": [Item(name="tea", count=2)], "paid": True, "total": 3.5}
AS_JSON = {"kind": "new", "urgency": "high", "items": [{"name": "tea", "count": 2}], "paid": True, "total": 3.5}


def adapters(lm: Any) -> list[Any]:
    names = (dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter(), BAMLAdapter(), dspy.TwoStepAdapter(lm))
    return [pytest.param(adapter, id=type(adapter).__name__) for adapter in names]


ORDERS = ScriptedLM({"two teas": TYPED, "as JSON": AS_JSON})


@pytest.mark.parametrize("adapter", adapters(ORDERS))
@pytest.mark.parametrize("module", [dspy.Predict, dspy.ChainOfThought])
@pytest.mark.parametrize("text", ["I need two teas at once!", "The same as JSON."])
def test_typed_outputs_by_every_adapter(adapter: Any, module: Any, text: str) -> None:
    program = module(Order)
    with dspy.context(lm=ORDERS, adapter=adapter):
        found = program(text=text)
        awaited = asyncio.run(program.acall(text=text))
    assert found.toDict() == awaited.toDict()
    assert {name: found[name] for name in TYPED} == TYPED


def test_the_examples_of_the_docstring_run() -> None:
    outcome = doctest.testmod(scripted_lm)
    assert outcome.attempted > 5
    assert outcome.failed == 0


def asked(lm: Any, text: str, signature: str = "text -> label") -> Any:
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)):
        return dspy.Predict(signature)(text=text)


def test_the_input_itself_comes_first_and_then_the_longest_key() -> None:
    lm = ScriptedLM({"a": {"label": "short"}, "a cat": {"label": "long"}, "I saw a cat": {"label": "whole"}})
    assert [asked(lm, text).label for text in ("a dog", "a cat!", "I saw a cat")] == ["short", "long", "whole"]


def test_keys_are_looked_for_in_the_inputs_alone() -> None:
    lm = ScriptedLM({"cat": {"label": "animal"}}, default={"label": "thing"})
    program = dspy.Predict("text -> label")
    program.demos = [dspy.Example(text="cat", label="animal")]
    with dspy.context(lm=lm):
        assert program(text="a table").label == "thing"


def test_what_the_script_lacks_is_an_error_that_names_the_nearest() -> None:
    lm = ScriptedLM({"I was charged twice": {"label": "billing"}})
    with pytest.raises(
        Exception, match=r"no answer for text=.I was charged twise.: the nearest .*'I was charged twice'"
    ) as error:
        asked(lm, "I was charged twise")
    assert isinstance(error.value.__cause__, ScriptError)
    with pytest.raises(Exception, match=r"returned None.*default="):
        asked(ScriptedLM(lambda inputs: None), "x")
    with pytest.raises(Exception, match=r"has no 'label'; it has \(?labl.*did you mean 'labl'"):
        asked(ScriptedLM({}, default={"labl": "x"}), "x")


@pytest.mark.parametrize("answer", [7, [], None, {"a": 1}.keys()])
def test_what_is_no_answer_is_refused_when_it_is_written(answer: Any) -> None:
    with pytest.raises(TypeError, match="the answer for 'x'"):
        ScriptedLM({"x": answer})


def test_what_is_no_script_is_refused() -> None:
    with pytest.raises(TypeError, match="a dict of answers or a function"):
        ScriptedLM("billing")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a text that stands in the inputs"):
        ScriptedLM({1: {"label": "x"}})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="outputs= or text="):
        ScriptedReply()


def test_failures_are_answers() -> None:
    lm = ScriptedLM(
        {
            "raise": RuntimeError("the line is dead"),
            "kind": ConnectionError,
            "unreadable": "no.",
            "cut": ScriptedReply(outputs={"label": "a long label"}, cut_off=True),
            "later": ["no.", {"label": "yes"}],
        }
    )
    with pytest.raises(Exception, match="the line is dead"):
        asked(lm, "raise")
    with pytest.raises(Exception, match="by the script, for 'kind'"):
        asked(lm, "kind")
    for text in ("unreadable", "cut", "later"):
        with pytest.raises(dspy.AdapterParseError):
            asked(lm, text)
    assert [asked(lm, "later").label for _ in range(2)] == ["yes", "yes"]


def test_a_function_sees_the_call() -> None:
    seen: list[ScriptedCall] = []

    def rule(inputs: dict[str, Any], call: ScriptedCall) -> dict[str, Any]:
        seen.append(call)
        return {"label": f"{inputs['text']} after {len(call.demos)} demos"}

    program = dspy.Predict("text -> label")
    program.demos = [dspy.Example(text="t", label="l")]
    lm = ScriptedLM(rule, name="seeing")
    with dspy.context(lm=lm):
        assert program(text="x").label == "x after 1 demos"
    assert (seen[0].model, seen[0].outputs, dict(seen[0].inputs)) == ("scripted/seeing", ("label",), {"text": "x"})
    assert lm.calls == tuple(seen)


def test_without_an_adapter_keys_are_looked_for_in_the_prompt() -> None:
    lm = ScriptedLM({"capital": "Paris", "json": {"n": 1}})
    assert lm("The capital of France?") == ["Paris"]
    assert lm("as json") == ['{"n": 1}']


def test_copies_and_threads_share_script_and_counts() -> None:
    lm = ScriptedLM({"x": [{"label": str(n)} for n in range(40)]})
    copies = [lm.copy(temperature=0.5), lm]
    with ThreadPoolExecutor(8) as pool:
        labels = list(pool.map(lambda n: asked(copies[n % 2], "x").label, range(40)))
    assert sorted(labels, key=int) == [str(n) for n in range(40)]
    assert len(lm.calls) == len(copies[0].calls) == 40


def test_usage_can_be_given() -> None:
    lm = ScriptedLM({"x": ScriptedReply(outputs={"label": "a"}, input_tokens=7, output_tokens=3)})
    with dspy.context(track_usage=True):
        usage = asked(lm, "x").get_lm_usage()["scripted/lm"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (7, 3)


def test_to_the_store_it_is_what_it_answers() -> None:
    def identity(**changes: Any) -> Any:
        return lm_identity(ScriptedLM(**{"answers": {"x": {"label": "a"}}, **changes}))

    same = identity()
    assert identity() == same
    others = [
        identity(answers={"x": {"label": "b"}}),
        identity(answers={"y": {"label": "a"}}),
        identity(answers={"x": ScriptedReply(outputs={"label": "a"}, cut_off=True)}),
        identity(answers={"x": ValueError("a")}),
        identity(answers={"x": ValueError("b")}),
        identity(answers=lambda inputs: {"label": "a"}),
        identity(answers=lambda inputs: {"label": "b"}),
        identity(default={"label": "a"}),
        identity(finetuned={"x": {"label": "b"}}),
        identity(price=(1.0, 2.0)),
        identity(seconds=1.0),
        identity(temperature=0.5),
    ]
    assert all(other != same for other in others)
    assert len({repr(other) for other in others}) == len(others)


def test_it_is_fine_tuned_to_the_other_script_and_only_if_there_is_one() -> None:
    rows = [{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}]
    lm = ScriptedLM({"x": {"label": "raw"}}, finetuned={"x": {"label": "tuned"}})
    tuned = lm.finetune(rows, None).result()
    assert (asked(lm, "x").label, asked(tuned, "x").label) == ("raw", "tuned")
    assert lm.trainings == (rows,)
    with pytest.raises(dspy.LMUnsupportedFeatureError):
        ScriptedLM({"x": {"label": "raw"}}).finetune(rows, None)
