"""DSPy's optimizers and their traps: LMs that happened to be configured, swallowed failures, strange results."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import dspy
import pytest
from dspy.teleprompt.teleprompt import Teleprompter

from pytest_dspy_ft import Ladder, Stage
from pytest_dspy_ft.errors import BuildError
from pytest_dspy_ft.ladder.optimizer_traps import with_stage_lm
from tests.ladder.helpers import STORE, predict, right, scripted, writes
from tests.scripted import experiment, numbers, reply, scripted_lm


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


def test_an_optimizer_may_forget_the_lm() -> None:
    def forgetful(program: Any, *, trainset: Any, teacher: Any) -> Any:
        return dspy.Predict("text -> label")

    lm = scripted()
    ladder = Ladder(experiment(predict(), lm, [Stage("made", forgetful)]), STORE)
    assert ladder.build("made").lms == {"self": lm}


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (lambda: None, "returned NoneType"),
        (lambda: "a program", "returned str"),
        (lambda: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_an_optimizer_that_returns_no_program(outcome: Callable[[], Any], words: str) -> None:
    def strange(program: Any, *, trainset: Any, teacher: Any) -> Any:
        return outcome()

    ladder = Ladder(experiment(predict(), scripted(), [Stage("strange", strange)]), STORE)
    with pytest.raises(BuildError, match=rf"stage 'strange'.*{words}"):
        ladder.build("strange")


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
