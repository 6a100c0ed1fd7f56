"""What LMs remember of their calls: DSPy's optimizers copy it with every copy of a program that has its LM."""

from __future__ import annotations

import copy
from typing import Any

from pytest_dspy_ft import Ladder, Stage
from tests.ladder.helpers import STORE, predict, scripted, writes
from tests.scripted import experiment


class Remembered:
    """Something in an LM's history that must not be copied, nor looked into."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Remembered:
        raise AssertionError("the history was copied call by call")

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        raise AssertionError("the history was looked into")


def test_a_build_neither_copies_nor_reads_what_its_lm_remembers() -> None:
    lm = scripted()
    lm.history.append(Remembered())

    def copies(program: Any, *, trainset: Any, teacher: Any) -> Any:
        assert copy.deepcopy(lm).history
        return writes("Say it.")(program, trainset=trainset, teacher=teacher)

    ladder = Ladder(experiment(predict(), lm, stages=[Stage("copied", copies)]), STORE)
    assert ladder.evaluate("copied").score == 1.0
    assert len(lm.history) > 1
