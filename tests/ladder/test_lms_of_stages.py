"""Whose LM answers while a stage is built, and in stages that stand on others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Ladder, Stage
from pytest_dspy_ft.errors import ExperimentError
from tests.ladder.helpers import STORE, parity_rule, predict, right, scripted
from tests.scripted import experiment, jobs_of, numbers, reply, scripted_lm

pytestmark = pytest.mark.filterwarnings("default")


def unable(fields: Any, request: Any) -> str:
    """Right only where it is shown demos; it writes instructions where it is asked for some."""
    if "text" not in fields:
        return reply(
            proposed_instruction="Tell even from odd.",
            observations="o",
            summary="s",
            program_description="d",
            module_description="m",
            proposed_prefix_for_output_field="Label:",
        )
    able = len(request.messages) > 1
    return reply(label=("even" if int(fields["text"]) % 2 == 0 else "odd") if able else "?")


def weak(name: str = "weak") -> Any:
    return scripted_lm(unable, model=f"toy/{name}")


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    dspy.configure(lm=None, adapter=None)


def calls(*lms: Any) -> list[int]:
    return [len(lm.engine.requests) for lm in lms]


class Escalates(dspy.Module):
    """Answers with an LM that it switches to by itself."""

    def __init__(self, strong: Any) -> None:
        super().__init__()
        self.ask = predict()
        self.lms = {"strong": strong}

    def forward(self, text: str) -> Any:
        with dspy.context(lm=self.lms["strong"]):
            return self.ask(text=text)


class Asynchronous(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = predict()

    async def aforward(self, text: str) -> Any:
        await asyncio.sleep(0)
        return await dspy.asyncify(self.ask)(text=text)


class Awaited:
    """An engine that is awaited, and answers as another one does."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    async def complete(self, request: Any) -> Any:
        return self.engine.complete(request)


def few(**settings: Any) -> Any:
    return dspy.BootstrapFewShot(metric=right, max_bootstrapped_demos=2, max_labeled_demos=0, **settings)


def search(**settings: Any) -> Any:
    sizes = {"max_bootstrapped_demos": 2, "max_labeled_demos": 0, "num_candidate_programs": 1}
    return dspy.BootstrapFewShotWithRandomSearch(metric=right, **sizes, **settings)


def mipro(**settings: Any) -> Any:
    sizes = {"auto": None, "num_candidates": 3, "max_bootstrapped_demos": 2, "max_labeled_demos": 0}
    return dspy.MIPROv2(metric=right, **sizes, **settings)


QUICK = {"num_trials": 2, "minibatch": False, "valset": numbers(60)[50:]}
QUICK |= dict.fromkeys([f"{what}_aware_proposer" for what in ("program", "data", "tip", "fewshot")], False)


@pytest.mark.parametrize(("make", "args"), [(few, {}), (search, {}), (mipro, QUICK)])
def test_teacher_settings_say_who_teaches(make: Callable[..., Any], args: dict[str, Any]) -> None:
    student, strong = weak(), scripted(model="toy/strong")
    with dspy.context(lm=weak("ambient")):
        optimizer = make(teacher_settings={"lm": strong})
    made = experiment(predict(), student, [Stage("shown", optimizer, compile_args=args)])
    ladder = Ladder(made, STORE)
    assert len(ladder.build("shown").program.demos) == 2
    assert ladder.evaluate("shown").score == 1.0
    assert calls(strong)[0] > 0
    assert Ladder(made, STORE).build("shown").record.status == "loaded"


@pytest.mark.parametrize("same", [True, False])
def test_a_teacher_stage_has_its_own_lm_whatever_the_settings_say(same: bool) -> None:
    asked: list[str] = []

    def rule(fields: Any, request: Any) -> str:  # DSPy copies the LMs that are on a teacher's predictors
        asked.append(request.model)
        return parity_rule(fields, request)

    student, big, strong = (scripted_lm(rule, model=f"toy/{name}") for name in ("student", "big", "strong"))
    teacher = Stage("teacher", lm=None if same else big)
    stages = [teacher, Stage("shown", few(teacher_settings={"lm": strong}), teacher="teacher")]
    Ladder(experiment(predict(), student, stages), STORE).build("shown")
    # On the student's LM it has none of its own, as in plain DSPy, so that the settings count.
    assert asked == ["toy/strong" if same else "toy/big"] * 2


