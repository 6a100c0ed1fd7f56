"""Whose LM answers a metric: the judge's, the same for every stage, in evaluations and inside optimizers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.evaluate import CompleteAndGrounded, SemanticF1

from pytest_dspy_ft import Ladder, Stage
from pytest_dspy_ft.errors import BuildError, ExperimentError
from pytest_dspy_ft.ladder.context import declared_lms
from tests.ladder.helpers import STORE, predict, scripted
from tests.scripted import experiment, reply, scripted_lm

JUDGING = "text, answer -> verdict: bool"


class Judging(dspy.Module):
    """A judge that is a module, with or without an LM of its own."""

    def __init__(self, lm: Any = None) -> None:
        super().__init__()
        self.ask = dspy.Predict(JUDGING)
        self.ask.lm = lm

    def forward(self, example: Any, prediction: Any, trace: Any = None) -> Any:
        return self.ask(text=example.text, answer=prediction.label).verdict


def judged(example: Any, prediction: Any, trace: Any = None) -> Any:
    return dspy.Predict(JUDGING)(text=example.text, answer=prediction.label).verdict


def judged_in_a_thread(example: Any, prediction: Any, trace: Any = None) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(judged, example, prediction).result()


def judged_in_a_loop(example: Any, prediction: Any, trace: Any = None) -> Any:
    async def ask() -> Any:
        return await asyncio.to_thread(judged, example, prediction)

    return asyncio.run(ask())


async def judged_asynchronously(example: Any, prediction: Any, trace: Any = None) -> Any:
    await asyncio.sleep(0)
    return judged(example, prediction)


class AsynchronousJudge:
    async def __call__(self, example: Any, prediction: Any, trace: Any = None) -> Any:
        return dspy.Prediction(score=judged(example, prediction), feedback="so it is")


def judged_by_text(example: Any, prediction: Any, trace: Any = None) -> Any:
    return "True" in dspy.settings.lm(f"[[ ## text ## ]]\n{example.text}")[0]


WAYS = [Judging(), judged, judged_in_a_thread, judged_in_a_loop, judged_asynchronously, AsynchronousJudge()]
WAYS += [judged_by_text]


def judge_lm(verdict: bool = True, name: str = "judge") -> Any:
    rule = lambda fields, request: reply(verdict=verdict, reasoning="r")  # noqa: E731
    return scripted_lm(rule, model=f"toy/{name}", engine_name=name)


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    dspy.configure(lm=None, adapter=None)


@pytest.mark.parametrize("metric", WAYS)
@pytest.mark.parametrize("how", ["declared", "configured"])
def test_one_judge_for_all_stages_and_apart(metric: Any, how: str) -> None:
    judge, small, big = judge_lm(), scripted(model="toy/small"), scripted(model="toy/big")
    if how == "configured":
        dspy.configure(lm=judge)
    made = experiment(
        predict(), small, [Stage("big", lm=big)], metric=metric, judge_lm=judge if how == "declared" else None
    )
    ladder = Ladder(made, STORE, repeats=1)
    for name, lm in (("baseline", small), ("big", big)):
        result = ladder.evaluate(name)
        assert (result.score, result.errors, result.n) == (1.0, 0, 4)
        assert (len(lm.engine.requests), result.usage.lm_calls, result.tokens) == (4, 4, 107.0)
        assert (result.judge.lm_calls, list(result.judge.models)) == (4, ["toy/judge"])
        assert bool(result.judge_lm) == (how == "configured")
    assert len(judge.engine.requests) == 8
    again = Ladder(made, STORE)
    assert (again.evaluate("big").loaded, again.evaluate("big").judge.lm_calls) == (True, 4)


@pytest.mark.parametrize("own", ["predictor", "context"])
def test_a_judge_that_a_metric_brings_along_comes_first(own: str) -> None:
    mine, configured = judge_lm(name="mine"), judge_lm(False, name="configured")

    def in_context(example: Any, prediction: Any, trace: Any = None) -> Any:
        with dspy.context(lm=mine):
            return judged(example, prediction)

    metric = Judging(mine) if own == "predictor" else in_context
    ladder = Ladder(experiment(predict(), scripted(), metric=metric, judge_lm=configured), STORE)
    assert ladder.evaluate("baseline").score == 1.0
    assert (len(mine.engine.requests), len(configured.engine.requests)) == (4, 0)
    assert Ladder(experiment(predict(), scripted(), metric=metric), STORE).evaluate("baseline").score == 1.0


def quiet(example: Any, prediction: Any, trace: Any = None) -> Any:
    try:
        return judged(example, prediction)
    except Exception:
        return False


@pytest.mark.parametrize("metric", [*WAYS, quiet])
def test_a_metric_that_finds_no_lm_is_an_error_that_names_the_option(metric: Any) -> None:
    lm = scripted()
    ladder = Ladder(experiment(predict(), lm, metric=metric), STORE, num_threads=1)
    with pytest.raises(ExperimentError, match="judge_lm="):
        ladder.evaluate("baseline")
    assert len(lm.engine.requests) == 1, "the first example shows it"


def bootstrap(**settings: Any) -> Any:
    return dspy.BootstrapFewShot(max_bootstrapped_demos=2, max_labeled_demos=0, **settings)


@pytest.mark.parametrize("metric", WAYS)
def test_the_metric_of_an_optimizer_asks_the_judge(metric: Any) -> None:
    judge, small, strong = judge_lm(), scripted(model="toy/small"), scripted(model="toy/strong")
    stages = [
        Stage("shown", bootstrap(metric=metric, teacher_settings={"lm": strong})),
        Stage("tuned", dspy.BootstrapFinetune(metric=metric)),
    ]
    ladder = Ladder(experiment(predict(), small, stages, judge_lm=judge), STORE)
    shown, tuned = ladder.build("shown"), ladder.build("tuned")
    assert len(shown.program.demos) == 2
    assert (shown.record.usage.lm_calls, shown.record.judge.lm_calls) == (2, 2)
    assert (tuned.record.usage.lm_calls, tuned.record.judge.lm_calls) == (32, 32)
    assert (len(strong.engine.requests), len(small.engine.requests), len(judge.engine.requests)) == (2, 32, 34)
    assert tuned.record.bootstrap.kept == 32


def test_an_asynchronous_metric_that_refuses_keeps_nothing() -> None:
    async def refuses(example: Any, prediction: Any, trace: Any = None) -> bool:
        return False

    ladder = Ladder(experiment(predict(), scripted(), [Stage("shown", bootstrap(metric=refuses))]), STORE)
    assert ladder.build("shown").program.demos == []


@pytest.mark.parametrize("metric", [judged, quiet])
@pytest.mark.parametrize("make", [bootstrap, dspy.BootstrapFinetune])
def test_an_optimizer_whose_metric_finds_no_lm_fails_early(make: Callable[..., Any], metric: Any) -> None:
    lm = scripted()
    made = experiment(predict(), lm, [Stage("made", make(metric=metric))])
    with pytest.raises((BuildError, ExperimentError), match=r"stage 'made'.*judge_lm="):
        Ladder(made, STORE, num_threads=1).build("made")
    assert len(lm.engine.requests) == 1, "no further call is made"


def test_another_judge_judges_anew() -> None:
    def score(lm: Any = None, stages: Any = ()) -> tuple[float, bool, str]:
        made = experiment(predict(), scripted(), [Stage("shown", bootstrap(metric=judged))], metric=judged, judge_lm=lm)
        ladder = Ladder(made, STORE)
        result = ladder.evaluate("shown")
        return result.score, result.loaded, ladder.build("shown").record.status

    assert score(judge_lm()) == (1.0, False, "built")
    assert score(judge_lm()) == (1.0, True, "loaded")
    assert score(judge_lm(False, "severe")) == (0.0, False, "built")
    dspy.configure(lm=judge_lm())
    assert score() == (1.0, False, "built")
    assert score() == (1.0, True, "loaded")
    dspy.configure(lm=judge_lm(False, "severe"))
    assert score() == (0.0, False, "built")


def test_an_lm_that_is_configured_and_not_asked_is_no_part_of_anything() -> None:
    made = experiment(predict(), scripted())
    first = Ladder(made, STORE).evaluate("baseline")
    dspy.configure(lm=judge_lm())
    assert Ladder(made, STORE).evaluate("baseline").loaded
    assert (first.judge_lm, first.judge.lm_calls, first.examples[0].judge) == ("", 0, None)


@pytest.mark.parametrize("metric", [SemanticF1(), CompleteAndGrounded(), SemanticF1(decompositional=True)])
def test_dspys_own_judges(metric: Any) -> None:
    def rule(fields: Any, request: Any) -> str:
        outputs = ("precision", "recall", "completeness", "groundedness")
        return reply(reasoning="r", discussion="d", **dict.fromkeys(outputs, 1.0), **dict.fromkeys(PARTS, "p"))

    judge = scripted_lm(rule, model="toy/judge")

    def measured(example: Any, prediction: Any, trace: Any = None) -> Any:
        asked = dspy.Example(question=example.text, response=example.label).with_inputs("question")
        return metric(asked, dspy.Prediction(response=prediction.label, context="c"), trace)

    ladder = Ladder(experiment(predict(), scripted(), metric=measured, judge_lm=judge), STORE)
    result = ladder.evaluate("baseline")
    assert (result.score, result.errors) == (pytest.approx(1.0), 0)
    assert result.judge.lm_calls == len(judge.engine.requests) > 0


PARTS = ("ground_truth_key_ideas", "system_response_key_ideas", "ground_truth_claims", "system_response_claims")


def test_a_string_is_no_judge() -> None:
    with pytest.raises(ExperimentError, match=r"judge_lm must be a dspy.LM; use dspy.LM\('openai/gpt-4o'\)"):
        experiment(predict(), scripted(), judge_lm="openai/gpt-4o")


def test_the_judge_is_declared() -> None:
    judge = judge_lm()
    assert judge in declared_lms(experiment(predict(), scripted(), judge_lm=judge))
