"""Stored outputs scored again: another metric calls no LM; what cannot be given again is measured anew, saying why."""

from __future__ import annotations

import datetime
import enum
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import dspy
import pydantic
import pytest
from dspy.utils.exceptions import LMServerError

from pytest_dspy_ft import Dataset, Ladder
from pytest_dspy_ft.errors import ExperimentError, StoreWarning
from pytest_dspy_ft.lms.calls import recording
from pytest_dspy_ft.lms.patience import Patience
from pytest_dspy_ft.store.output_lines import COMPRESSED_FROM
from tests.ladder.helpers import STORE, parity_rule, predict, right, scripted
from tests.ladder.test_evaluator import StopAfter, as_of_other_code
from tests.scripted import experiment, numbers, reply, scripted_lm
from tests.store.helpers import snapshot

HURRIED = Patience(rounds=0, sleep=lambda seconds: None)


def wrong(example: Any, prediction: Any, trace: Any = None) -> bool:
    """A slip: the cases do not match."""
    return bool(example.label.upper() == prediction.label)


def even(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.label == "even")


def other(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.label == "odd")


def session(
    metric: Callable[..., Any], lm: Any = None, program: Any = None, **settings: Any
) -> tuple[Any, Ladder, int]:
    """A session of its own: its result, its ladder, and the LM calls of its program."""
    lm = lm or scripted()
    changes = settings.pop("changes", {})
    made = experiment(program or predict(), lm, metric=metric, **{"count": 100, **changes})
    ladder = Ladder(made, STORE, patience=HURRIED, **settings)
    return ladder.evaluate("baseline"), ladder, len(lm.engine.requests)


def cautions(ladder: Ladder) -> str:
    return "\n".join(ladder.record().cautions)


def test_another_metric_scores_what_is_stored() -> None:
    first, _, calls = session(wrong)
    assert (first.score, calls, first.rescored) == (0.0, 10, "")
    second, ladder, calls = session(right)
    assert (second.score, calls, second.loaded) == (1.0, 0, True)
    assert "baseline on dev was scored again from stored outputs (another metric), 0 LM calls" in cautions(ladder)
    assert second.usage == first.usage, "what was answered took what it took"
    assert ladder.record().results[0].rescored
    third, ladder, calls = session(right)
    assert (third.score, calls, third.rescored, cautions(ladder)) == (1.0, 0, "", "")
    back, _, calls = session(wrong)
    assert (back.score, calls) == (0.0, 0)


def test_a_metric_that_raised_is_mended() -> None:
    def raises(example: Any, prediction: Any, trace: Any = None) -> bool:
        return bool(prediction.nothing)

    first, _, _ = session(raises)
    assert first.errors == 10
    second, _, calls = session(right)
    assert (second.score, second.errors, calls) == (1.0, 0, 0)


def test_what_the_program_raised_and_what_could_not_be_read_stays() -> None:
    def broken(fields: Any, request: Any) -> str:
        return "no format at all" if int(fields["text"]) % 5 == 0 else parity_rule(fields, request)

    first, _, _ = session(wrong, scripted_lm(broken))
    second, _, calls = session(right)
    assert calls == 0
    assert (first.unparsed, second.unparsed) == (2, 2)
    assert second.score == 0.8


def test_only_what_a_provider_failed_is_asked_again() -> None:
    def flaky(fields: Any, request: Any) -> str:
        if fields["text"] == "83":
            raise LMServerError("overloaded", status=503)
        return parity_rule(fields, request)

    first, _, _ = session(wrong, scripted_lm(flaky, num_retries=0))
    assert first.errors == 1
    second, _, calls = session(right)
    assert (second.score, second.errors, calls) == (1.0, 0, 1)
    third, _, calls = session(even)
    assert (third.score, calls) == (0.5, 0), "the call that was made again is in the store with the others"


