"""True copies, and states that come back from the store as they were."""

from __future__ import annotations

import json
from typing import Any

import dspy
import pydantic
import pytest

from pytest_dspy_ft import Ladder, Stage
from pytest_dspy_ft.evaluation.programs import copy_program, program_state, restore_state
from pytest_dspy_ft.fingerprint import fingerprint
from tests.ladder.helpers import STORE, instructions, predict, right, scripted, writes
from tests.scripted import CHAT, experiment, jobs_of


def test_nothing_below_a_stage_is_changed_by_it() -> None:
    mine = predict()
    written = fingerprint(mine)
    lm = scripted()
    stages = [
        Stage("prompted", writes("PROMPTED", [{"text": "9", "label": "odd"}])),
        Stage("tuned", dspy.BootstrapFinetune(metric=right), start="prompted"),
        Stage("more", writes("MORE", [{"text": "8", "label": "even"}]), start="prompted"),
    ]
    ladder = Ladder(experiment(mine, lm, stages), STORE)
    before = {name: fingerprint(ladder.build(name).program) for name in ("baseline", "prompted")}
    ladder.build("tuned")
    ladder.build("more")
    assert fingerprint(mine) == written
    assert mine.lm is None
    assert mine.demos == []
    assert {name: fingerprint(ladder.build(name).program) for name in before} == before
    assert ladder.build("baseline").lms == {"self": lm}
    assert ladder.build("prompted").lms == {"self": lm}
    assert ladder.build("tuned").program.lm.model == "toy/tuned-1"
    assert [len(ladder.build(name).program.demos) for name in ladder.experiment.stages] == [0, 1, 1, 2]


def test_an_optimizer_that_damages_its_teacher_damages_a_copy() -> None:
    def rude(program: Any, *, trainset: Any, teacher: Any) -> Any:
        teacher.demos = [{"text": "spoilt", "label": "spoilt"}]
        teacher.signature = teacher.signature.with_instructions("SPOILT")
        trainset.clear()
        return program

    stages = [Stage("taught", writes("TAUGHT")), Stage("rude", rude, teacher="taught")]
    ladder = Ladder(experiment(predict(), scripted(), stages), STORE)
    ladder.build("rude")
    assert instructions(ladder.build("taught").program) == "TAUGHT"
    assert len(ladder.experiment.dataset.train) == 32


def test_copies_share_their_lms() -> None:
    shared, own = scripted(), scripted(model="toy/own")

    class Pair(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = predict(), predict(), predict()

    program = Pair()
    program.one.lm = program.two.lm = shared
    program.three.lm = own
    program.one.demos = [{"text": "1", "label": "odd"}]
    copied = copy_program(program)
    assert copied.one.lm is copied.two.lm is shared
    assert copied.three.lm is own
    assert shared.engine.copies == own.engine.copies == 0
    copied.one.demos.append({"text": "2", "label": "even"})
    copied.one.demos[0]["label"] = "changed"
    assert program.one.demos == [{"text": "1", "label": "odd"}]


def test_a_whole_ladder_runs_on_one_engine() -> None:
    lm = scripted()
    stages = [
        Stage("prompted", writes("PROMPTED")),
        Stage("tuned", dspy.BootstrapFinetune(metric=right), teacher="prompted"),
    ]
    ladder = Ladder(experiment(predict(), lm, stages), STORE)
    for name in ladder.experiment.stages:
        ladder.evaluate(name)
        assert ladder.program(name).get_lm().engine is lm.engine
    assert lm.engine.copies == 0


def test_a_copy_of_what_cannot_be_copied() -> None:
    import threading

    class Locked(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lock = threading.Lock()
            self.predict = predict()

    program = Locked()
    program.predict.lm = scripted()
    copied = copy_program(program)
    assert copied.predict is not program.predict
    assert copied.predict.lm is program.predict.lm
    copied.predict.demos.append({"text": "1", "label": "odd"})
    assert program.predict.demos == []


def test_copies_share_lms_that_no_predictor_holds() -> None:
    class Critic(dspy.Module):
        def __init__(self, critic: Any) -> None:
            super().__init__()
            self.predict, self.critic = predict(), critic

    critic = scripted()
    assert copy_program(Critic(critic)).critic.engine is critic.engine


class Point(pydantic.BaseModel):
    x: int
    tags: list[str] = []


class Nested(dspy.Signature):
    """Nest."""

    text: str = dspy.InputField()
    points: list[Point] = dspy.InputField()
    label: str = dspy.OutputField()


def test_a_state_survives_the_store() -> None:
    demo = dspy.Example(
        text="1",
        points=[Point(x=1, tags=["a"]), Point(x=2)],
        label="odd",
        table={"k": [1, {"é": None}]},
        augmented=True,
    )
    program = dspy.Predict(Nested, temperature=0.3)
    program.signature = program.signature.with_instructions('Über\n"quoted"').with_updated_fields(
        "label", desc="new desc"
    )
    program.demos = [demo]
    stored = json.loads(json.dumps(program_state(program)))
    other = dspy.Predict(Nested)
    other.lm = lm = scripted()
    restore_state(other, stored)
    assert other.lm is lm
    assert other.config == {"temperature": 0.3}
    assert other.signature.instructions == 'Über\n"quoted"'
    assert other.signature.fields["label"].json_schema_extra["desc"] == "new desc"
    assert program_state(other) == stored
    given = {"text": "3", "points": [Point(x=5)]}
    one, two = (CHAT.format(p.signature, [dict(d) for d in p.demos], given) for p in (program, other))
    assert [str(m["content"]).replace(" ", "") for m in one] == [str(m["content"]).replace(" ", "") for m in two]


def test_a_program_of_another_structure_takes_no_state() -> None:
    with pytest.raises(ValueError, match="predictors"):
        restore_state(dspy.ChainOfThought("text -> label"), program_state(predict()))


def messages_of(lm: Any, start: int = 0) -> list[Any]:
    texts = [
        (str(r.system), [p.text for m in r.messages for p in m.parts], r.model) for r in lm.engine.requests[start:]
    ]
    return sorted(texts, key=str)


def test_a_loaded_stage_sends_the_very_requests_of_the_built_one() -> None:
    class Sort(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sort = dspy.Predict(Nested)

        def forward(self, text: str) -> Any:
            return self.sort(text=text, points=[Point(x=int(text))])

    def make(lm: Any) -> Any:
        demos = [dspy.Example(text="4", points=[Point(x=4, tags=["t"])], label="even")]
        stages = [
            Stage("prompted", writes("PROMPTED", demos)),
            Stage("tuned", dspy.BootstrapFinetune(metric=right), start="prompted"),
        ]
        return experiment(Sort(), lm, stages)

    first, second = scripted(), scripted()
    one, two = Ladder(make(first), STORE), Ladder(make(second), STORE)
    for name in ("baseline", "prompted", "tuned"):
        one.build(name)
        start = len(first.engine.requests)
        measured = one.evaluate(name, "dev")
        assert measured.score == 1.0
        sent = messages_of(first, start)
        assert len(sent) == 4
        assert two.build(name).record.status == "loaded"
        assert two.evaluate(name, "dev").loaded
        assert second.engine.requests == []
        dev = two.experiment.dataset.dev
        for example in dev:
            two.program(name)(**example.inputs())
        assert messages_of(second) == sent
        second.engine.requests.clear()
    assert jobs_of(second) == []
