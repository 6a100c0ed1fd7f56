"""Stages: built once, built again, and on which LM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Ladder, Stage
from pytest_dspy_ft.errors import BuildError
from pytest_dspy_ft.evaluation.programs import program_state
from tests.ladder.helpers import (
    LADDER,
    STORE,
    Counting,
    counted,
    instructions,
    predict,
    right,
    scripted,
    statuses,
    writes,
)
from tests.parity import make_experiment
from tests.scripted import experiment, jobs_of


def test_a_stage_on_another_lm_and_predictors_that_keep_theirs() -> None:
    class Two(dspy.Module):
        def __init__(self, own: Any) -> None:
            super().__init__()
            self.free, self.bound = predict(), predict()
            self.bound.lm = own

        def forward(self, text: str) -> Any:
            self.bound(text=text)
            return self.free(text=text)

    base, big, own = (scripted(model=f"toy/{name}") for name in ("base", "big", "own"))
    stages = [Stage("big", lm=big), Stage("prompted", writes("P"), start="big"), Stage("back", start="big", lm=base)]
    ladder = Ladder(experiment(Two(own), base, stages), STORE)
    for name, lm in [("baseline", base), ("big", big), ("prompted", big), ("back", base)]:
        program = ladder.build(name).program
        assert (program.free.lm, program.bound.lm) == (None, own), name
        assert ladder.build(name).lms == {"free": lm, "bound": own}, name
        assert ladder.build(name).lm is lm
    assert ladder.evaluate("big").lm == "toy/big"
    assert set(big.engine.models) == {"toy/big"}
    assert len(own.engine.requests) == 4
    assert base.engine.requests == []


def test_a_stage_on_another_lm_leaves_a_tuned_model() -> None:
    base, big = scripted(model="toy/base"), scripted(model="toy/big")
    stages = [Stage("tuned", dspy.BootstrapFinetune(metric=right)), Stage("elsewhere", start="tuned", lm=big)]
    ladder = Ladder(experiment(predict(), base, stages), STORE)
    assert ladder.build("elsewhere").lms == {"self": big}


def test_the_teacher_answers_on_its_own_lm() -> None:
    small, big = scripted(model="toy/small"), scripted(model="toy/big")
    stages = [Stage("teacher", lm=big), Stage("tuned", dspy.BootstrapFinetune(metric=right), teacher="teacher")]
    ladder = Ladder(experiment(predict(), small, stages), STORE)
    built = ladder.build("tuned")
    assert len(big.engine.requests) == 32
    assert small.engine.requests == []
    assert [model for model, _, _ in jobs_of(small)] == ["toy/small"]
    assert jobs_of(big) == []
    assert built.program.lm.engine is small.engine


def test_a_prompted_stage_on_a_tuned_one_keeps_its_model() -> None:
    lm = scripted()
    stages = [Stage("tuned", dspy.BootstrapFinetune(metric=right)), Stage("prompted", writes("P"), start="tuned")]
    Ladder(experiment(predict(), lm, stages), STORE).build("prompted")
    ladder = Ladder(experiment(predict(), lm, stages), STORE)
    assert ladder.build("prompted").record.status == "loaded"
    ladder.program("prompted")(text="1")
    assert lm.engine.models[-1] == "toy/tuned-1"


def test_the_record_of_a_prompted_stage_on_a_tuned_one_names_the_tuned_model() -> None:
    stages = [Stage("tuned", dspy.BootstrapFinetune(metric=right)), Stage("prompted", writes("P"), start="tuned")]
    ladder = Ladder(experiment(predict(), scripted(), stages), STORE)
    assert ladder.build("prompted").record.lm == "toy/tuned-1"
    assert ladder.evaluate("prompted").lm == "toy/tuned-1"


def test_built_once_and_loaded_ever_after() -> None:
    assert statuses(Ladder(make_experiment(), STORE), *LADDER) == ["built"] * 3
    assert statuses(Ladder(make_experiment(), STORE), *LADDER) == ["loaded"] * 3
    assert len(Path("jobs.log").read_text().splitlines()) == 1


def test_what_depends_on_a_rebuilt_stage_is_built_anew() -> None:
    lm, below, above = scripted(), Counting(), Counting()
    Ladder(counted(lm, below, above), STORE).build("above")
    ladder = Ladder(counted(lm, below, above), STORE, rebuild=["below"])
    assert statuses(ladder, "above", "side") == ["loaded", "built", "built", "built"]
    assert (below.runs, above.runs) == (2, 2)
    assert instructions(ladder.build("above").program) == "run 2"
    assert "--dspy-rebuild" in ladder.build("below").record.reason


def test_a_stage_is_stale_when_what_it_stands_on_came_out_differently() -> None:
    lm, below, above = scripted(), Counting(), Counting()
    first = Ladder(counted(lm, below, above), STORE)
    digests = [first.build(name).build.digest for name in ("below", "above")]
    Ladder(counted(lm, below, above), STORE, rebuild=["below"]).build("below")
    later = Ladder(counted(lm, below, above), STORE)
    assert later.build("below").record.status == "loaded"
    assert later.build("below").build.digest != digests[0]
    assert later.build("above").record.status == "built"
    assert "came out differently" in later.build("above").record.reason


def test_a_rebuild_with_the_same_outcome_leaves_dependents_alone_in_the_next_session() -> None:
    lm, above = scripted(), Counting()
    Ladder(counted(lm, writes("SAME"), above), STORE).build("above")
    Ladder(counted(lm, writes("SAME"), above), STORE, rebuild=["below"]).build("below")
    assert Ladder(counted(lm, writes("SAME"), above), STORE).build("above").record.status == "loaded"
    assert above.runs == 1


def test_a_session_rebuilds_once_between_its_processes() -> None:
    lm, below, above = scripted(), Counting(), Counting()
    for _ in range(2):  # two processes of one session
        Ladder(counted(lm, below, above), STORE, rebuild=["all"], session="one").build("above")
    assert (below.runs, above.runs) == (1, 1)
    Ladder(counted(lm, below, above), STORE, rebuild=["all"], session="two").build("above")
    assert (below.runs, above.runs) == (2, 2)


def test_a_failed_stage_is_tried_once_and_fails_what_needs_it() -> None:
    class Failing(Counting):
        def __call__(self, program: Any, *, trainset: Any, teacher: Any) -> Any:
            self.runs += 1
            raise ZeroDivisionError("no luck")

    failing = Failing()
    ladder = Ladder(counted(scripted(), failing, Counting()), STORE)
    for _ in range(2):
        with pytest.raises(BuildError, match=r"stage 'below'.*ZeroDivisionError: no luck"):
            ladder.build("below")
        with pytest.raises(BuildError, match=r"stage 'above' needs stage 'below'.*no luck"):
            ladder.build("above")
    assert failing.runs == 1
    assert {r.stage: r.status for r in ladder.record().stages} == {
        "baseline": "built",
        "below": "failed",
        "above": "failed",
    }
    ladder.build("side")


def test_a_half_finished_build_is_no_build() -> None:
    lm = scripted()

    def interrupted(program: Any, *, trainset: Any, teacher: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Ladder(counted(lm, interrupted, Counting()), STORE).build("below")
    assert list((STORE / "stages").glob("*/below/*")) == []
    assert Ladder(counted(lm, writes("FINE"), Counting()), STORE).build("below").record.status == "built"


def test_bootstrapped_demos_come_back_from_the_store() -> None:
    lm = scripted()
    made = experiment(predict(), lm, [Stage("made", dspy.BootstrapFewShot(metric=right, max_bootstrapped_demos=2))])
    built = Ladder(made, STORE).build("made").program
    loaded = Ladder(made, STORE).build("made").program
    assert len(built.demos) > 2
    assert program_state(built) == program_state(loaded)
