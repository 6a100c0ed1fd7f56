"""What a later session asks again: calls that a provider failed, and nothing that the program or the metric raised."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.utils.exceptions import LMServerError

from pytest_dspy_ft import Ladder, Stage
from pytest_dspy_ft.errors import BuildError, ProviderError
from pytest_dspy_ft.lms.patience import Patience
from pytest_dspy_ft.store.store import Store
from tests.ladder.helpers import STORE, parity_rule, predict, right
from tests.scripted import experiment, reply, scripted_lm

HURRIED = Patience(rounds=0, sleep=lambda seconds: None)


def improving(fields: Any, request: Any) -> str:
    """Samples: the first answer to every second number is ``neither``, all later ones are right."""
    seen = improving.seen  # type: ignore[attr-defined]
    seen[fields["text"]] += 1
    if seen[fields["text"]] == 1 and int(fields["text"]) % 2:
        return reply(label="neither")
    return parity_rule(fields, request)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    improving.seen = Counter()  # type: ignore[attr-defined]


def strict(example: Any, prediction: Any, trace: Any = None) -> bool:
    if prediction.label not in ("even", "odd"):
        raise KeyError(prediction.label)
    return bool(prediction.label == example.label)


class Checked(dspy.Module):
    """Raises itself where the answer is none of the labels."""

    def __init__(self) -> None:
        super().__init__()
        self.predict = predict()

    def forward(self, text: str) -> Any:
        answer = self.predict(text=text)
        if answer.label not in ("even", "odd"):
            raise ValueError(f"no label: {answer.label}")
        return answer


def sampled(program: Any = None, metric: Any = right, rule: Any = improving, **changes: Any) -> Any:
    lm = scripted_lm(rule, temperature=1.0, num_retries=0)
    return experiment(program or predict(), lm, count=100, metric=metric, **changes)


def session(made: Any, **options: Any) -> Any:
    return Ladder(made, STORE, **{"patience": HURRIED, **options}).evaluate("baseline")


@pytest.mark.parametrize(("program", "metric", "fault"), [(Checked, right, "program"), (predict, strict, "metric")])
@pytest.mark.parametrize("repeats", [1, 3])
def test_sessions_do_not_climb(program: Any, metric: Any, fault: str, repeats: int) -> None:
    first = session(sampled(program(), metric), repeats=repeats)
    assert {call.fault for e in first.examples for call in e.each if call.outcome == "error"} == {fault}
    for _ in range(2):
        made = sampled(program(), metric)
        later = session(made, repeats=repeats)
        assert later.loaded
        assert later.examples == first.examples
        assert made.lm.engine.requests == []


def test_a_program_that_is_no_stage_does_not_climb_and_all_measures_it_anew() -> None:
    def evaluate(**options: Any) -> Any:
        return Ladder(sampled(), STORE, patience=HURRIED, **options).evaluate(Checked())

    first = evaluate()
    assert first.errors == 5
    assert evaluate().examples == first.examples
    assert evaluate(rebuild=["all"]).errors == 0


def test_a_rebuild_measures_everything_anew() -> None:
    session(sampled(Checked()))
    made = sampled(Checked())
    again = session(made, rebuild=["baseline"])
    assert (again.errors, again.loaded, len(made.lm.engine.requests)) == (0, False, 10)


def test_of_both_kinds_only_the_providers_calls_are_asked() -> None:
    down = [True]

    def rule(fields: Any, request: Any) -> str:
        if down[0] and fields["text"] in ("80", "82"):
            raise LMServerError("overloaded", status=503)
        return improving(fields, request)

    numbers_on_dev = [str(n) for n in range(80, 90)]
    first = session(sampled(Checked(), rule=rule))
    assert Counter(e.fault for e in first.examples) == {None: 3, "program": 5, "provider": 2}
    down[0] = False
    made = sampled(Checked(), rule=rule)
    second = session(made)
    assert not second.loaded
    assert len(made.lm.engine.requests) == 2
    assert [e.fault for e in second.examples] == ["program" if int(n) % 2 else None for n in numbers_on_dev]
    assert second.examples[1] == first.examples[1]
    third = sampled(Checked(), rule=rule)
    assert session(third).loaded
    assert third.lm.engine.requests == []


def test_an_interrupted_evaluation_keeps_what_the_program_raised() -> None:
    """The key is refused half-way: what was measured until then lies in the journal."""

    def refusing(fields: Any, request: Any) -> str:
        from dspy.utils.exceptions import LMAuthError

        if fields["text"] == "86":
            raise LMAuthError("bad key", status=401)
        return improving(fields, request)

    with pytest.raises(ProviderError):
        session(sampled(Checked(), rule=refusing), num_threads=1)
    [journal] = STORE.glob("evaluations/*/*/*.partial.jsonl")
    assert journal.read_text().count('"fault": "program"') == 3
    made = sampled(Checked())
    result = session(made, num_threads=1)
    assert len(made.lm.engine.requests) == 4
    assert [e.fault for e in result.examples[:6]] == [None, "program"] * 3


def test_what_a_metrics_own_judge_failed_is_asked_again() -> None:
    down = [True]

    def judge(fields: Any, request: Any) -> str:
        if down[0]:
            raise LMServerError("overloaded", status=503)
        return reply(fine="True")

    judge_lm = scripted_lm(judge, num_retries=0)

    def judged(example: Any, prediction: Any, trace: Any = None) -> bool:
        with dspy.context(lm=judge_lm):
            return bool(dspy.Predict("label -> fine: bool")(label=prediction.label).fine)

    first = session(sampled(metric=judged, rule=parity_rule))
    assert {e.fault for e in first.examples} == {"provider"}
    assert all(e.error.startswith("metric: ") for e in first.examples)
    down[0] = False
    assert session(sampled(metric=judged, rule=parity_rule)).score == 1.0


def test_an_lm_that_raises_something_of_its_own_is_asked_again_wrapped_or_not() -> None:
    down = [True]

    def rule(fields: Any, request: Any) -> str:
        if down[0]:
            raise RuntimeError("the engine is down")
        return parity_rule(fields, request)

    class Wrapping(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.predict = predict()

        def forward(self, text: str) -> Any:
            try:
                return self.predict(text=text)
            except Exception as error:
                raise ValueError("no answer") from error

    for program in (predict, Wrapping):
        down[0] = True
        assert {e.fault for e in session(sampled(program(), rule=rule)).examples} == {"provider"}
        down[0] = False
        assert session(sampled(program(), rule=rule)).score == 1.0


def test_a_request_that_is_refused_for_what_it_asks_is_the_programs_own() -> None:
    from dspy.utils.exceptions import LMInvalidRequestError

    def long(fields: Any, request: Any) -> str:
        raise LMInvalidRequestError("too long", status=400)

    assert {e.fault for e in session(sampled(rule=long)).examples} == {"program"}
    made = sampled(rule=long)
    assert session(made).loaded
    assert made.lm.engine.requests == []


def _stored(change: Callable[[dict[str, Any]], None]) -> None:
    """Change every example of the stored evaluation, as an earlier version would have written it."""
    store = Store(STORE)
    [path] = STORE.rglob("evaluations/**/*.json")
    content = json.loads(path.read_text())["result"]
    for example in content["examples"]:
        change(example)
    from pytest_dspy_ft.records.evaluation import StageResult

    store.save_evaluation(StageResult.model_validate(content))


def test_where_an_old_error_does_not_say_whose_it_was_all_is_measured_anew() -> None:
    session(sampled(Checked()))
    _stored(lambda example: example.pop("fault"))
    shutil.rmtree(STORE / "outputs")
    made = sampled(Checked())
    assert not session(made).loaded
    assert len(made.lm.engine.requests) == 10, "good and bad alike"
    assert session(sampled(Checked())).loaded


# --- collections of traces ------------------------------------------------------------------------------------------


def tuned(program: Any, metric: Any, rule: Any, **options: Any) -> Any:
    stage = Stage("tuned", dspy.BootstrapFinetune(metric=metric), min_traces=50)
    made = sampled(program, rule=rule, stages=[stage])
    ladder = Ladder(made, STORE, patience=HURRIED, **options)
    try:
        ladder.build("tuned")
    except BuildError as error:
        return str(error), made.lm
    return "", made.lm


@pytest.mark.parametrize(("program", "metric"), [(Checked, right), (predict, strict)])
def test_a_collection_is_not_made_again_until_enough_is_kept(program: Any, metric: Any) -> None:
    refusal, _ = tuned(program(), metric, improving)
    assert "40 of 80" in refusal
    for _ in range(2):
        again, lm = tuned(program(), metric, improving)
        assert "40 of 80" in again
        assert lm.engine.requests == []
    assert tuned(program(), metric, improving, rebuild=["tuned"])[0] == ""


def test_the_processes_of_one_session_collect_anew_once_between_them() -> None:
    def never(example: Any, prediction: Any, trace: Any = None) -> bool:
        raise KeyError("label")

    for count in (80, 0):
        refusal, lm = tuned(predict(), never, parity_rule, rebuild=["tuned"], session="one")
        assert "0 of 80" in refusal
        assert len(lm.engine.requests) == count


def test_a_judge_that_is_down_trains_on_nothing() -> None:

    def judged(example: Any, prediction: Any, trace: Any = None) -> bool:
        if int(example.text) % 3 == 0:
            raise LMServerError("overloaded", status=503)
        return True

    stage = Stage("tuned", dspy.BootstrapFinetune(metric=judged))
    with pytest.raises(ProviderError, match="failed on 27 of 80"):
        Ladder(sampled(rule=parity_rule, stages=[stage]), STORE, patience=HURRIED).build("tuned")
    assert list(Path(STORE).rglob("refused.json")) == []
