"""Further metrics on real ladders: scored beside the experiment's own, filed under keys of their own, tried first."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Ladder, Stage
from pytest_dspy_ft.errors import ExperimentError, MetricError
from pytest_dspy_ft.gates.gate import Gate
from tests.ladder.helpers import STORE, predict, right, scripted
from tests.ladder.test_evaluator import StopAfter
from tests.scripted import experiment, reply, scripted_lm


def halves(example: Any, prediction: Any, trace: Any = None) -> Any:
    odd = prediction.label == "odd"
    return dspy.Prediction(score=0.5 if odd else 1.0, feedback=f"said {prediction.label}")


async def gepa(gold: Any, pred: Any, trace: Any, pred_name: Any, pred_trace: Any) -> Any:
    assert (trace, pred_name, pred_trace) == (None, None, None)
    return gold.label == pred.label


def with_metrics(lm: Any, **metrics: Any) -> Any:
    return experiment(predict(), lm, metric=right, metrics=metrics)


def requests(lm: Any) -> int:
    return len(lm.engine.requests)


def test_each_metric_scores_every_answer_once() -> None:
    lm = scripted()
    result = Ladder(with_metrics(lm, halves=halves, gepa=gepa), STORE).evaluate("baseline")
    assert result.score == 1.0
    assert result.metric("gepa").score == 1.0
    seen = result.metric("halves")
    assert seen.score == 0.75
    assert {e.feedback for e in seen.examples} == {"said odd", "said even"}
    assert requests(lm) == result.n
    assert seen.interval[0] < 0.75 < seen.interval[1]


def test_what_was_scored_is_loaded() -> None:
    lm = scripted()
    first = Ladder(with_metrics(lm, halves=halves), STORE).evaluate("baseline")
    calls = requests(lm)
    again = Ladder(with_metrics(lm, halves=halves), STORE).evaluate("baseline")
    assert again.loaded
    assert again.metric("halves").examples == first.metric("halves").examples
    assert requests(lm) == calls
    without = Ladder(with_metrics(lm), STORE).evaluate("baseline")
    assert without.loaded
    assert without.metrics == {}
    assert all(not example.further for example in without.examples)
    assert requests(lm) == calls


def test_the_keys_of_stages_and_evaluations_do_not_depend_on_further_metrics() -> None:
    plain = Ladder(with_metrics(scripted()), STORE).evaluate("baseline")
    more = Ladder(with_metrics(scripted(), halves=halves), STORE).evaluate("baseline")
    assert plain.key == more.key
    assert plain.build == more.build
    assert more.metrics.keys() == {"halves"}


def test_a_changed_metric_has_another_key_and_scores_again() -> None:
    lm = scripted()
    first = Ladder(with_metrics(lm, own=halves), STORE).evaluate("baseline")
    ladder = Ladder(with_metrics(lm, own=gepa), STORE)
    second = ladder.evaluate("baseline")
    assert second.key == first.key
    assert second.metrics != first.metrics
    assert (first.metric("own").score, second.metric("own").score) == (0.75, 1.0)
    assert any("metric 'own'" in caution for caution in ladder.record().cautions)


def test_a_metric_that_raises_on_an_odd_example_is_a_result() -> None:
    def strict(example: Any, prediction: Any) -> bool:
        return {"odd": True}[prediction.label]

    result = Ladder(with_metrics(scripted(), strict=strict), STORE).evaluate("baseline")
    assert (result.errors, result.metric("strict").errors) == (0, result.n // 2)
    assert {e.fault for e in result.metric("strict").examples} == {None, "metric"}
    assert Ladder(with_metrics(scripted(), strict=strict), STORE).evaluate("baseline").loaded


CANNOT_WORK: dict[str, tuple[Callable[..., Any], str]] = {
    "percent": (lambda e, p: 85.0, "returned 85.0, which is outside .*divide by 100"),
    "text": (lambda e, p: str(right(e, p)), "returned 'True'.*return the comparison itself"),
    "record": (lambda e, p: {"score": 1.0}, r"returned \{'score': 1.0\}.*dspy.Prediction"),
    "nothing": (lambda e, p: None, "returned None.*each of its ways out"),
    "several": (lambda e, p: [1.0, 0.0], "returned .*a bool or a number"),
    "no_score": (lambda e, p: dspy.Prediction(feedback="f"), "without a field 'score'"),
}


@pytest.mark.parametrize("kind", CANNOT_WORK)
@pytest.mark.parametrize("further", [False, True])
def test_a_metric_that_cannot_work_is_found_on_the_first_answer(kind: str, further: bool) -> None:
    metric, said = CANNOT_WORK[kind]
    lm = scripted()
    declared = with_metrics(lm, own=metric) if further else experiment(predict(), lm, metric=metric)
    ladder = Ladder(declared, STORE, num_threads=4)
    with pytest.raises(MetricError, match=said) as error:
        ladder.evaluate("baseline")
    assert requests(lm) == 1
    assert ("metric 'own'" in str(error.value)) == further
    with pytest.raises(MetricError, match="first answers of 'baseline' on dev"):
        ladder.evaluate("baseline", "test")
    assert requests(lm) == 1, "it is not asked again in this session"


def test_a_score_of_0_does_not_tell_so_the_next_answers_are_tried() -> None:
    def percent(example: Any, prediction: Any) -> float:
        return 100.0 if prediction.label == "odd" else 0.0

    lm = scripted()
    with pytest.raises(MetricError, match=r"returned 100.0"):
        Ladder(experiment(predict(), lm, metric=percent), STORE, num_threads=4).evaluate("baseline")
    assert requests(lm) <= 2
    lm = scripted()
    result = Ladder(experiment(predict(), lm, metric=lambda e, p: False), "other", num_threads=4).evaluate("baseline")
    assert result.score == 0.0
    assert requests(lm) == result.n


def test_once_it_has_scored_an_answer_that_is_no_score_is_one_example_s_error() -> None:
    def odd(example: Any, prediction: Any) -> Any:
        return None if example.text == seen[-1] else 1.0

    seen = [example.text for example in experiment(predict(), scripted()).examples("dev")]
    result = Ladder(experiment(predict(), scripted(), metric=odd), STORE).evaluate("baseline")
    assert [e.outcome for e in result.examples] == ["scored"] * (result.n - 1) + ["error"]


@pytest.mark.parametrize("error", [KeyError("category"), TypeError("'NoneType' object is not iterable")])
def test_a_metric_that_raises_on_the_first_answer_is_not_refused(error: Exception) -> None:
    def raises(example: Any, prediction: Any) -> bool:
        if example.text == first:
            raise error
        return True

    first = experiment(predict(), scripted()).examples("dev")[0].text
    result = Ladder(experiment(predict(), scripted(), metric=raises), STORE).evaluate("baseline")
    assert (result.errors, result.own_errors) == (1, 1)


def test_a_provider_that_fails_the_first_call_only() -> None:
    calls: list[str] = []

    def rule(fields: Any, request: Any) -> str:
        calls.append(fields["text"])
        if len(calls) == 1:
            raise ConnectionError("reset")
        return reply(label="even" if int(fields["text"]) % 2 == 0 else "odd")

    result = Ladder(with_metrics(scripted_lm(rule), halves=halves), STORE).evaluate("baseline")
    assert (result.errors, result.score) == (0, 1.0)


def test_a_judge_of_a_further_metric_is_metered_apart() -> None:
    judging = scripted_lm(lambda fields, request: reply(fits="yes"), model="toy/judge")
    judge = dspy.Predict("label -> fits")

    def fits(example: Any, prediction: Any) -> bool:
        return bool(judge(label=prediction.label).fits == "yes")

    lm = scripted()
    declared = experiment(predict(), lm, metric=right, metrics={"fits": fits}, judge_lm=judging)
    result = Ladder(declared, STORE).evaluate("baseline")
    assert result.metric("fits").score == 1.0
    assert (result.usage.lm_calls, result.judge.lm_calls) == (result.n, result.n)
    assert all(e.judge is None and e.further["fits"].judge is not None for e in result.examples)
    with pytest.raises(ExperimentError, match="judge_lm"):
        Ladder(with_metrics(scripted(), fits=fits), "other").evaluate("baseline")


def test_repeats_keep_what_each_metric_says_of_each() -> None:
    lm = scripted(temperature=1.0)
    result = Ladder(with_metrics(lm, halves=halves), STORE, repeats=2).evaluate("baseline")
    seen = result.metric("halves")
    assert (seen.score, seen.repeats, seen.calls) == (0.75, 2, 2 * seen.n)


def test_gates_on_a_ladder() -> None:
    ladder = Ladder(with_metrics(scripted(), halves=halves), STORE)
    assert ladder.judge(Gate.parse("halves(baseline) >= 75%")).passed
    assert not ladder.judge(Gate.parse("halves(baseline) >= baseline")).passed
    assert ladder.judge(Gate.parse("p95(tokens(baseline)) <= 107")).passed


def test_an_optimizer_calls_a_metric_of_gepa_s_five_arguments() -> None:
    lm = scripted()
    declared = experiment(predict(), lm, [Stage("few", dspy.BootstrapFewShot(metric=gepa))], metric=gepa)
    ladder = Ladder(declared, STORE)
    assert ladder.build("few").program.demos, "every answer was right, so some were taken for demos"
    assert ladder.evaluate("few").score == 1.0


def test_a_module_that_can_only_be_awaited_is_a_metric() -> None:
    class Awaited(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ask = dspy.Predict("label -> fits")

        async def aforward(self, example: Any, prediction: Any, trace: Any) -> Any:
            answer = await self.ask.acall(label=prediction.label)
            return dspy.Prediction(score=float(answer.fits == "yes"), feedback=answer.fits)

    class Engine:
        async def complete(self, request: Any) -> Any:
            return asking.engine.complete(request)

        def identity(self) -> dict[str, str]:
            return {"engine": "awaited"}

    asking = scripted_lm(lambda fields, request: reply(fits="yes"))
    judging = scripted_lm(lambda fields, request: reply(fits="no"), model="toy/judge", async_engine=Engine())
    declared = experiment(predict(), scripted(), metric=right, metrics={"fits": Awaited()}, judge_lm=judging)
    result = Ladder(declared, STORE).evaluate("baseline").metric("fits")
    assert (result.score, result.examples[0].feedback, result.errors) == (1.0, "yes", 0)


@pytest.mark.parametrize("added", [False, True])
def test_an_interrupted_evaluation_goes_on_with_what_every_metric_has_scored(added: bool) -> None:
    def declared(lm: Any, **metrics: Any) -> Any:
        return experiment(predict(), lm, count=100, metric=right, metrics=metrics)

    first, second = scripted(), scripted()
    answer = first.engine.complete
    first.engine.complete = lambda request: (time.sleep(0.03), answer(request))[1]
    with pytest.raises(KeyboardInterrupt):
        Ladder(declared(first, halves=halves), STORE, num_threads=1, progress=StopAfter(4)).evaluate("baseline")
    more = {"gepa": gepa} if added else {}
    result = Ladder(declared(second, halves=halves, **more), STORE, num_threads=1).evaluate("baseline")
    assert (result.score, result.metric("halves").score, result.errors) == (1.0, 0.75, 0)
    assert all(example.further.keys() == {"halves", *more} for example in result.examples)
    assert added or 0 < requests(second) <= 6, "what was paid for and scored is not asked again"
