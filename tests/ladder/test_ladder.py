"""The ladder: true copies, what is built once, what is built again, and what a handed-out program brings along."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pydantic
import pytest
from dspy.teleprompt.teleprompt import Teleprompter

from pytest_dspy_ft import Dataset, Ladder, Stage
from pytest_dspy_ft.errors import BuildError, ExperimentError, StoreError
from pytest_dspy_ft.evaluation.programs import copy_program, program_state, restore_state
from pytest_dspy_ft.fingerprint import fingerprint
from pytest_dspy_ft.ladder.optimizer_traps import with_stage_lm
from pytest_dspy_ft.lms.prices import Prices
from tests.parity import CALLS, examples, make_experiment, toy_lm
from tests.scripted import CHAT, experiment, jobs_of, numbers, reply, scripted_lm

STORE = Path("store")


def parity_rule(fields: Any, request: Any) -> str:
    return reply(label="even" if int(fields["text"]) % 2 == 0 else "odd")


def scripted(**settings: Any) -> Any:
    return scripted_lm(parity_rule, **settings)


def right(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.label == example.label)


def writes(instructions: str, demos: Any = (), seen: list[Any] | None = None) -> Callable[..., Any]:
    """An optimizer that writes a prompt onto the very program it is given."""

    def write(program: Any, *, trainset: Any, teacher: Any) -> Any:
        if seen is not None:
            seen.append((program, trainset, teacher))
        for predictor in program.predictors():
            predictor.signature = predictor.signature.with_instructions(instructions)
            predictor.demos = [*predictor.demos, *demos]
        return program

    return write


def predict() -> Any:
    return dspy.Predict("text -> label")


def instructions(program: Any) -> str:
    return str(program.predictors()[0].signature.instructions)


# --- true copies ----------------------------------------------------------------------------------------------------


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
    assert ladder.build("baseline").program.lm is lm
    assert ladder.build("prompted").program.lm is lm
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
        assert ladder.program(name).lm.engine is lm.engine
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


# --- what is measured now is what is measured later -----------------------------------------------------------------


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


# --- LMs ------------------------------------------------------------------------------------------------------------


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
        assert (program.free.lm, program.bound.lm) == (lm, own), name
        assert ladder.build(name).lm is lm
    assert ladder.evaluate("big").lm == "toy/big"
    assert set(big.engine.models) == {"toy/big"}
    assert len(own.engine.requests) == 4
    assert base.engine.requests == []


def test_a_stage_on_another_lm_leaves_a_tuned_model() -> None:
    base, big = scripted(model="toy/base"), scripted(model="toy/big")
    stages = [Stage("tuned", dspy.BootstrapFinetune(metric=right)), Stage("elsewhere", start="tuned", lm=big)]
    ladder = Ladder(experiment(predict(), base, stages), STORE)
    assert ladder.build("elsewhere").program.lm is big


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


class Ambient(Teleprompter):
    """Like MIPROv2: binds whatever LM is configured when it is made, and calls it."""

    def __init__(self, task_model: Any = None, prompt_model: Any = None) -> None:
        super().__init__()
        self.task_model = task_model or dspy.settings.lm
        self.prompt_model = prompt_model or dspy.settings.lm

    def compile(self, student: Any, *, trainset: Any, teacher: Any = None) -> Any:
        for lm in (self.task_model, self.prompt_model):
            with dspy.context(lm=lm):
                dspy.Predict("text -> label")(text="1")
        return student


def test_an_lm_that_happened_to_be_configured_is_not_used() -> None:
    ambient, given, mine = (scripted(model=f"toy/{name}") for name in ("ambient", "given", "mine"))
    with dspy.context(lm=ambient):
        made = experiment(predict(), mine, [Stage("prompted", Ambient(prompt_model=given))])
        ladder = Ladder(made, STORE)
        ladder.build("prompted")
    assert ambient.engine.requests == []
    assert mine.engine.models == ["toy/mine"]
    assert given.engine.models == ["toy/given"]


def test_the_lm_that_happened_to_be_configured_is_not_part_of_the_key() -> None:
    keys = set()
    for name in ("here", "there"):
        with dspy.context(lm=scripted(model=f"toy/{name}")):
            made = experiment(predict(), scripted(), [Stage("prompted", Ambient())])
        keys.add(Ladder(made, STORE).build("prompted").recipe.key)
    assert len(keys) == 1


def test_miprov2_gets_the_stages_lm_also_inside_bettertogether() -> None:
    ambient, mine = scripted(model="toy/ambient"), scripted(model="toy/mine")
    with dspy.context(lm=ambient):
        alone = dspy.MIPROv2(metric=right, auto="light")
        both = dspy.BetterTogether(metric=right, p=dspy.MIPROv2(metric=right), w=dspy.BootstrapFinetune(metric=right))
    for optimizer in (with_stage_lm(alone, mine, ambient), with_stage_lm(both, mine, ambient).optimizers["p"]):
        assert optimizer.task_model is mine
        assert optimizer.prompt_model is mine
    assert alone.task_model is ambient, "the user's optimizer is left alone"
    assert both.optimizers["p"].task_model is ambient


# --- built once, built again ----------------------------------------------------------------------------------------


def statuses(ladder: Ladder, *names: str) -> list[str]:
    for name in names:
        ladder.build(name)
    return [r.status for r in ladder.record().stages]


LADDER = ("baseline", "prompt_optimized", "finetuned")


def test_built_once_and_loaded_ever_after() -> None:
    assert statuses(Ladder(make_experiment(), STORE), *LADDER) == ["built"] * 3
    assert statuses(Ladder(make_experiment(), STORE), *LADDER) == ["loaded"] * 3
    assert len(Path("jobs.log").read_text().splitlines()) == 1


def test_what_was_measured_once_is_shown_at_the_prices_of_now() -> None:
    prices = Prices.from_lines(["toy/* = 1 2"])
    first = Ladder(make_experiment()).evaluate("finetuned")
    calls = CALLS.read_text().count("\n")
    later = Ladder(make_experiment(), prices=prices)
    priced = later.evaluate("finetuned")
    assert first.cost is None, "nobody knows the price of a toy"
    tokens = priced.usage
    assert tokens.cost == pytest.approx(tokens.input_tokens * 1e-6 + tokens.output_tokens * 2e-6)
    assert later.build("prompt_optimized").record.usage.cost == 0.0, "it called no LM"
    assert Ladder(make_experiment()).evaluate("finetuned").cost is None
    assert CALLS.read_text().count("\n") == calls, "a price is no reason to call anything again"
    assert Ladder(make_experiment(), store="other", prices=prices).evaluate("finetuned").cost == priced.cost


def test_an_evaluation_is_made_once() -> None:
    first = Ladder(make_experiment(), STORE).evaluate("baseline")
    calls = len(CALLS.read_text().splitlines())
    ladder = Ladder(make_experiment(), STORE)
    again = ladder.evaluate("baseline")
    assert (first.loaded, again.loaded) == (False, True)
    assert again.examples == first.examples
    assert ladder.evaluate("baseline") is again
    assert len(CALLS.read_text().splitlines()) == calls == 10


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"dataset": lambda: Dataset.from_examples(examples(range(99)))}, ["loaded", "built", "built"]),
        ({"program": lambda: dspy.Predict("text -> label", "Other words.")}, ["built"] * 3),
        ({"program": lambda: dspy.Predict("text -> label")}, ["built"] * 3),
        ({"lm": lambda: toy_lm(temperature=0.5)}, ["built"] * 3),
        ({"seed": lambda: 1}, ["loaded", "built", "built"]),
        ({"adapter": dspy.ChatAdapter}, ["built"] * 3),
        ({"metric": lambda: lambda e, p, t=None: 1.0}, ["loaded"] * 3),
    ],
)
def test_a_change_rebuilds_only_what_depends_on_it(change: dict[str, Any], expected: list[str]) -> None:
    statuses(Ladder(make_experiment(), STORE), *LADDER)
    changed = make_experiment(**{name: make() for name, make in change.items()})
    assert statuses(Ladder(changed, STORE), *LADDER) == expected


def test_what_changed_is_said() -> None:
    Ladder(make_experiment(), STORE).build("prompt_optimized")
    built = Ladder(make_experiment(seed=1), STORE).build("prompt_optimized")
    assert built.record.reason == "changed: seed"


class Counting:
    """An optimizer that writes another prompt each time it runs, under one key."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, program: Any, *, trainset: Any, teacher: Any) -> Any:
        self.runs += 1
        return writes(f"run {self.runs}")(program, trainset=trainset, teacher=teacher)

    def __dspy_ft_key__(self) -> str:
        return "counting"


