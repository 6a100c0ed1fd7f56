"""Training rows in the words of any adapter: what the tuned program will be asked, and a reply that is read back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import dspy
import pydantic
import pytest
from dspy.lm15 import Message, Response, TextPart, ThinkingPart, Usage

from pytest_dspy_ft import Ladder, Stage
from pytest_dspy_ft.errors import BuildError
from pytest_dspy_ft.finetune.rows import RowWriter
from pytest_dspy_ft.finetune.traces import TraceStep
from tests.finetune.programs import TRAIN, one_step_rule, parity, tune
from tests.scripted import CHAT, RecordingProvider, ScriptedEngine, experiment, jobs_of, reply, scripted_lm


class LinesAdapter(dspy.Adapter):  # type: ignore[misc]
    """A user's own: ``name = value``, line by line."""

    def format_field_description(self, signature: Any) -> str:
        return f"INPUTS {list(signature.input_fields)}"

    def format_field_structure(self, signature: Any) -> str:
        return f"OUTPUTS {list(signature.output_fields)}, each as name = value"

    def format_task_description(self, signature: Any) -> str:
        return str(signature.instructions)

    def format_user_message_content(
        self, signature: Any, inputs: Any, prefix: str = "", suffix: str = "", main_request: bool = False
    ) -> str:
        return "\n".join(f"{name} = {inputs[name]}" for name in signature.input_fields if name in inputs)

    def format_assistant_message_content(
        self, signature: Any, outputs: Any, missing_field_message: str | None = None
    ) -> str:
        return "\n".join(f"{name} = {outputs[name]}" for name in signature.output_fields)

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        fields = dict(line.split(" = ", 1) for line in completion.splitlines())
        return {name: fields[name] for name in signature.output_fields}


def extracting(fields: Any, request: Any) -> str:
    """The smaller LM of a TwoStepAdapter: takes the label out of a text."""
    found = re.search(r"label: (\w+)", fields["text"])
    assert found is not None
    return reply(label=found[1])


def baml() -> Any:
    from dspy.adapters.baml_adapter import BAMLAdapter

    return BAMLAdapter()


ADAPTERS: dict[str, Any] = {
    "chat": lambda: CHAT,
    "json": dspy.JSONAdapter,
    "xml": dspy.XMLAdapter,
    "two_step": lambda: dspy.TwoStepAdapter(scripted_lm(extracting, "toy/extractor")),
    "baml": baml,
    "own": LinesAdapter,
}

Signature = dspy.Signature("text -> label", "Say whether the number is even.")


def in_the_words_of(adapter: Any, signature: Any = Signature, **more: Any) -> Any:
    """A rule that answers with the parity of the number that is asked about."""

    def rule(fields: Any, request: Any) -> str:
        asked = request.messages[-1].parts[0].text.partition("Respond")[0]
        number = re.findall(r"\d+", asked)[-1]
        return str(adapter.format_assistant_message_content(signature, {"label": parity(number), **more}))

    return rule


def texts(messages: Any) -> list[str]:
    return [part.text for message in messages for part in message.parts]


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_program_is_tuned_and_run_in_the_words_of_its_adapter(name: str) -> None:
    adapter = ADAPTERS[name]()
    lm = scripted_lm(in_the_words_of(adapter))
    stages = [Stage("tuned", tune())]
    declared = experiment(dspy.Predict(Signature), lm, stages, adapter=adapter)
    ladder = Ladder(declared, Path("store"))
    record = ladder.build("tuned").record
    assert record.bootstraps[-1].kept == TRAIN, record.bootstraps[-1].failures
    [(model, rows, _)] = jobs_of(lm)
    assert (model, len(rows)) == ("toy/scripted", TRAIN)
    if name == "two_step":
        assert len(adapter.extraction_model.engine.requests) == TRAIN, "for the traces; writing rows asks nothing"
    asked = {tuple(texts(request.messages)): request for request in lm.engine.requests}
    for row in rows:
        *prompt, answered = row["messages"]
        request = asked[tuple(m["content"] for m in prompt if m["role"] != "system")]
        assert [m["content"] for m in prompt if m["role"] == "system"] == [request.system]
        number = re.findall(r"\d+", prompt[-1]["content"].partition("Respond")[0])[-1]
        assert answered == {
            "role": "assistant",
            "content": adapter.format_assistant_message_content(Signature, {"label": parity(number)}),
        }
    before = len(lm.engine.requests)
    assert ladder.evaluate("tuned", on="dev").score == 1.0
    assert set(lm.engine.models[before:]) == {"toy/tuned-1"}


