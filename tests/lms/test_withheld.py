"""Answers that a provider withheld, answers that are the model's own however bad, and replies without their usage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Ladder, Stage
from pytest_dspy_ft.errors import BudgetError, GateError, ProviderError
from pytest_dspy_ft.gates.evidence import collect_evidence
from pytest_dspy_ft.gates.gate import Gate
from pytest_dspy_ft.lms.budget import Budget
from pytest_dspy_ft.lms.patience import Patience
from pytest_dspy_ft.report.summary import cautions
from tests.lms.chat import Body, failure, last_text, parity, serving
from tests.scripted import experiment, fields_of

HURRIED = Patience(rounds=1, sleep=lambda seconds: None)


def body(content: Any = "", finish: str = "stop", **message: Any) -> Body:
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    usage = {"prompt_tokens": 30, "completion_tokens": 4, "total_tokens": 34}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


WITHHELD: dict[str, Any] = {
    "an empty object": {},
    "no choices": {**body(), "choices": []},
    "null choices": {**body(), "choices": None},
    "null content": body(None),
    "filtered": body(None, "content_filter"),
    "filtered half-way": body("[[ ## label ## ]]\neven", "content_filter"),
    "broken off": body("[[ ## label ## ]]\neven", "error"),
    "a page": "<html>Sign in</html>",
    "nothing": "",
    "a list": "[]",
    "null": "null",
    "half a body": '{"choices": [',
    "an error with 200": {"error": {"message": "overloaded", "code": 502}},
}
ANSWERED: dict[str, Any] = {
    "empty text": body(""),
    "a refusal": body(None, refusal="I cannot help"),
    "a tool call": body(None, "tool_calls", tool_calls=[{"id": "c", "function": {"name": "f", "arguments": "{}"}}]),
    "cut off before it began": body(None, "length"),
    "prose": body("It depends."),
}


def ladder(server: Any, store: Path, stages: Any = (), engine: str = "lm15", **settings: Any) -> Ladder:
    lm = dspy.LM(
        "openai/gpt-4o-mini",
        api_base=server.address,
        api_key="sk-right",
        cache=False,
        num_retries=0,
        engine=engine,
        max_tokens=settings.pop("max_tokens", None),
    )
    declared = experiment(dspy.Predict("text -> label"), lm, stages, count=40)
    return Ladder(declared, store, patience=HURRIED, num_threads=2, **settings)


def known(server: Any) -> Any:
    server.models.add("gpt-4o-mini")
    return server


@pytest.mark.parametrize("engine", ["lm15", "litellm"])
@pytest.mark.parametrize("reply", WITHHELD)
def test_a_withheld_answer_is_the_providers_failure_and_is_asked_again(reply: str, engine: str, tmp_path: Path) -> None:
    if (reply, engine) == ("broken off", "litellm"):
        pytest.skip("LiteLLM takes a reason that it does not know for 'stop', and keeps no other")
    with serving(faults=lambda asked, number: (200, {}, WITHHELD[reply])) as server:
        result = ladder(known(server), tmp_path, engine=engine).evaluate("baseline", "dev")
        assert (result.errors, result.unparsed) == (result.n, 0)
        assert {example.fault for example in result.examples} == {"provider"}
        server.faults = lambda asked, number: None
        assert ladder(server, tmp_path, engine=engine).evaluate("baseline", "dev").score == 1


@pytest.mark.parametrize("engine", ["lm15", "litellm"])
@pytest.mark.parametrize("reply", ANSWERED)
def test_what_the_model_said_is_its_answer_however_bad(reply: str, engine: str, tmp_path: Path) -> None:
    with serving(faults=lambda asked, number: (200, {}, ANSWERED[reply])) as server:
        result = ladder(known(server), tmp_path, engine=engine).evaluate("baseline", "dev")
    assert (result.errors, result.unparsed) == (0, result.n)


@pytest.mark.parametrize("reply", ["an empty object", "a page", "a list", "filtered"])
def test_nothing_is_kept_of_a_stage_that_was_built_on_withheld_answers(reply: str, tmp_path: Path) -> None:
    stages = [Stage("prompted", dspy.BootstrapFewShot(metric=_right, max_bootstrapped_demos=2, max_labeled_demos=0))]
    with serving(faults=lambda asked, number: (200, {}, WITHHELD[reply])) as server:
        with pytest.raises(ProviderError, match="prompted"):
            ladder(known(server), tmp_path, stages).build("prompted")
        server.faults = lambda asked, number: None
        built = ladder(server, tmp_path, stages).build("prompted")
    assert built.record.status == "built"
    assert [len(predictor.demos) for predictor in built.program.predictors()] == [2]


def _right(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.label == example.label)


def _refused(body: Body, number: int) -> Any:
    flagged = int(fields_of(last_text(body))["text"]) % 16 == 13
    return failure(403, "Your input was flagged", "moderation") if flagged else None


def test_one_refused_input_is_that_examples_error_and_no_word_of_the_key(tmp_path: Path) -> None:
    with serving(faults=_refused) as server:
        for _ in range(2):  # a later session asks only them again, and none of those is answered
            declared = ladder(known(server), tmp_path)
            result = declared.evaluate("baseline", "train")
            refused = [example for example in result.examples if example.outcome == "error"]
            assert (len(refused), result.score) == (2, 1 - 2 / result.n)
            assert all("403" in str(e.error) and "flagged" in str(e.error) for e in refused)
            assert not any("key" in str(example.error) for example in refused)


def test_a_key_that_is_refused_everything_is_the_keys_fault(tmp_path: Path) -> None:
    with serving(faults=lambda asked, number: failure(403, "no access")) as server:
        with pytest.raises(ProviderError, match="api_key"):
            ladder(known(server), tmp_path).evaluate("baseline", "train")
        assert len(server.requests) < 20  # the first ones, and some from all over the split


def _without_usage(body_: Body, number: int) -> Any:
    return 200, {}, {name: value for name, value in body(parity(body_)).items() if name != "usage"}


@pytest.mark.parametrize("engine", ["lm15", "litellm"])
def test_replies_without_usage_are_unknown_and_the_limit_holds_by_an_estimate(engine: str, tmp_path: Path) -> None:
    with serving(faults=_without_usage) as server:
        declared = ladder(known(server), tmp_path / "one", engine=engine)
        result = declared.evaluate("baseline", "train")
        assert (result.tokens, result.cost, result.usage.cached_calls) == (None, None, 0)
        assert any("did not say how many tokens" in caution for caution in cautions(declared.record()))
        with pytest.raises(GateError, match="did not say"):
            collect_evidence(Gate.parse("tokens(baseline) <= 9", on="train"), {"baseline": result}, {}, 0)
        budget = Budget(0.0012)
        with pytest.raises(BudgetError, match="estimate"):
            ladder(server, tmp_path / "two", engine=engine, budget=budget).evaluate("baseline", "train")
        assert budget.spent > 0


@pytest.mark.parametrize("engine", ["lm15", "litellm"])
def test_cut_off_answers_are_counted_and_said_with_their_limit(engine: str, tmp_path: Path) -> None:
    with serving(faults=lambda asked, number: (200, {}, body("[[ ## lab", "length"))) as server:
        declared = ladder(known(server), tmp_path, engine=engine, max_tokens=256)
        result = declared.evaluate("baseline", "dev")
    assert (result.cut_off, result.usage.cut_off_at, result.examples[0].cut_off) == (result.n, 256, 1)
    assert any("4 of 4 replies cut off at 256 tokens" in caution for caution in cautions(declared.record()))