def counted(lm: Any, below: Any, above: Any) -> Any:
    return experiment(predict(), lm, [Stage("below", below), Stage("above", above, start="below"), Stage("side")])


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


def test_a_rebuilt_stage_is_measured_anew() -> None:
    lm = scripted()
    Ladder(counted(lm, writes("SAME"), writes("SAME")), STORE).evaluate("below")
    calls = len(lm.engine.requests)
    result = Ladder(counted(lm, writes("SAME"), writes("SAME")), STORE, rebuild=["below"]).evaluate("below")
    assert not result.loaded
    assert len(lm.engine.requests) == 2 * calls


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


# --- frozen ---------------------------------------------------------------------------------------------------------


def test_frozen_judges_from_the_store_alone() -> None:
    Ladder(make_experiment(), STORE).evaluate("prompt_optimized")
    calls = CALLS.read_text()
    frozen = Ladder(make_experiment(), STORE, frozen=True)
    assert frozen.evaluate("prompt_optimized").loaded
    with pytest.raises(StoreError, match=r"'finetuned'.*never built before.*without --dspy-frozen"):
        frozen.build("finetuned")
    with pytest.raises(StoreError, match="'baseline' of experiment 'parity' on dev is not in the store"):
        frozen.evaluate("baseline")
    with pytest.raises(StoreError, match="changed: seed"):
        Ladder(make_experiment(seed=3), STORE, frozen=True).build("prompt_optimized")
    assert CALLS.read_text() == calls
    assert not Path("jobs.log").exists()


