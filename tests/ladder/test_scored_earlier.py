"""Evaluations of earlier versions, which kept no outputs: scored again where their text says enough."""

from __future__ import annotations

import datetime
import shutil
from typing import Any

import dspy
import pytest
from dspy.utils.exceptions import LMServerError

from tests.ladder.helpers import STORE, parity_rule, right
from tests.ladder.test_scored_again import ASKED, Noting, Typed, cautions, even, session, typed_rule, wrong
from tests.scripted import scripted_lm


def as_of_an_earlier_version() -> None:
    """Leave of the store what an earlier version kept."""
    import json

    from pytest_dspy_ft.store.entries import read_entry, write_entry

    shutil.rmtree(STORE / "outputs")
    for path in STORE.glob("evaluations/*/*/*.json"):
        content = read_entry(path, None)
        owner = content.pop("owner")
        content["result"] = json.loads(json.dumps({**content["result"], "outputs": ""}))
        write_entry(path, owner, {"result": content["result"]})


def test_scores_of_an_earlier_version_are_scored_again_where_they_say_enough() -> None:
    session(wrong)
    as_of_an_earlier_version()
    result, _, calls = session(right)
    assert (result.score, calls) == (1.0, 0)


def due_in_february(example: Any, prediction: Any, trace: Any = None) -> bool:
    return isinstance(prediction.due, datetime.date) and prediction.parts[0].due == datetime.date(2026, 2, 3)


@pytest.mark.parametrize(("left_out", "calls"), [("mood", 0), ("text", 10)])
def test_types_come_from_the_signature_where_an_earlier_version_kept_text(left_out: str, calls: int) -> None:
    """An Enum stands there as ``Mood.BAD``, from which its type makes no member."""
    signature = Typed.delete("mood") if left_out == "mood" else Typed
    session(wrong_due, scripted_lm(typed_rule), dspy.Predict(signature))
    as_of_an_earlier_version()
    result, ladder, made = session(due_in_february, scripted_lm(typed_rule), dspy.Predict(signature))
    assert (result.score, made) == (1.0, calls)
    assert ("field 'mood' cannot be read" in cautions(ladder)) == (calls == 10)


def wrong_due(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.due is None)


def test_what_a_program_of_the_users_own_returned_is_not_guessed() -> None:
    ASKED.clear()
    session(wrong, program=Noting())
    ASKED.clear()
    as_of_an_earlier_version()
    result, ladder, calls = session(right, program=Noting())
    assert (result.score, calls) == (1.0, 10)
    assert "an earlier version kept its predictions as text only" in cautions(ladder)


def test_what_an_earlier_version_answered_is_kept_with_what_is_asked_again() -> None:
    def flaky(fields: Any, request: Any) -> str:
        if fields["text"] == "83":
            raise LMServerError("overloaded", status=503)
        return parity_rule(fields, request)

    session(wrong, scripted_lm(flaky, num_retries=0))
    as_of_an_earlier_version()
    result, _, calls = session(right)
    assert (result.score, calls) == (1.0, 1)
    shutil.rmtree(STORE / "evaluations")
    assert session(even)[2] == 0
