"""Replies that keep to a format: the grammar of an adapter's replies, and a model that knows no language in it."""

from __future__ import annotations

import asyncio
import enum
import json
import random
from typing import Any, Literal

import dspy
import pydantic
import pytest
from dspy import lm15

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("llguidance")

from pytest_dspy_ft.errors import LMError
from pytest_dspy_ft.local.async_engine import AsyncLocalEngine
from pytest_dspy_ft.local.engine import LocalEngine
from pytest_dspy_ft.local.inference.constraint import Grammars
from pytest_dspy_ft.local.inference.reply_grammar import ADAPTER_FORMAT, format_grammar, schema_grammar
from tests.local.chats import TEXTS, ask_all, chat, texts


class Mood(enum.Enum):
    CALM = "calm"
    ANGRY = "very angry"


class Address(pydantic.BaseModel):
    street: str
    number: int
    floors: list[int] = []


class Plain(dspy.Signature):
    """Fields of text and of few values."""

    text: str = dspy.InputField()
    reasoning: str = dspy.OutputField()
    label: Literal["billing", "technical support", "other"] = dspy.OutputField()
    urgent: bool = dspy.OutputField()
    mood: Mood = dspy.OutputField()
    count: int = dspy.OutputField()
    share: float = dspy.OutputField()


class Structured(dspy.Signature):
    """Fields that hold more than one value."""

    text: str = dspy.InputField()
    names: list[str] = dspy.OutputField()
    address: Address = dspy.OutputField()
    perhaps: int | None = dspy.OutputField()
    title: str = dspy.OutputField()


class Closed(dspy.Signature):
    """Fields of few values only, which a model that knows no language fills in too."""

    text: str = dspy.InputField()
    label: Literal["billing", "technical support", "other"] = dspy.OutputField()
    urgent: bool = dspy.OutputField()
    mood: Mood = dspy.OutputField()


class LabelledLines(dspy.ChatAdapter):
    """An adapter of a user's own."""

    def format_assistant_message_content(
        self, signature: Any, outputs: dict[str, Any], missing_field_message: str | None = None
    ) -> str:
        values = {name: getattr(value, "value", value) for name, value in outputs.items()}
        return "\n".join(f"{name.upper()} = {values.get(name)}" for name in signature.output_fields)


class Shuffled(dspy.ChatAdapter):
    """One that hides where fields are."""

    def format_assistant_message_content(
        self, signature: Any, outputs: dict[str, Any], missing_field_message: str | None = None
    ) -> str:
        return " ".join(sorted(map(str, outputs.values()), reverse=True))


WORDS = ["I", "was", "charged", "[twice]", "x < y", "\n\n", "é", "[[", "ok", "\n- a\n- b", "</b", "日本", '"quoted"']


def random_text(chance: random.Random) -> str:
    words = [word for word in chance.choices(WORDS, k=chance.randint(1, 12)) if word not in ("[[", "</b")]
    return " ".join(words).strip() or "x"


def random_outputs(signature: Any, chance: random.Random) -> dict[str, Any]:
    address = Address(street=random_text(chance), number=chance.randint(-9, 9), floors=[1] * chance.randint(0, 2))
    values = {
        "reasoning": random_text(chance),
        "label": chance.choice(["billing", "technical support", "other"]),
        "urgent": chance.random() < 0.5,
        "mood": chance.choice(list(Mood)),
        "count": chance.randint(-1000, 1000),
        "share": chance.choice([0.25, -3.0, 1e-07, 12.0, 5e20]),
        "names": [random_text(chance) for _ in range(chance.randint(0, 3))],
        "address": address,
        "perhaps": chance.choice([None, 3]),
        "title": random_text(chance),
    }
    return {name: values[name] for name in signature.output_fields}


@pytest.fixture(scope="module")
def grammars(tokenizer: Any) -> Grammars:
    return Grammars(tokenizer, len(tokenizer), [1])


def accepts(grammars: Grammars, tokenizer: Any, grammar: str, reply: str) -> bool:
    constraint = grammars.constraint(grammar)
    try:
        for token in tokenizer(reply, add_special_tokens=False)["input_ids"]:
            constraint.accept(token)
    except RuntimeError:
        return False
    return constraint._matcher.is_accepting()