# --- handed-out programs --------------------------------------------------------------------------------------------


def test_a_handed_out_program_brings_its_lm_and_adapter() -> None:
    lm, other = scripted(), scripted(model="toy/other")
    used: list[str] = []

    class Noting(dspy.ChatAdapter):
        def format(self, signature: Any, demos: Any, inputs: Any) -> Any:
            used.append("noting")
            return super().format(signature, demos, inputs)

    ladder = Ladder(experiment(predict(), lm, adapter=Noting(use_json_adapter_fallback=False)), STORE)
    program = ladder.program("baseline")
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
    one.lm = None
    assert two.demos == []
    assert two.lm is not None
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


# --- interrupted evaluations ----------------------------------------------------------------------------------------


class StopAfter:
    """Progress that interrupts the session after so many examples."""

    def __init__(self, count: int) -> None:
        self.count = count

    def task(self, title: str, total: float | None = None, unit: str = "it") -> Any:
        import contextlib

        class Task:
            def advance(task, done: float, *, total: float | None = None, note: str = "") -> None:  # noqa: N805
                if done >= self.count:
                    raise KeyboardInterrupt

        return contextlib.nullcontext(Task())


def interrupt(lm: Any, after: int) -> list[Path]:
    import time

    answer = lm.engine.complete

    def unhurried(request: Any) -> Any:
        time.sleep(0.03)  # the interrupted thread has to keep up with the one that answers
        return answer(request)

    lm.engine.complete = unhurried
    with pytest.raises(KeyboardInterrupt):
        Ladder(experiment(predict(), lm, count=100), STORE, num_threads=1, progress=StopAfter(after)).evaluate(
            "baseline"
        )
    return list(STORE.rglob("*.partial.jsonl"))


