"""The ladder: what a handed-out program brings along, and what a session may ask for."""

from __future__ import annotations

import dataclasses
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Ladder, Stage
from pytest_dspy_ft.fingerprint import fingerprint
from pytest_dspy_ft.ladder.settings import LadderOptions, LadderSettings
from pytest_dspy_ft.progress import SilentProgress
from tests.ladder.helpers import STORE, predict, right, scripted, writes
from tests.scripted import experiment, numbers


def test_a_handed_out_program_brings_its_lm_and_adapter() -> None:
    lm, other = scripted(), scripted(model="toy/other")
    used: list[str] = []

    class Noting(dspy.ChatAdapter):
        def format(self, signature: Any, demos: Any, inputs: Any) -> Any:
            used.append("noting")
            return super().format(signature, demos, inputs)

    ladder = Ladder(experiment(predict(), lm, adapter=Noting(use_json_adapter_fallback=False)), STORE)
    program = ladder.program("baseline")
    used.clear()  # building keeps what its prompts are
    assert dspy.settings.lm is None
    assert program(text="3").label == "odd"
    with dspy.context(lm=other, adapter=dspy.JSONAdapter()):
        assert program(text="4").label == "even"
        assert type(dspy.settings.adapter) is dspy.JSONAdapter
    assert used == ["noting", "noting"]
    assert other.engine.requests == []
    assert isinstance(program, dspy.Predict)
    assert dspy.settings.lm is None


def test_a_handed_out_program_runs_in_threads() -> None:
    lm = scripted()
    program = Ladder(experiment(predict(), lm), STORE).program("baseline")
    evaluate = dspy.Evaluate(devset=numbers(12), metric=right, num_threads=4, display_progress=False)
    with dspy.context(adapter=dspy.JSONAdapter()):
        assert evaluate(program).score == 100.0
    assert len(lm.engine.requests) == 12


def test_handed_out_programs_are_independent() -> None:
    ladder = Ladder(experiment(predict(), scripted(), [Stage("prompted", writes("P"))]), STORE)
    one, two = ladder.program("prompted"), ladder.program("prompted")
    one.demos.append({"text": "1", "label": "odd"})
    one.lm = other = scripted(model="toy/other")
    assert two.demos == []
    assert two.get_lm() is not other
    assert one.get_lm() is other
    assert ladder.build("prompted").program.demos == []
    assert fingerprint(two) == fingerprint(ladder.build("prompted").program), "bound or not, it is the same program"
    assert type(ladder.build("prompted").program) is dspy.Predict


def test_a_handed_out_program_can_be_measured() -> None:
    lm = scripted()
    ladder = Ladder(experiment(predict(), lm, [Stage("prompted", writes("P"))]), STORE)
    result = ladder.evaluate(ladder.program("prompted"))
    assert result.score == 1.0
    assert result.stage.startswith("program-")
    assert ladder.evaluate(predict()).score == 1.0, "and so can any program, on the experiment's LM"


def test_a_handed_out_local_program_can_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kept answers must not wait for a lock that the measuring thread holds."""
    import threading

    from pytest_dspy_ft.lms import cache as responses

    class Impatient:
        def __init__(self) -> None:
            self.lock = threading.RLock()

        def __enter__(self) -> None:
            if not self.lock.acquire(timeout=1):
                raise RuntimeError("deadlock")

        def __exit__(self, *failure: Any) -> None:
            self.lock.release()

    monkeypatch.setattr(responses, "_swap", Impatient(), raising=False)
    ladder = Ladder(experiment(predict(), scripted(model="local:toy")), STORE, num_threads=8)
    result = ladder.evaluate(ladder.program("baseline"))
    assert (result.errors, result.score) == (0, 1.0)


def test_a_handed_out_local_program_keeps_its_answers() -> None:
    lm = scripted(model="local:toy")
    ladder = Ladder(experiment(predict(), lm), STORE)
    for _ in range(2):
        assert ladder.program("baseline")(text="3").label == "odd"
    assert len(lm.engine.requests) == 1
    fresh = scripted(model="local:toy")
    assert Ladder(experiment(predict(), fresh), STORE).program("baseline")(text="3").label == "odd"
    assert fresh.engine.requests == []


def test_a_ladder_takes_the_settings_and_says_which_there_are() -> None:
    assert list(LadderOptions.__annotations__) == [setting.name for setting in dataclasses.fields(LadderSettings)]
    with pytest.raises(TypeError, match=r"takes no frosen, treads; choose from frozen, rebuild, .*, serving"):
        Ladder(experiment(predict(), scripted()), STORE, frosen=True, treads=2)  # type: ignore[call-arg]


def test_a_setting_is_an_attribute_of_the_ladder_too() -> None:
    ladder = Ladder(experiment(predict(), scripted()), STORE, limit=3)
    assert (ladder.limit, ladder.repeats) == (3, 1)  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="'Ladder' object has no attribute 'budged'"):
        ladder.budged  # type: ignore[attr-defined]  # noqa: B018


def test_none_is_the_default_of_a_setting() -> None:
    ladder = Ladder(experiment(predict(), scripted()), STORE, prices=None, progress=None, session=None, limit=None)
    assert isinstance(ladder.settings.progress, SilentProgress)
    assert ladder.settings.prices.of("toy/scripted") is None
    assert len(ladder.settings.session) == 32
