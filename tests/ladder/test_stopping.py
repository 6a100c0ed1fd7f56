"""Evaluations in parts: what ends where, what stays whole, and what is never taken for a whole one."""

from __future__ import annotations

import warnings
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Dataset, Ladder
from pytest_dspy_ft.errors import StoreError
from pytest_dspy_ft.evaluation.repeats import samples
from pytest_dspy_ft.gates.gate import Gate
from pytest_dspy_ft.ladder.settings import Stopping
from tests.ladder.helpers import STORE, predict
from tests.scripted import experiment, reply, scripted_lm

ODD = Gate.parse("baseline >= 80%")


def numbers(*copies: int) -> list[Any]:
    """Examples of these numbers."""
    return [dspy.Example(text=str(n), label="even" if n % 2 == 0 else "odd").with_inputs("text") for n in copies]


def says_odd(fields: Any, request: Any) -> str:
    return reply(label="odd")


def label(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.label == example.label)


def ladder(lm: Any, *gates: Gate, dev: Any = range(100), rule: str = "curtail", **options: Any) -> Ladder:
    declared = experiment(predict(), lm, dataset=Dataset(dev=numbers(*dev)), metric=label)
    stopping = Stopping(rule, lambda: gates)  # type: ignore[arg-type]
    return Ladder(declared, STORE, stopping=stopping, num_threads=1, **options)


@pytest.fixture(autouse=True)
def quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_a_part_is_never_read_as_the_whole() -> None:
    lm = scripted_lm(says_odd)
    first = ladder(lm, ODD)
    assert first.judge(ODD).stopped == "decided after 45 of 100 examples (curtail)"
    assert len(lm.engine.requests) == 45
    assert first.record().results[0].planned == 100
    for frozen, options in (
        (ladder(lm, ODD, frozen=True), "--dspy-frozen and --dspy-stop-early"),
        (Ladder(first.experiment, STORE, frozen=True), "--dspy-frozen"),
    ):
        with pytest.raises(StoreError, match=rf"on dev is not in the store .* without {options} to make it"):
            frozen.evaluate("baseline")
    later = Ladder(first.experiment, STORE)
    assert later.find_evaluation("baseline", "dev") is None
    whole = later.evaluate("baseline")
    assert (whole.n, whole.planned, len(lm.engine.requests)) == (100, None, 100)
    assert [e.id for e in whole.examples] == [
        e.id for e in Ladder(first.experiment, "other").evaluate("baseline").examples
    ]


@pytest.mark.parametrize(
    "needs", ["cost(baseline) <= 1", "tokens(baseline) <= 1000", "baseline / tokens(baseline) >= 0.001"]
)
def test_a_gate_on_what_has_no_limit_needs_the_whole(needs: str) -> None:
    lm = scripted_lm(says_odd)
    assert ladder(lm, ODD, Gate.parse(needs)).judge(ODD).stopped == ""
    assert len(lm.engine.requests) == 100


def test_gates_on_another_split_or_of_another_stage_do_not_keep_it() -> None:
    lm = scripted_lm(says_odd)
    assert ladder(lm, ODD, Gate.parse("tokens(baseline) <= 1000", on="test")).judge(ODD).stopped


def test_copies_of_an_example_are_measured_together() -> None:
    lm = scripted_lm(says_odd)
    dev = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] * 4
    one = ladder(lm, ODD, dev=dev)
    verdict = one.judge(ODD)
    assert verdict.stopped == "decided after 20 of 40 examples (curtail)"
    counted = one.measured(ODD)["baseline"]
    assert all(sum(other.id == e.id for other in counted.examples) == 4 for e in counted.examples)


def test_repeats_are_made_part_by_part() -> None:
    lm = scripted_lm(says_odd, temperature=1.0)
    one = ladder(lm, ODD, repeats=3)
    assert one.judge(ODD).stopped == "decided after 45 of 100 examples (curtail)"
    assert len(lm.engine.requests) == 135
    assert samples(one.program("baseline"), lm)
    Ladder(one.experiment, STORE, repeats=3).evaluate("baseline")
    assert len(lm.engine.requests) == 300


def test_looks_go_through_the_split_in_an_order_of_their_own_and_results_stand_in_its_order() -> None:
    lm = scripted_lm(says_odd)
    gate = Gate.parse("baseline >= 95%", confidence=0.95)
    one = ladder(lm, gate, rule="sequential")
    verdict = one.judge(gate)
    assert verdict.verdict == "FAIL"
    asked = [int(r.messages[-1].parts[0].text.split("[[ ## text ## ]]")[-1].split()[0]) for r in lm.engine.requests]
    assert verdict.stopped == f"decided after {len(asked)} of 100 examples (sequential)"
    assert asked != sorted(asked)
    assert max(asked) > len(asked), "not the first of the file"
    shown = [e.id for e in one.measured(gate)["baseline"].examples]
    whole = [e.id for e in Ladder(one.experiment, STORE).evaluate("baseline").examples]
    assert shown == [identity for identity in whole if identity in set(shown)]
    assert sorted(asked) == sorted({*asked})


def test_a_whole_evaluation_of_the_store_is_not_measured_again() -> None:
    lm = scripted_lm(says_odd)
    Ladder(ladder(lm).experiment, STORE).evaluate("baseline")
    verdict = ladder(lm, ODD).judge(ODD)
    assert (verdict.stopped, verdict.verdict, len(lm.engine.requests)) == ("", "FAIL", 100)


def test_a_stage_made_anew_takes_nothing_from_what_ended_early_in_another_session() -> None:
    lm = scripted_lm(says_odd)
    ladder(lm, ODD, session="first").judge(ODD)
    rebuilt = ladder(lm, ODD, session="second", rebuild=["baseline"])
    assert rebuilt.judge(ODD).stopped
    assert len(lm.engine.requests) == 90
    worker = ladder(lm, ODD, session="second", rebuild=["baseline"])
    assert worker.judge(ODD).stopped
    assert len(lm.engine.requests) == 90, "another process of that session has what it paid for"
    assert worker.evaluate("baseline").n == 100
    assert len(lm.engine.requests) == 145


def test_a_model_of_this_machine_is_measured_in_parts_and_one_that_samples_as_a_whole() -> None:
    lm = scripted_lm(says_odd, model="local:toy", temperature=0.0)
    one = ladder(lm, ODD)
    assert one.judge(ODD).stopped == "decided after 45 of 100 examples (curtail)"
    assert len(lm.engine.requests) == 45
    assert one.evaluate("baseline").n == 100
    assert len(lm.engine.requests) == 145, "its answers are free, and those of a whole run"
    sampling = scripted_lm(says_odd, model="local:other", temperature=1.0)
    assert ladder(sampling, ODD).judge(ODD).stopped == ""
    assert len(sampling.engine.requests) == 100