def test_chat_rows_are_those_of_dspy_byte_by_byte() -> None:
    lm = scripted_lm(in_the_words_of(CHAT))
    demos = [dspy.Example(text="900", label="even"), {"text": "901"}]

    def with_demos(program: Any, *, trainset: Any, teacher: Any) -> Any:
        program.demos = demos
        return program

    stages = [Stage("few", with_demos), Stage("tuned", tune(), start="few")]
    Ladder(experiment(dspy.Predict(Signature), lm, stages), Path("store")).build("tuned")
    [(_, rows, _)] = jobs_of(lm)
    for row in rows:
        number = re.findall(r"\d+", row["messages"][-2]["content"])[-1]
        theirs = CHAT.format_finetune_data(
            signature=Signature, demos=demos, inputs={"text": number}, outputs={"label": parity(number)}
        )
        assert json.dumps(row) == json.dumps(theirs)


def test_a_row_whose_reply_would_be_read_as_another_is_refused_with_its_reason() -> None:
    """A value that looks like the end of its field, out of a JSON reply: a chat row cannot hold it."""
    broken = "even\n\n[[ ## label ## ]]\nodd"

    class Spoiled(dspy.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.predict = dspy.Predict(Signature)

        def forward(self, text: str) -> Any:
            with dspy.context(adapter=dspy.JSONAdapter()):
                return self.predict(text=text)

    lm = scripted_lm(lambda fields, request: json.dumps({"label": broken if "7" in str(request.messages) else "odd"}))
    declared = experiment(Spoiled(), lm, [Stage("tuned", tune(metric=lambda *_: True))], adapter=CHAT)
    [bootstrap] = Ladder(declared, Path("store")).build("tuned").record.bootstraps
    with_seven = sum("7" in example.text for example in declared.dataset.train)
    assert (bootstrap.kept, bootstrap.raised) == (TRAIN - with_seven, with_seven)
    [reason] = bootstrap.failures
    assert "training row: ChatAdapter would read its reply as another" in reason
    assert bootstrap.predictors[0].raised == with_seven
    [(_, rows, _)] = jobs_of(lm)
    assert len(rows) == TRAIN - with_seven


class Place(pydantic.BaseModel):
    city: str
    zips: list[int] = []


@pytest.mark.parametrize("adapter", [dspy.ChatAdapter, dspy.JSONAdapter, dspy.XMLAdapter, baml])
@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (float, 72),
        (int, 7),
        (str, 5),
        (str, "  two\nlines <b> & {x}  "),
        (bool, True),
        (Literal["a", "b"], "b"),
        (str | None, None),
        (list[str], ["a, b", "c"]),
        (dict[str, int], {"a": 1}),
        (Place, Place(city="Bern", zips=[3000])),
        (Place, {"city": "Bern"}),
    ],
)
def test_values_of_any_type_are_read_back(adapter: Any, annotation: Any, value: Any) -> None:
    program = dspy.Predict(
        dspy.Signature({"text": (str, dspy.InputField()), "label": (annotation, dspy.OutputField())})
    )
    writer = RowWriter(program, adapter(), scripted_lm(one_step_rule), exclude_demos=False)
    row = writer.row(TraceStep("self", {"text": "x"}, {"label": value}))
    assert row["messages"][-1]["role"] == "assistant"


def test_an_adapter_that_writes_no_replies_is_refused_before_anything_is_spent() -> None:
    class Mute(dspy.ChatAdapter):  # type: ignore[misc]
        format_assistant_message_content = dspy.Adapter.format_assistant_message_content

    lm = scripted_lm(in_the_words_of(CHAT))
    ladder = Ladder(experiment(dspy.Predict(Signature), lm, [Stage("tuned", tune())], adapter=Mute()), Path("store"))
    with pytest.raises(BuildError, match="Mute cannot write training rows, it has no format_assistant_mess"):
        ladder.build("tuned")
    assert lm.engine.requests == []


def test_an_adapter_that_writes_its_own_rows_is_let() -> None:
    class Own(dspy.ChatAdapter):  # type: ignore[misc]
        def format_finetune_data(self, signature: Any, demos: Any, inputs: Any, outputs: Any) -> Any:
            return {"messages": [{"role": "user", "content": inputs["text"]}, {"role": "assistant", "content": "own"}]}

    lm = scripted_lm(in_the_words_of(CHAT))
    declared = experiment(dspy.Predict(Signature), lm, [Stage("tuned", tune())], adapter=Own())
    Ladder(declared, Path("store")).build("tuned")
    [(_, rows, _)] = jobs_of(lm)
    assert {row["messages"][-1]["content"] for row in rows} == {"own"}


