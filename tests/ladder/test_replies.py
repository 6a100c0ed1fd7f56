"""Every reply of an LM is kept as it came: text, tools, why it ended, tokens; and shown where an answer is not."""

from __future__ import annotations

from typing import Any

import dspy
from dspy.lm15 import Message, Response, ToolCallPart, Usage

from pytest_dspy_ft import Gate, Ladder
from pytest_dspy_ft.records.output import REPLY_LENGTH, Reply
from tests.ladder.helpers import STORE, parity_rule, predict
from tests.scripted import ScriptedEngine, experiment, reply, scripted_lm


class Engine(ScriptedEngine):
    """Ends its replies for a reason of its own, and may ask for a tool."""

    def __init__(self, rule: Any, finish: str = "stop", tool: bool = False) -> None:
        super().__init__(rule)
        self.finish, self.tool = finish, tool

    def complete(self, request: Any) -> Response:
        answered = super().complete(request)
        message = answered.message
        if self.tool:
            message = Message(role="assistant", parts=(ToolCallPart(id="1", name="look", input={"n": 2}),))
        usage = Usage(input_tokens=100, output_tokens=7)
        return Response(id=None, model=request.model, message=message, finish_reason=self.finish, usage=usage)


def ladder_of(engine: Any, program: Any = None, **settings: Any) -> Ladder:
    lm = dspy.LM("toy/scripted", engine=engine, cache=False, **settings)
    return Ladder(experiment(program or predict(), lm, count=100), STORE)


def replies_of(ladder: Ladder) -> list[list[Reply]]:
    result = ladder.evaluate("baseline")
    return list(ladder.replies(result, [example.id for example in result.examples]).values())


def test_a_reply_that_was_cut_off_is_shown_with_the_limit_that_cut_it() -> None:
    ladder = ladder_of(Engine(lambda fields, request: "[[ ## lab", "length"), max_tokens=16)
    replies = replies_of(ladder)
    assert len(replies) == 10
    assert all(one.cut_off and one.limit == 16 and one.finish_reason == "length" for [one] in replies)
    message = ladder.judge(Gate.parse("baseline >= 50%")).message
    assert "      its reply, cut off at 16 tokens: [[ ## lab" in message
    assert "10 of 10 replies of baseline could not be read, 10 of 10 were cut off at 16 tokens" in message


def test_a_passing_gate_and_a_readable_answer_show_no_reply() -> None:
    ladder = ladder_of(Engine(parity_rule))
    assert "its reply" not in ladder.judge(Gate.parse("baseline >= 50%")).message
    assert "its reply" not in ladder.judge(Gate.parse("baseline <= 50%")).message


def test_a_long_reply_keeps_its_beginning_and_its_end() -> None:
    def long(fields: Any, request: Any) -> str:
        return f"BEGIN {'x' * 3 * REPLY_LENGTH} {parity_rule(fields, request)} END"

    [[one], *_] = replies_of(ladder_of(Engine(long)))
    assert one.text.startswith("BEGIN x")
    assert one.text.endswith("END")
    assert "characters left out" in one.text
    assert len(one.text) < REPLY_LENGTH + 100


def test_each_of_several_completions_is_a_reply() -> None:
    program = dspy.Predict("text -> label", n=3, temperature=0.7)
    assert [len(replies) for replies in replies_of(ladder_of(Engine(parity_rule), program))] == [3] * 10


class Asking(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sort = dspy.Predict("text -> label")

    def forward(self, text: str) -> Any:
        dspy.settings.lm(f"[[ ## text ## ]]\n{text}")
        return dspy.Prediction(label="even")


def test_tools_that_were_asked_for_stand_in_the_reply() -> None:
    [[one], *_] = replies_of(ladder_of(Engine(parity_rule, "tool_call", tool=True), Asking()))
    assert one.tool_calls is not None
    assert "look" in str(one.tool_calls)
    assert one.text == ""


def test_what_the_json_adapter_asked_again_is_counted() -> None:
    def half(fields: Any, request: Any) -> str:
        number = int(fields["text"].split()[0])
        return '{"label": "odd"}' if number % 2 else reply(label="even")

    made = experiment(predict(), scripted_lm(half), count=100, adapter=dspy.ChatAdapter())
    result = Ladder(made, STORE).evaluate("baseline")
    assert (result.score, result.usage.lm_calls, result.usage.fallback_calls) == (1.0, 15, 5)
    plain = experiment(predict(), scripted_lm(lambda f, r: '{"label": "odd"}'), count=100, adapter=dspy.JSONAdapter())
    assert Ladder(plain, "other").evaluate("baseline").usage.fallback_calls == 0, "it is the adapter that was chosen"