def test_traces_are_collected_of_whom_the_program_asks() -> None:
    student, strong = weak(), scripted(model="toy/strong")
    alone = dspy.BootstrapFinetune(metric=right)
    both = dspy.BetterTogether(metric=right, p=few(), w=dspy.BootstrapFinetune(metric=right))
    args = {"strategy": "w", "valset_ratio": 0}
    stages = [Stage("tuned", alone), Stage("both", both, compile_args=args)]
    ladder = Ladder(experiment(Escalates(strong), student, stages), STORE)
    for done, name in enumerate(("tuned", "both"), 1):
        built = ladder.build(name)
        assert built.record.bootstrap.kept == 32
        assert calls(student, strong) == [0, 32 * done]
        assert [model for model, _, _ in jobs_of(student)] == ["toy/weak"] * done, "the stage's LM is trained"
        assert built.program.ask.lm.model == f"toy/tuned-{done}"
    assert jobs_of(strong) == []


def test_stages_on_other_lms_stand_on_one_another() -> None:
    base, big, small = scripted(model="toy/base"), scripted(model="toy/big"), scripted(model="toy/small")
    stages = [
        Stage("big", lm=big),
        Stage("big_shown", few(), start="big"),
        Stage("tuned", dspy.BootstrapFinetune(metric=right), teacher="big_shown"),
        Stage("tuned_shown", few(), start="tuned"),
        Stage("small", start="tuned_shown", lm=small),
    ]
    made = experiment(predict(), base, stages)
    for status in ("built", "loaded"):
        ladder = Ladder(made, STORE)
        answering = {name: ladder.build(name).lms["self"].model for name in made.stages}
        assert answering == {
            "baseline": "toy/base",
            "big": "toy/big",
            "big_shown": "toy/big",
            "tuned": "toy/tuned-1",
            "tuned_shown": "toy/tuned-1",
            "small": "toy/small",
        }
        assert {ladder.build(name).record.status for name in made.stages} == {status}
        before = calls(small)[0]
        assert ladder.program("small")(text="2").label == "even"
        assert calls(small)[0] == before + 1


def test_a_stages_lm_that_reaches_no_predictor_is_an_error() -> None:
    program = Escalates(weak())
    program.set_lm(scripted(model="toy/own"))
    with pytest.raises(ExperimentError, match=r"'big' has lm='toy/big', which reaches no predictor.*ask \(toy/own"):
        experiment(program, scripted(), [Stage("big", lm=scripted(model="toy/big"))])
    experiment(program, scripted(), [Stage("shown", few())])


def test_a_stages_lm_that_nothing_asks_is_an_error() -> None:
    strong, big = scripted(model="toy/strong"), scripted(model="toy/big")
    ladder = Ladder(experiment(Escalates(strong), weak(), [Stage("big", lm=big)]), STORE)
    assert ladder.evaluate("baseline").score == 1.0
    for _ in range(2):
        with pytest.raises(ExperimentError, match=r"stage 'big' runs on lm='toy/big', which answered none of its 4 LM"):
            ladder.evaluate("big")
        ladder = Ladder(experiment(Escalates(strong), weak(), [Stage("big", lm=big)]), STORE)
    assert calls(strong, big) == [8, 0], "it is found in the store too"


def test_miprov2_asks_the_models_it_was_given() -> None:
    student, prompts, task = weak(), weak("prompts"), scripted(model="toy/task")
    optimizer = mipro(prompt_model=prompts, task_model=task)
    Ladder(experiment(predict(), student, [Stage("shown", optimizer, compile_args=QUICK)]), STORE).build("shown")
    assert calls(student) == [0]
    assert calls(prompts)[0] > 0
    assert calls(task)[0] > 0


def test_copro_asks_its_prompt_model() -> None:
    student, prompts = scripted(model="toy/student"), weak("prompts")
    optimizer = dspy.COPRO(metric=right, prompt_model=prompts, breadth=2, depth=1)
    stage = Stage("prompted", optimizer, compile_args={"eval_kwargs": {"num_threads": 1, "display_progress": False}})
    Ladder(experiment(predict(), student, [stage]), STORE).build("prompted")
    assert calls(prompts)[0] > 0
    assert all("label" in str(request.messages[-1]) for request in student.engine.requests)


def test_gepa_reflects_with_its_own_lm_and_its_metric_asks_the_judge() -> None:
    pytest.importorskip("gepa")

    def judged(gold: Any, pred: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None) -> Any:
        verdict = dspy.Predict("text, answer -> verdict: bool")(text=gold.text, answer=pred.label).verdict
        return dspy.Prediction(score=float(verdict), feedback="no")

    student, judge = scripted(), scripted_lm(lambda f, r: reply(verdict=False), model="toy/judge")
    reflecting = scripted_lm(lambda f, r: "```\nTell even from odd.\n```", model="toy/reflecting")
    optimizer = dspy.GEPA(metric=judged, reflection_lm=reflecting, max_metric_calls=80, num_threads=1)
    made = experiment(predict(), student, [Stage("evolved", optimizer)], judge_lm=judge)
    record = Ladder(made, STORE).build("evolved").record
    assert calls(reflecting)[0] > 0
    assert calls(judge)[0] == record.judge.lm_calls > 0
    assert record.usage.lm_calls == sum(calls(student, reflecting))


