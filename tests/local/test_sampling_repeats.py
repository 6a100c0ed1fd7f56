"""Repeats on the embedded model: each is another sample, and a new session draws the same ones."""

from __future__ import annotations

from pathlib import Path

import dspy
import pytest

from pytest_dspy_ft import Ladder, resolve_lm
from tests.scripted import experiment

pytestmark = pytest.mark.model


def test_each_repeat_is_another_sample_and_all_can_be_drawn_again(tmp_path: Path) -> None:
    lm = resolve_lm("local", temperature=1.0, max_tokens=12)
    it = experiment(dspy.Predict("text -> label"), lm, count=20)
    first, again = (Ladder(it, tmp_path / name, repeats=3).evaluate("baseline") for name in ("one", "two"))
    answers = [[(call.outcome, call.error, call.prediction) for call in e.repeats] for e in first.examples]
    assert all(len({str(answer) for answer in repeats}) > 1 for repeats in answers)
    assert answers == [[(call.outcome, call.error, call.prediction) for call in e.repeats] for e in again.examples]