def asked(lm: Any) -> list[str]:
    from tests.scripted import fields_of

    return sorted(fields_of(r.messages[-1].parts[0].text)["text"] for r in lm.engine.requests)


def finished_in(journal: Path) -> list[str]:
    return [json.loads(line)["id"] for line in journal.read_text().splitlines() if line.endswith("}")]


def test_an_interrupted_evaluation_goes_on_where_it_stopped() -> None:
    first = scripted()
    [journal] = interrupt(first, 4)
    finished = finished_in(journal)
    assert 4 <= len(finished) < 10
    second = scripted()
    result = Ladder(experiment(predict(), second, count=100), STORE).evaluate("baseline")
    assert len(second.engine.requests) == 10 - len(finished)
    done = {e.id for e in result.examples}
    assert set(finished) <= done
    assert result.n == 10
    assert result.score == 1.0
    assert not result.loaded
    assert list(STORE.rglob("*.partial.jsonl")) == []


def test_a_half_written_line_of_the_journal_is_ignored() -> None:
    [journal] = interrupt(scripted(), 4)
    lines = journal.read_text().splitlines()
    whole = [line for line in lines if line]
    journal.write_text("\n".join(whole[:2]) + "\n" + whole[2][:37])
    second = scripted()
    result = Ladder(experiment(predict(), second, count=100), STORE).evaluate("baseline")
    assert len(second.engine.requests) == 8
    assert (result.n, result.score) == (10, 1.0)


def test_a_twice_interrupted_evaluation_loses_nothing() -> None:
    [journal] = interrupt(scripted(), 2)
    journal.write_text(journal.read_text() + '{"id": "half')
    once = len(finished_in(journal))
    [journal] = interrupt(scripted(), once + 2)
    twice = len(finished_in(journal))
    assert twice >= once + 1
    last = scripted()
    Ladder(experiment(predict(), last, count=100), STORE).evaluate("baseline")
    assert len(last.engine.requests) == 10 - twice


def test_an_interrupted_evaluation_of_a_local_lm_starts_again() -> None:
    assert interrupt(scripted(model="local:toy"), 4) == []
    lm = scripted(model="local:toy")
    Ladder(experiment(predict(), lm, count=100), STORE).evaluate("baseline")
    assert len(lm.engine.requests) == 10


def test_what_failed_before_an_interruption_is_tried_again() -> None:
    def down(fields: Any, request: Any) -> str:
        raise RuntimeError("the provider is down")

    interrupt(scripted_lm(down, num_retries=0), 4)
    result = Ladder(experiment(predict(), scripted(), count=100), STORE).evaluate("baseline")
    assert result.errors == 0
    assert result.score == 1.0


# --- optimizers -----------------------------------------------------------------------------------------------------


def test_a_callable_is_an_optimizer() -> None:
    seen: list[Any] = []
    stages = [Stage("taught", writes("TAUGHT")), Stage("made", writes("MADE", seen=seen), teacher="taught")]
    lm = scripted()
    ladder = Ladder(experiment(predict(), lm, stages), STORE)
    assert instructions(ladder.build("made").program) == "MADE"
    [(student, trainset, teacher)] = seen
    assert student.lm is lm
    assert [e.text for e in trainset] == [str(n) for n in range(32)]
    assert instructions(teacher) == "TAUGHT"