@pytest.mark.parametrize(
    ("adapter", "signature"),
    [
        (dspy.ChatAdapter(), Plain),
        (dspy.ChatAdapter(), Structured),
        (dspy.XMLAdapter(), Plain),
        (LabelledLines(), Plain),
        (dspy.JSONAdapter(), Plain),
        (dspy.JSONAdapter(), Structured),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_what_an_adapter_writes_is_in_its_format(
    grammars: Grammars, tokenizer: Any, adapter: Any, signature: Any
) -> None:
    grammar = format_grammar(adapter, signature)
    chance = random.Random(0)
    for _ in range(30):
        outputs = random_outputs(signature, chance)
        reply = adapter.format_assistant_message_content(signature, outputs).rstrip()
        assert accepts(grammars, tokenizer, grammar, reply), reply


@pytest.mark.parametrize(
    ("good", "bad"),
    [("billing", "Billing"), ("True", "yes"), ("very angry", "angry"), ("-12", "twelve"), ("0.5", "half")],
)
def test_what_an_adapter_could_not_read_is_not(grammars: Grammars, tokenizer: Any, good: str, bad: str) -> None:
    values = {
        "reasoning": "So.",
        "label": "billing",
        "urgent": "True",
        "mood": "very angry",
        "count": "-12",
        "share": "0.5",
    }
    adapter = dspy.ChatAdapter()
    reply = adapter.format_assistant_message_content(Plain, values).rstrip()
    grammar = format_grammar(adapter, Plain)
    assert accepts(grammars, tokenizer, grammar, reply)
    assert not accepts(grammars, tokenizer, grammar, reply.replace(f"\n{good}\n", f"\n{bad}\n"))
    assert not accepts(grammars, tokenizer, grammar, reply.replace("[[ ## urgent ## ]]", "[[ ## label ## ]]"))
    assert not accepts(grammars, tokenizer, grammar, f"Sure!\n{reply}")


@pytest.mark.parametrize(
    ("adapter", "signature", "words"),
    [
        (dspy.XMLAdapter(), Structured, "'names' as elements within elements"),
        (dspy.TwoStepAdapter(dspy.LM("openai/x", api_key="k")), Plain, "TwoStepAdapter leaves it to the LM"),
        (Shuffled(), Plain, "Shuffled: it does not write the field"),
    ],
)
def test_an_adapter_without_a_format_is_named(adapter: Any, signature: Any, words: str) -> None:
    with pytest.raises(LMError, match=words):
        format_grammar(adapter, signature)


def lm_for(engine: LocalEngine, place: str, **settings: Any) -> dspy.LM:
    return dspy.LM(f"local:{place}", engine=engine, async_engine=AsyncLocalEngine(engine), cache=False, **settings)


IN_ADAPTERS_FORMAT = {"type": "json_schema", "json_schema": {"name": ADAPTER_FORMAT["name"], "schema": {}}}


@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("adapter", [dspy.ChatAdapter(use_json_adapter_fallback=False), dspy.JSONAdapter()])
def test_a_model_that_knows_no_language_answers_in_the_format(
    llama: LocalEngine, tiny: Any, adapter: Any, temperature: float
) -> None:
    lm = lm_for(llama, tiny("llama"), max_tokens=400, temperature=temperature, response_format=IN_ADAPTERS_FORMAT)
    program = dspy.Predict(Closed)
    with dspy.context(lm=lm, adapter=adapter):
        answers = [program(text=text) for text in TEXTS]
        assert all(isinstance(answer.urgent, bool) and isinstance(answer.mood, Mood) for answer in answers)
        assert {answer.label for answer in answers} <= {"billing", "technical support", "other"}


def test_an_asynchronous_call_keeps_to_the_format(llama: LocalEngine, tiny: Any) -> None:
    lm = lm_for(llama, tiny("llama"), max_tokens=400, response_format=IN_ADAPTERS_FORMAT)
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)):
        answer = asyncio.run(dspy.Predict(Closed).acall(text=TEXTS[0]))
    assert isinstance(answer.urgent, bool)


def test_without_an_adapter_there_is_no_format_to_keep_to(llama: LocalEngine, tiny: Any) -> None:
    lm = lm_for(llama, tiny("llama"), response_format=IN_ADAPTERS_FORMAT)
    with pytest.raises(Exception, match="no adapter asks"):
        lm("Hello")


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "json_object"}, dict),
        ({"type": "json_schema", "schema": {"type": "array", "items": {"enum": ["a", 1]}, "maxItems": 3}}, list),
    ],
)
def test_a_response_format_is_kept_and_rows_do_not_depend_on_each_other(
    llama: LocalEngine, tiny: Any, schema: dict[str, Any], kind: type
) -> None:
    model = f"local:{tiny('llama')}"
    requests = [
        chat(
            text,
            model=model,
            max_tokens=60,
            temperature=0.9 * (i % 2),
            seed=i,
            response_format=schema if i % 3 else None,
        )
        for i, text in enumerate(TEXTS)
    ]
    together = texts(ask_all(llama, requests))
    alone = [texts([llama.complete(request)])[0] for request in requests]
    assert together == alone
    if kind is list:
        for reply, request in zip(together, requests, strict=True):
            if request.config.response_format:
                assert isinstance(json.loads(reply), list)
    else:
        assert all(
            reply.lstrip().startswith("{")
            for reply, request in zip(together, requests, strict=True)
            if request.config.response_format
        )


def test_a_schema_that_cannot_be_kept_is_refused(llama: LocalEngine, tiny: Any) -> None:
    schema = {"type": "json_schema", "schema": {"type": "string", "pattern": "(?<=a)b"}}
    with pytest.raises(lm15.UnsupportedFeatureError, match="cannot keep to this response_format"):
        llama.complete(chat("x", model=f"local:{tiny('llama')}", response_format=schema))


def test_equal_grammars_are_compiled_once(grammars: Grammars) -> None:
    one, two = (grammars.constraint(schema_grammar({"type": "json_object"})) for _ in range(2))
    assert one._start is two._start
    assert one._matcher is not two._matcher