def slowing() -> Any:
    """An LM that answers six times at once, and then so slowly that its session is interrupted before."""
    asked = list[str]()

    def rule(fields: Any, request: Any) -> str:
        asked.append(fields["text"])
        time.sleep(10 if len(asked) > 6 else 0)
        return parity_rule(fields, request)

    return scripted_lm(rule)


@pytest.mark.parametrize("metric", [right, wrong])
def test_a_killed_evaluation_goes_on_with_whatever_metric(metric: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        session(wrong, slowing(), num_threads=1, progress=StopAfter(4))
    [under_way] = STORE.glob("outputs/*/*/*.partial.jsonl")
    answered = under_way.read_text().count('"output"')
    assert 4 <= answered <= 6
    result, _, calls = session(metric)
    assert (result.n, result.score, calls) == (10, 1.0 if metric is right else 0.0, 10 - answered)
    assert not under_way.exists()
    assert session(even)[2] == 0


def test_no_flipped_bit_changes_a_score() -> None:
    session(wrong)
    [file] = STORE.glob("outputs/*/*/*.jsonl")
    whole = file.read_bytes()
    for at in range(40, len(whole), 1499):
        shutil.rmtree(STORE / "evaluations")
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.warns(StoreWarning, match=r"outputs of stage 'baseline'.*line \d+"):
            result, _, calls = session(right)
        assert (result.score, result.n) == (1.0, 10)
        assert calls <= 1, "but for the line that is damaged nothing is asked again"
        file.write_bytes(whole)


def test_a_damaged_block_of_a_large_file_loses_only_itself() -> None:
    changes = {"dataset": Dataset(dev=numbers(400, filler=lambda n: f"{n} " * 200))}
    session(even, changes=changes)
    [file] = STORE.glob("outputs/*/*/*.jsonl.gz")
    assert file.stat().st_size < COMPRESSED_FROM * 2
    whole = file.read_bytes()
    file.write_bytes(whole[:3000] + bytes([whole[3000] ^ 16]) + whole[3001:])
    with pytest.warns(StoreWarning, match="lines 1 to 128"):
        result, _, calls = session(right, changes=changes)
    assert (result.score, calls) == (1.0, 127), "a block of 128 lines: the first says what they rest on"
    assert session(other, changes=changes)[2] == 0, "mended"


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


class Part(pydantic.BaseModel):
    name: str
    size: float = 1.5
    due: datetime.date | None = None


class Typed(dspy.Signature):
    """Say much."""

    text: str = dspy.InputField()
    mood: Mood = dspy.OutputField()
    due: datetime.date = dspy.OutputField()
    parts: list[Part] = dspy.OutputField()
    tags: list[Literal["a", "b"]] = dspy.OutputField()
    sizes: dict[str, float] = dspy.OutputField()


def typed_rule(fields: Any, request: Any) -> str:
    parts = f'[{{"name": "p{fields["text"]}", "due": "2026-02-03"}}]'
    return reply(mood="bad", due="2026-01-31", parts=parts, tags='["a", "b"]', sizes='{"x": 1, "y": 0.1}')


def test_a_metric_is_given_the_same_values_with_their_types() -> None:
    seen: list[list[Any]] = [[], []]

    def looks(number: int) -> Callable[..., bool]:
        def metric(example: Any, prediction: Any, trace: Any = None) -> bool:
            seen[number].append(prediction)
            return prediction.mood is Mood.BAD and prediction.parts[0].due < prediction.due.replace(year=2027)

        def other(example: Any, prediction: Any, trace: Any = None) -> bool:
            return metric(example, prediction) and True

        return other if number else metric

    first, _, _ = session(looks(0), scripted_lm(typed_rule), dspy.Predict(Typed))
    second, _, calls = session(looks(1), scripted_lm(typed_rule), dspy.Predict(Typed))
    assert (first.score, second.score, calls) == (1.0, 1.0, 0)
    before, after = (sorted(predictions, key=str) for predictions in seen)
    assert [dict(p.items()) for p in before] == [dict(p.items()) for p in after]
    types = [[[type(v) for v in p.values()] for p in predictions] for predictions in (before, after)]
    assert types[0] == types[1]


def test_completions_and_usage_are_given_again() -> None:
    def several(example: Any, prediction: Any, trace: Any = None) -> float:
        labels = prediction.completions.label
        return 0.5 * (labels == [prediction.label] * 3) + 0.5 * (prediction.get_lm_usage() is not None)

    def mended(example: Any, prediction: Any, trace: Any = None) -> float:
        return several(example, prediction)

    with dspy.context(track_usage=True):
        program = dspy.Predict("text -> label", n=3, temperature=0.7)
        first, _, _ = session(several, program=program)
        second, _, calls = session(mended, program=program)
    assert first.score == second.score > 0
    assert calls == 0


class Holding(dspy.Module):
    """Hands out something that no file holds."""

    def __init__(self) -> None:
        super().__init__()
        self.sort = dspy.Predict("text -> label")

    def forward(self, text: str) -> Any:
        return dspy.Prediction(label=self.sort(text=text).label, lock=threading.Lock())


def test_a_prediction_that_cannot_be_given_again_is_measured_anew_saying_why() -> None:
    session(wrong, program=Holding())
    second, ladder, calls = session(right, program=Holding())
    assert (second.score, calls, second.rescored) == (1.0, 10, "")
    assert "was measured again (a prediction cannot be given again: prediction['lock']" in cautions(ladder)


def test_a_prediction_with_a_key_in_it_is_measured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_API_KEY", "sk-toy-0123456789")

    def leaks(fields: Any, request: Any) -> str:
        return reply(label="sk-toy-0123456789")

    def secret(example: Any, prediction: Any, trace: Any = None) -> bool:
        return bool(prediction.label == "sk-toy-0123456789")

    session(wrong, scripted_lm(leaks))
    assert not any("sk-toy-0123456789" in file.read_text() for file in STORE.rglob("*.json*"))
    second, _, calls = session(secret, scripted_lm(leaks))
    assert (second.score, calls) == (1.0, 10)


ASKED: list[str] = []


class Noting(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sort = dspy.Predict("text -> label")

    def forward(self, text: str) -> Any:
        ASKED.append(text)
        return self.sort(text=text)


def reads_what_the_program_left(example: Any, prediction: Any, trace: Any = None) -> bool:
    return example.text in ASKED


def test_a_metric_that_reads_what_the_program_left_behind_is_given_it() -> None:
    ASKED.clear()
    session(wrong, program=Noting())
    ASKED.clear()
    second, ladder, calls = session(reads_what_the_program_left, program=Noting())
    assert (second.score, calls) == (1.0, 10)
    assert "ASKED, which running the program changes" in cautions(ladder)


def test_a_frozen_session_scores_and_changes_nothing() -> None:
    session(wrong)
    before = [snapshot(STORE / part) for part in ("evaluations", "outputs")]
    result, _, calls = session(right, frozen=True)
    assert (result.score, calls) == (1.0, 0)
    assert [snapshot(STORE / part) for part in ("evaluations", "outputs")] == before


def judged_by(lm: Any) -> Callable[..., bool]:
    def judged(example: Any, prediction: Any, trace: Any = None) -> bool:
        try:
            with dspy.context(lm=lm):
                return bool(dspy.Predict("label -> fine: bool")(label=prediction.label).fine)
        except ExperimentError:
            return True  # whatever it makes of it

    return judged


def test_only_the_judge_is_asked_and_never_in_a_frozen_session() -> None:
    judge = scripted_lm(lambda fields, request: reply(fine="True"), "toy/judge")
    session(wrong)
    with pytest.raises(ExperimentError, match=r"the metric asks an LM \(toy/judge\), and --dspy-frozen"):
        session(judged_by(judge), frozen=True)
    assert judge.engine.requests == []
    result, ladder, calls = session(judged_by(judge))
    assert (result.score, calls, len(judge.engine.requests)) == (1.0, 0, 10)
    assert "10 LM calls of its judge" in cautions(ladder)


def test_repeats_are_scored_one_by_one() -> None:
    seen: dict[str, int] = {}

    def moody(fields: Any, request: Any) -> str:
        seen[fields["text"]] = seen.get(fields["text"], 0) + 1
        return parity_rule(fields, request) if seen[fields["text"]] > 1 else reply(label="neither")

    first, _, calls = session(wrong, scripted_lm(moody, temperature=1.0), repeats=3)
    second, _, again = session(right, scripted_lm(moody, temperature=1.0), repeats=3)
    assert (first.score, calls, again) == (0.0, 30, 0)
    assert second.score == pytest.approx(2 / 3)
    assert [call.score for call in second.examples[0].each] == [0.0, 1.0, 1.0]


def test_copies_of_an_example_keep_an_answer_each() -> None:
    seen: list[str] = []

    def moody(fields: Any, request: Any) -> str:
        seen.append(fields["text"])
        return reply(label="even" if len(seen) % 2 else "odd")

    changes = {"dataset": Dataset(dev=[*numbers(1), *numbers(1), *numbers(1)])}
    first, _, _ = session(right, scripted_lm(moody), changes=changes)
    second, _, calls = session(even, scripted_lm(moody), changes=changes)
    assert calls == 0
    assert sorted(second.scores) == sorted(first.scores) == [0.0, 1.0, 1.0]


def test_a_program_that_is_no_stage_is_scored_again_too() -> None:
    def measured(metric: Any, lm: Any) -> float:
        ladder = Ladder(experiment(predict(), lm, metric=metric, count=100), STORE)
        return ladder.evaluate(dspy.ChainOfThought("text -> label")).score

    lm = scripted_lm(lambda fields, request: reply(reasoning="r", label=parity_label(fields)))
    assert (measured(wrong, lm), measured(right, lm), len(lm.engine.requests)) == (0.0, 1.0, 10)


def parity_label(fields: Any) -> str:
    return "even" if int(fields["text"]) % 2 == 0 else "odd"


def test_what_is_to_be_made_anew_is_not_scored_from_the_store() -> None:
    session(wrong)
    assert session(right, rebuild=["baseline"])[2] == 10
    assert session(even, measure_anew=[("baseline", "dev")])[2] == 0, "an engine of the user's own does not drift"


def test_a_local_lm_is_scored_again_too() -> None:
    assert session(wrong, scripted(model="local:toy"))[2] == 10
    result, _, calls = session(right, scripted(model="local:toy"))
    assert (result.score, calls) == (1.0, 0)


def test_recordings_are_no_hindrance(tmp_path: Path) -> None:
    with recording(tmp_path / "recorded"):
        assert session(wrong)[2] == 10
    with recording(tmp_path / "recorded"):
        result, _, calls = session(right)
        assert (result.score, calls) == (1.0, 0)
    with recording(tmp_path / "recorded", "none"):
        assert session(even)[2] == 0


def test_what_is_doubted_does_not_come_back_with_what_is_believed() -> None:
    """A file of outputs that another program made, and one under way that today's makes."""
    session(wrong)
    [file] = STORE.glob("outputs/*/*/*.jsonl")
    as_of_other_code(file, "outputs")
    with pytest.raises(KeyboardInterrupt):
        session(even, slowing(), num_threads=1, progress=StopAfter(4))
    [under_way] = STORE.glob("outputs/*/*/*.partial.jsonl")
    answered = under_way.read_text().count('"output"')
    assert session(right)[2] == 10 - answered
    assert file.read_text().count('"output"') == 10


def test_only_the_calls_whose_prediction_cannot_be_given_again_are_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_API_KEY", "sk-toy-0123456789")

    def leaks_once(fields: Any, request: Any) -> str:
        return reply(label="sk-toy-0123456789") if fields["text"] == "85" else parity_rule(fields, request)

    session(wrong, scripted_lm(leaks_once))
    result, ladder, calls = session(right, scripted_lm(leaks_once))
    assert (result.score, calls) == (0.9, 1)
    assert "it holds a key" in cautions(ladder)