def test_without_a_teacher_a_callable_gets_none() -> None:
    seen: list[Any] = []
    Ladder(experiment(predict(), scripted(), [Stage("made", writes("MADE", seen=seen))]), STORE).build("made")
    assert seen[0][2] is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: dspy.LabeledFewShot(k=3),
        lambda: dspy.BootstrapFewShot(metric=right, max_bootstrapped_demos=2),
        lambda: dspy.BootstrapFewShotWithRandomSearch(
            metric=right, num_candidate_programs=1, max_bootstrapped_demos=1, max_labeled_demos=1, num_threads=2
        ),
        lambda: dspy.BootstrapFinetune(metric=right, train_kwargs={"epochs": 1}),
    ],
)
def test_an_optimizer_that_has_run_has_the_key_it_had(make: Callable[[], Any]) -> None:
    optimizer = make()
    made = experiment(predict(), scripted(), [Stage("made", optimizer)])
    assert Ladder(made, STORE).build("made").record.status == "built"
    assert Ladder(made, STORE).build("made").record.status == "loaded", "its own object, after compiling"
    again = experiment(predict(), scripted(), [Stage("made", make())])
    assert Ladder(again, STORE).build("made").record.status == "loaded", "as the next session makes it"


def test_bootstrapped_demos_come_back_from_the_store() -> None:
    lm = scripted()
    made = experiment(predict(), lm, [Stage("made", dspy.BootstrapFewShot(metric=right, max_bootstrapped_demos=2))])
    built = Ladder(made, STORE).build("made").program
    loaded = Ladder(made, STORE).build("made").program
    assert len(built.demos) > 2
    assert program_state(built) == program_state(loaded)


def test_a_limited_session_is_filed_apart() -> None:
    stages = [Stage("made", dspy.LabeledFewShot(k=3))]
    full = Ladder(experiment(predict(), scripted(), stages), STORE)
    full.evaluate("made")
    few = Ladder(experiment(predict(), scripted(), stages), STORE, limit=2)
    assert few.evaluate("made").n == 2
    assert few.build("made").record.status == "built"
    assert few.record().limit == 2
    assert Ladder(experiment(predict(), scripted(), stages), STORE).evaluate("made").loaded


