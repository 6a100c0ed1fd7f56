"""A stage that a service trains, recorded with a key and built without one: never a second job for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Ladder
from pytest_dspy_ft.errors import RecordingError
from pytest_dspy_ft.lms.calls import recording
from tests.finetune.hosted.server import FineTuningService, serving
from tests.finetune.hosted.world import hosted_lm, make_experiment
from tests.scripted import fields_of, reply

FOLDER = Path("recordings")


def answer(model: str, messages: list[dict[str, Any]]) -> str:
    even = int(fields_of(messages[-1]["content"])["text"]) % 2 == 0
    return reply(label="even" if even and model.startswith("ft:") else "odd")


def ladder(service: FineTuningService | str, store: str) -> Ladder:
    if isinstance(service, str):  # an address where nobody listens, and no key
        lm = dspy.LM("openai/gpt-4o-mini", api_base=service, cache=False, num_retries=0)
    else:
        lm = hosted_lm(service, num_retries=0)
    return Ladder(make_experiment(lm), store)


def test_a_stage_trained_elsewhere_is_built_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving(answer=answer) as service:
        with recording(FOLDER):
            first = ladder(service, "one")
            scores = [first.evaluate(stage).score for stage in ("baseline", "finetuned")]
        assert len(service.started()) == 1
        address = service.address
        first.experiment.lm.close()
    assert scores[0] < scores[1] == 1.0
    with recording(FOLDER, "none"):
        fork = ladder(address, "two")
        assert [fork.evaluate(stage).score for stage in ("baseline", "finetuned")] == scores
    ours, theirs = fork.build("finetuned").record, first.build("finetuned").record
    assert ours.lm == theirs.lm
    assert ours.key == theirs.key
    assert ours.training[0].resumed
    assert not theirs.training[0].resumed
    assert ours.training[0].job == theirs.training[0].job
    assert fork.evaluate("finetuned").key == first.evaluate("finetuned").key


def test_without_the_recording_it_says_so_and_asks_for_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with (
        recording(FOLDER, "none"),
        pytest.raises(RecordingError, match="no fine-tuning of openai/gpt-4o-mini on these"),
    ):
        ladder("http://127.0.0.1:9/v1", "two").build("finetuned")


@pytest.mark.parametrize("mode", ["once", "all"])
def test_recording_what_was_trained_before_starts_no_second_job(mode: Any) -> None:
    with serving(answer=answer) as service:
        live = ladder(service, "store")
        live.evaluate("finetuned")
        live.experiment.lm.close()
        with recording(FOLDER, mode):
            again = ladder(service, "store")
            assert again.evaluate("finetuned").score == 1.0
            again.experiment.lm.close()
        assert len(service.started()) == 1
        assert again.build("finetuned").record.lm == live.build("finetuned").record.lm
        address = service.address
    with recording(FOLDER, "none"):
        assert ladder(address, "empty").evaluate("finetuned").score == 1.0
