"""Seconds of an LM of this machine: a call's where calls are made one by one, a batch's are not judged."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_dspy_ft import Ladder
from pytest_dspy_ft.errors import GateError
from pytest_dspy_ft.gates.gate import Gate
from tests.ladder.helpers import STORE, predict, scripted
from tests.scripted import experiment

LATENCY = Gate.parse("p50(latency(baseline)) <= 60")


def declared(lm: Any) -> Any:
    return experiment(predict(), lm)


def test_calls_of_a_batch_are_refused_and_measured_again_one_by_one() -> None:
    lm = scripted(model="local:toy")
    ladder = Ladder(declared(lm), STORE, num_threads=4)
    with pytest.raises(GateError, match=r"p50\(latency\(baseline\)\) is not known.*--dspy-num-threads=1"):
        ladder.judge(LATENCY)
    n = ladder.evaluate("baseline").n
    assert ladder.judge(Gate.parse("p50(tokens(baseline)) <= 200")).passed
    assert len(lm.engine.requests) == n
    alone = Ladder(declared(lm), STORE, num_threads=1)
    assert alone.judge(LATENCY).passed
    assert len(lm.engine.requests) == 2 * n
    assert any("waited for each other's batches" in caution for caution in alone.record().cautions)
    assert Ladder(declared(lm), STORE, num_threads=4).judge(LATENCY).passed, "as they were measured one by one"
    assert Ladder(declared(lm), STORE, num_threads=1).judge(LATENCY).passed
    assert len(lm.engine.requests) == 2 * n


def test_a_provider_answers_several_at_once() -> None:
    lm = scripted()
    assert Ladder(declared(lm), STORE, num_threads=4).judge(LATENCY).passed
    assert Ladder(declared(lm), STORE, num_threads=1).evaluate("baseline").loaded
