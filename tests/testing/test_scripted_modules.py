"""``ScriptedLM`` in modules that ask in their own ways: loops, several samples, threads, streams, history and tools."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import dspy

from pytest_dspy_ft.testing import ScriptedCall, ScriptedLM


def look_up(q: str) -> str:
    """Look something up."""
    return "Paris"


class UsesTools(dspy.Signature):
    """Use the tools."""

    question: str = dspy.InputField()
    tools: list[dspy.Tool] = dspy.InputField()
    calls: dspy.ToolCalls = dspy.OutputField()


def agent(inputs: dict[str, Any], call: ScriptedCall) -> dict[str, Any]:
    if "next_tool_name" not in call.outputs:
        return {"answer": "Paris"}
    known = "Paris" in str(inputs["trajectory"])
    step = ("finish", {}) if known else ("look_up", {"q": "capital"})
    return {"next_thought": "so", "next_tool_name": step[0], "next_tool_args": step[1]}


def test_an_agent() -> None:
    lm = ScriptedLM(agent)
    with dspy.context(lm=lm):
        assert dspy.ReAct("question -> answer", tools=[look_up])(question="The capital?").answer == "Paris"
    assert [call.outputs[-1] for call in lm.calls] == ["next_tool_args", "next_tool_args", "answer"]


def test_several_samples_are_several_calls() -> None:
    lm = ScriptedLM({"q": [{"answer": "a"}, {"answer": "b"}, {"answer": "c"}]})
    with dspy.context(lm=lm):
        assert dspy.Predict("question -> answer", n=3)(question="q").completions.answer == ["a", "b", "c"]
        best = dspy.BestOfN(
            dspy.Predict("question -> answer"), N=2, reward_fn=lambda args, made: float(made.answer == "c"), threshold=1
        )
        assert best(question="q").answer == "c"


def test_threads_that_dspy_starts() -> None:
    program = dspy.Predict("question -> answer")
    with dspy.context(lm=ScriptedLM(lambda inputs: {"answer": inputs["question"] * 2})):
        found = dspy.Parallel(num_threads=4, disable_progress_bar=True)([(program, {"question": c}) for c in "abcdef"])
    assert [one.answer for one in found] == ["aa", "bb", "cc", "dd", "ee", "ff"]


def test_a_stream_ends_in_the_answer() -> None:
    async def last() -> Any:
        streamed = dspy.streamify(dspy.Predict("question -> answer"))
        return [value async for value in streamed(question="q")][-1]

    with dspy.context(lm=ScriptedLM({"q": {"answer": "a"}})):
        assert asyncio.run(last()).answer == "a"


def test_inputs_that_are_no_text() -> None:
    history = dspy.History(messages=[{"question": "before", "answer": "then"}])
    with dspy.context(lm=ScriptedLM(lambda inputs: {"answer": inputs["history"].messages[0]["answer"]})):
        assert dspy.Predict("question, history: dspy.History -> answer")(question="q", history=history).answer == "then"
    wanted = dspy.ToolCalls.from_dict_list([{"name": "look_up", "args": {"q": "x"}}])
    with dspy.context(lm=ScriptedLM({}, default={"calls": wanted})):
        assert dspy.Predict(UsesTools)(question="q", tools=[dspy.Tool(look_up)]).calls.tool_calls[0].args == {"q": "x"}


def test_a_deep_copy_is_the_same_lm() -> None:
    lm = ScriptedLM({"q": {"answer": "a"}}, finetuned={"q": {"answer": "b"}})
    other = copy.deepcopy(lm)
    with dspy.context(lm=other):
        dspy.Predict("question -> answer")(question="q")
    assert len(lm.calls) == 1