def test_an_optimizer_may_forget_the_lm() -> None:
    def forgetful(program: Any, *, trainset: Any, teacher: Any) -> Any:
        return dspy.Predict("text -> label")

    lm = scripted()
    ladder = Ladder(experiment(predict(), lm, [Stage("made", forgetful)]), STORE)
    assert ladder.build("made").program.lm is lm


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (lambda: None, "returned NoneType"),
        (lambda: "a program", "returned str"),
        (lambda: dspy.ChainOfThought("text -> label"), "predict"),
        (lambda: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_an_optimizer_that_returns_no_version_of_the_program(outcome: Callable[[], Any], words: str) -> None:
    def strange(program: Any, *, trainset: Any, teacher: Any) -> Any:
        return outcome()

    ladder = Ladder(experiment(predict(), scripted(), [Stage("strange", strange)]), STORE)
    with pytest.raises(BuildError, match=rf"stage 'strange'.*{words}"):
        ladder.build("strange")


def test_an_exception_in_a_teleprompter_names_stage_and_optimizer() -> None:
    class Broken(Teleprompter):
        def compile(self, student: Any, *, trainset: Any, teacher: Any = None) -> Any:
            raise RuntimeError("broke down")

    ladder = Ladder(experiment(predict(), scripted(), [Stage("broken", Broken())]), STORE)
    with pytest.raises(BuildError, match=r"stage 'broken': Broken failed: RuntimeError: broke down"):
        ladder.build("broken")


def test_arguments_that_an_optimizer_does_not_take() -> None:
    class Plain(Teleprompter):
        def compile(self, student: Any, *, trainset: Any) -> Any:
            return student

    stages = [Stage("taught", Plain(), teacher="baseline"), Stage("argued", Plain(), compile_args={"valset": []})]
    ladder = Ladder(experiment(predict(), scripted(), stages), STORE)
    with pytest.raises(ExperimentError, match="takes no teacher"):
        ladder.build("taught")
    with pytest.raises(ExperimentError, match="takes no valset; it takes trainset"):
        ladder.build("argued")


def test_an_lm_that_cannot_be_trained_is_found_before_any_call() -> None:
    lm = scripted()
    lm.provider.finetunable = False
    ladder = Ladder(experiment(predict(), lm, [Stage("tuned", dspy.BootstrapFinetune(metric=right))]), STORE)
    with pytest.raises(BuildError, match=r"'toy/scripted' cannot be fine-tuned"):
        ladder.build("tuned")
    assert lm.engine.requests == []


def test_an_adapter_that_cannot_write_rows_is_found_before_any_call() -> None:
    lm = scripted()
    stages = [Stage("tuned", dspy.BootstrapFinetune(metric=right))]
    ladder = Ladder(experiment(predict(), lm, stages, adapter=dspy.JSONAdapter()), STORE)
    with pytest.raises(BuildError, match=r"JSONAdapter cannot write training rows"):
        ladder.build("tuned")
    assert lm.engine.requests == []


def test_a_failed_training_names_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARITY_TRAINING", "fails")
    with pytest.raises(BuildError, match=r"stage 'finetuned': training failed.*out of luck"):
        Ladder(make_experiment(), STORE).build("finetuned")


def together(*, p: Any, w: Any = None, strategy: str = "p -> w") -> Stage:
    optimizer = dspy.BetterTogether(metric=right, p=p, w=w or dspy.BootstrapFinetune(metric=right))
    dev = numbers(200)[190:]
    return Stage("together", optimizer, compile_args={"strategy": strategy, "valset": dev})


class Prompting(Teleprompter):
    def compile(self, student: Any, *, trainset: Any, teacher: Any = None, **more: Any) -> Any:
        return writes("P", [{"text": "9", "label": "odd"}])(student, trainset=trainset, teacher=teacher)


class Failing(Teleprompter):
    def compile(self, student: Any, *, trainset: Any, teacher: Any = None, **more: Any) -> Any:
        raise RuntimeError("this step fails")


def better_rule(fields: Any, request: Any) -> str:
    """Half right as written; right with a demo; right when tuned."""
    even = int(fields["text"]) % 2 == 0
    able = "tuned" in request.model or len(request.messages) > 1
    return reply(label="even" if even and able else "odd")


@pytest.mark.filterwarnings("default")
def test_bettertogether_prompts_and_tunes() -> None:
    lm = scripted_lm(better_rule)
    ladder = Ladder(experiment(predict(), lm, [together(p=Prompting(), strategy="w -> p")]), STORE)
    built = ladder.build("together")
    assert built.program.lm.model == "toy/tuned-1"
    assert built.record.bootstrap.kept == 16
    assert ladder.evaluate("together").score == 1.0
    strategy = Ladder(experiment(predict(), lm, [together(p=Prompting(), strategy="w -> p")]), STORE).build("together")
    assert strategy.record.status == "loaded"
    assert strategy.record.strategy == built.record.strategy
    assert [(c.strategy, c.score) for c in built.record.strategy.candidates] == [("", 0.5), ("w", 1.0), ("w -> p", 1.0)]
    assert (built.record.strategy.won, built.record.strategy.score, built.record.strategy.trained) == ("w", 1.0, True)


@pytest.mark.filterwarnings("default")
def test_the_winner_of_bettertogether_may_have_untrained_weights() -> None:
    def spoilt(fields: Any, request: Any) -> str:
        return reply(label="neither") if "tuned" in request.model else better_rule(fields, request)

    ladder = Ladder(experiment(predict(), scripted_lm(spoilt), [together(p=Prompting())]), STORE)
    strategy = ladder.build("together").record.strategy
    assert (strategy.won, strategy.score, strategy.trained) == ("p", 1.0, False)
    assert len(ladder.build("together").record.training) == 1, "it was trained, and the result was not taken"


@pytest.mark.filterwarnings("default")
def test_without_a_validation_set_the_last_program_of_bettertogether_wins() -> None:
    optimizer = dspy.BetterTogether(metric=right, p=Prompting(), w=dspy.BootstrapFinetune(metric=right))
    stage = Stage("together", optimizer, compile_args={"strategy": "p -> w -> p", "valset_ratio": 0})
    built = Ladder(experiment(predict(), scripted_lm(better_rule), [stage]), STORE).build("together")
    assert (built.record.strategy.won, built.record.strategy.score) == ("p -> w -> p", None)
    assert built.record.strategy.trained
    assert len(built.program.demos) == 2


@pytest.mark.filterwarnings("default")
def test_after_a_training_the_prompt_step_asks_the_trained_model() -> None:
    asked: list[str] = []

    def rule(fields: Any, request: Any) -> str:
        if "text" not in fields:  # a proposal of instructions
            return "nothing"
        asked.append(request.model)
        return better_rule(fields, request)

    lm = scripted_lm(rule)
    with dspy.context(lm=lm):
        p = dspy.MIPROv2(metric=right, auto=None, num_candidates=3, max_bootstrapped_demos=1, max_labeled_demos=2)
    quick = dict.fromkeys([f"{what}_aware_proposer" for what in ("program", "data", "tip", "fewshot")], False)
    quick |= {"num_trials": 2, "minibatch": False}
    stage = together(p=p, strategy="w -> p")
    stage = dataclasses.replace(stage, compile_args={**stage.compile_args, "optimizer_compile_args": {"p": quick}})
    Ladder(experiment(predict(), lm, [stage]), STORE).build("together")
    trained = asked[asked.index("toy/tuned-1") :]
    assert set(trained) == {"toy/tuned-1"}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("strategy", ["p -> w", "w -> p"])
def test_a_failing_step_of_bettertogether_fails_the_stage(strategy: str) -> None:
    lm = scripted_lm(better_rule)
    ladder = Ladder(experiment(predict(), lm, [together(p=Failing(), strategy=strategy)]), STORE)
    with pytest.raises(BuildError, match=r"stage 'together'.*(swallowed|this step fails)"):
        ladder.build("together")
    assert not list((STORE / "stages").glob("*/together/*/current.json"))


# --- secrets --------------------------------------------------------------------------------------------------------

PLANTED = "sk-" + "planted-0123456789"
API_KEY = PLANTED


def judged_elsewhere(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(API_KEY) and right(example, prediction)


def leaks() -> list[str]:
    return [str(p) for p in STORE.rglob("*") if p.is_file() and PLANTED in p.read_text(encoding="utf-8")]


def build_on_openai(**settings: Any) -> None:
    lm = dspy.LM("openai/gpt-4o-mini", **settings)
    Ladder(experiment(predict(), lm, [Stage("prompted", writes("P"))]), STORE).build("prompted")


def test_the_store_holds_no_api_key() -> None:
    build_on_openai(api_key=PLANTED, headers={"Authorization": PLANTED})
    assert list(STORE.rglob("program.json"))
    assert leaks() == []


@pytest.mark.parametrize(
    "setting", [{"extra_headers": {"Authorization": PLANTED}}, {"extra_body": {"api_key": PLANTED}}]
)
def test_the_store_holds_no_secret_inside_an_lms_settings(setting: dict[str, Any]) -> None:
    build_on_openai(**setting)
    assert leaks() == []


@pytest.mark.parametrize(
    "place", ["train settings of the LM", "train settings of the optimizer", "constant of a metric"]
)
def test_the_store_holds_no_secret_of_a_training(place: str) -> None:
    secret = {"hub_token": PLANTED}
    lm = scripted(train_kwargs=secret if "LM" in place else {})
    optimizer = dspy.BootstrapFinetune(
        metric=judged_elsewhere if "metric" in place else right, train_kwargs=secret if "optimizer" in place else None
    )
    Ladder(experiment(predict(), lm, [Stage("tuned", optimizer)]), STORE).evaluate("tuned")
    assert leaks() == []