# --- reasoning -------------------------------------------------------------------------------------------------------


class ThinkingEngine(ScriptedEngine):
    """An LM that reasons by itself: its thoughts are no part of the text of its reply."""

    supports_reasoning = True

    def complete(self, request: Any) -> Response:
        with self._lock:
            self.requests.append(request)
        return Response(
            id=None,
            model=request.model,
            message=Message(
                role="assistant", parts=(ThinkingPart("the last digit tells"), TextPart(self.rule({}, request)))
            ),
            finish_reason="stop",
            usage=Usage(input_tokens=100, output_tokens=7),
        )


def thinking_lm(rule: Any, model: str = "toy/thinker") -> Any:
    return dspy.LM(model, engine=ThinkingEngine(rule, "thinker"), provider=RecordingProvider(), cache=False)


def reasoning_program() -> Any:
    return dspy.ChainOfThought(Signature, rationale_field_type=dspy.Reasoning)


def test_a_student_without_native_reasoning_learns_the_thoughts_of_a_teacher_that_has_it() -> None:
    program = reasoning_program()
    student = scripted_lm(in_the_words_of(CHAT, program.predict.signature, reasoning="hm"))
    teacher = thinking_lm(in_the_words_of(CHAT))
    stages = [Stage("taught", lambda p, *, trainset, teacher: p, lm=teacher), Stage("tuned", tune(), teacher="taught")]
    ladder = Ladder(experiment(program, student, stages), Path("store"))
    assert ladder.build("tuned").record.bootstraps[-1].kept == TRAIN
    [(_, rows, _)] = jobs_of(student)
    assert len(rows) == TRAIN
    for row in rows:
        assert "[[ ## reasoning ## ]]\nthe last digit tells" in row["messages"][-1]["content"]
        assert "reasoning" in row["messages"][0]["content"]


def test_a_student_with_native_reasoning_is_not_taught_to_write_it() -> None:
    lm = thinking_lm(in_the_words_of(CHAT))
    ladder = Ladder(experiment(reasoning_program(), lm, [Stage("tuned", tune())]), Path("store"))
    ladder.build("tuned")
    [(_, rows, _)] = jobs_of(lm)
    asked = {tuple(texts(request.messages)): request.system for request in lm.engine.requests}
    for row in rows:
        *prompt, answered = row["messages"]
        assert "reasoning" not in str(row)
        assert answered["content"].startswith("[[ ## label ## ]]")
        assert prompt[0]["content"] == asked[(prompt[1]["content"],)], "the prompt that the program really has"
    result = ladder.evaluate("tuned", on="dev")
    assert result.score == 1.0


def test_native_reasoning_is_kept_with_the_outputs_and_given_again() -> None:
    lm = thinking_lm(in_the_words_of(CHAT))
    for _ in range(2):
        seen: list[Any] = []

        def metric(example: Any, prediction: Any, trace: Any = None, seen: Any = seen) -> bool:
            seen.append(prediction.reasoning)
            return bool(prediction.label == example.label)

        declared = experiment(reasoning_program(), lm, metric=metric)
        ladder = Ladder(declared, Path("store"))
        result = ladder.evaluate("baseline", on="dev")
        assert result.score == 1.0
        before = len(lm.engine.requests)
    assert before == result.n, "the second session asked nothing"
    stored = next(Path("store").rglob("outputs/**/*.jsonl"), None) or next(Path("store").rglob("outputs/**/*"))
    assert any("the last digit tells" in file.read_text("utf-8") for file in stored.parent.iterdir() if file.is_file())


def test_an_answer_without_the_reasoning_that_the_prompt_asks_for_gives_no_row() -> None:
    program = reasoning_program()

    class Silent(ThinkingEngine):
        def complete(self, request: Any) -> Response:
            text = Message.assistant(self.rule({}, request))
            usage = Usage(input_tokens=1, output_tokens=1)
            return Response(id=None, model=request.model, message=text, finish_reason="stop", usage=usage)

    teacher = dspy.LM("toy/silent", engine=Silent(in_the_words_of(CHAT), "silent"), cache=False)
    student = scripted_lm(in_the_words_of(CHAT, program.predict.signature, reasoning="hm"))
    stages = [Stage("taught", lambda p, *, trainset, teacher: p, lm=teacher), Stage("tuned", tune(), teacher="taught")]
    ladder = Ladder(experiment(program, student, stages), Path("store"))
    with pytest.raises(BuildError, match="the answer has no reasoning, which the student's prompt asks for"):
        ladder.build("tuned")
    assert jobs_of(student) == []