def test_simba_samples_the_stages_lm() -> None:
    student = scripted(model="toy/student")
    optimizer = dspy.SIMBA(metric=right, bsize=4, num_candidates=2, max_steps=1, max_demos=2, num_threads=1)
    Ladder(experiment(predict(), student, [Stage("steep", optimizer)]), STORE).build("steep")
    assert {request.config.temperature for request in student.engine.requests} >= {1.0}


def test_a_program_that_can_only_be_awaited_is_measured_and_optimized() -> None:
    lm = scripted()
    stages = [Stage("shown", few()), Stage("tuned", dspy.BootstrapFinetune(metric=right))]
    ladder = Ladder(experiment(Asynchronous(), lm, stages), STORE)
    assert (ladder.evaluate("baseline").score, ladder.evaluate("baseline").usage.lm_calls) == (1.0, 4)
    assert len(ladder.build("shown").program.ask.demos) == 2
    assert ladder.build("tuned").record.bootstrap.kept == 32
    assert asyncio.run(ladder.program("tuned").acall(text="3")).label == "odd"
    assert lm.engine.models[-1] == "toy/tuned-1"


def test_handed_out_programs_bring_their_lm_into_other_programs() -> None:
    base, big = scripted(model="toy/base"), scripted(model="toy/big")
    ladder = Ladder(experiment(predict(), base, [Stage("big", lm=big)]), STORE)

    class Twice(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = ladder.program("big"), predict()

        def forward(self, text: str) -> Any:
            self.first(text=text)
            return self.second(text=text)

    result = ladder.evaluate(Twice())
    assert (result.score, result.usage.lm_calls) == (1.0, 8)
    assert calls(base, big) == [4, 4]
    assert ladder.evaluate(ladder.program("big")).lm == "toy/big"
    assert calls(base, big) == [4, 8]
    assert dspy.BestOfN(ladder.program("big"), N=2, reward_fn=lambda *a: 1.0, threshold=1.0)(text="2").label == "even"
    assert calls(base, big) == [4, 9]


def test_a_handed_out_program_asks_its_lm_from_any_thread() -> None:
    awaited = Awaited(None)
    lm = scripted(async_engine=awaited)
    awaited.engine = lm.engine
    program = Ladder(experiment(predict(), lm), STORE).program("baseline")
    pairs = [(program, {"text": str(n)}) for n in range(4)]
    answers = dspy.Parallel(num_threads=2, disable_progress_bar=True)(pairs)
    answers += [program.forward(text="4"), asyncio.run(program.acall(text="5"))]
    answers += [program.deepcopy()(text="6"), asyncio.run(dspy.asyncify(program)(text="7"))]
    assert [answer.label for answer in answers] == ["even", "odd"] * 4
    assert program.get_lm() is lm


def test_repeats_ask_every_lm_for_another_sample() -> None:
    class Two(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cool, self.warm = dspy.Predict("text -> label", temperature=0.0), predict()

        def forward(self, text: str) -> Any:
            self.cool(text=text)
            return self.warm(text=text)

    lm = scripted(temperature=0.9, seed=7)
    result = Ladder(experiment(Two(), lm), STORE, repeats=2, num_threads=1).evaluate("baseline")
    assert (result.repeats, calls(lm)) == (2, [16])
    asked = {(request.config.temperature, request.config.seed) for request in lm.engine.requests}
    assert asked == {(0.0, 7), (0.9, 7), (0.0, 8), (0.9, 8)}


def test_an_adapter_that_was_configured_is_the_experiments() -> None:
    json_lm = scripted_lm(lambda fields, request: '{"label": "even"}')
    dspy.configure(adapter=dspy.JSONAdapter())
    made = experiment(predict(), json_lm, adapter=None)
    dspy.configure(adapter=None)
    other = experiment(predict(), scripted(), adapter=None)
    assert Ladder(made, STORE).evaluate("baseline").unparsed == 0
    dspy.configure(adapter=dspy.JSONAdapter())
    ladder = Ladder(other, STORE)
    assert ladder.evaluate("baseline").score == 1.0, "the one that was there when it was declared"
    assert any("JSONAdapter" in said and "adapter=" in said for said in ladder.record().cautions)


def test_an_experiments_key_holds_its_judge_only_where_it_names_one() -> None:
    plain = experiment(predict(), scripted(), [Stage("shown", few())])
    judging = experiment(predict(), scripted(), [Stage("shown", few())], judge_lm=scripted(model="toy/judge"))
    parts = [Ladder(made, STORE).recipe("shown").parts for made in (plain, judging)]
    assert ["judge" in part for part in parts] == [False, True]
