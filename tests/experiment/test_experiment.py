"""What ``--dspy-stage`` reaches, and declarations that contradict themselves."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

from pytest_dspy_ft import Stage
from pytest_dspy_ft.errors import ExperimentError
from pytest_dspy_ft.experiment.experiment import reachable
from tests.parity import make_experiment, right_label


def prompt(name: str, **more: Any) -> Stage:
    return Stage(name, dspy.LabeledFewShot(k=3), **more)


def tuned(name: str, **more: Any) -> Stage:
    return Stage(name, dspy.BootstrapFinetune(metric=right_label), **more)


LADDER = [
    prompt("prompted"),
    tuned("tuned", teacher="prompted"),
    prompt("on_top", start="tuned"),
    Stage("other_lm"),
    Stage("both", dspy.BetterTogether(metric=right_label, p=dspy.LabeledFewShot(), w=dspy.BootstrapFinetune())),
]
ALL = {"baseline", "prompted", "tuned", "on_top", "other_lm", "both"}


@pytest.mark.parametrize(
    ("selection", "stages"),
    [
        ([], {"baseline"}),
        (["baseline"], {"baseline", "other_lm"}),
        (["prompt"], {"baseline", "other_lm", "prompted"}),
        (["finetune"], {"baseline", "other_lm", "prompted", "tuned", "on_top"}),
        (["better_together"], ALL),
        (["all"], ALL),
        (["tuned"], {"baseline", "prompted", "tuned"}),
        (["on_top"], {"baseline", "prompted", "tuned", "on_top"}),
        (["both"], {"baseline", "both"}),
        (["both", "prompt"], {"baseline", "both", "prompted", "other_lm"}),
    ],
)
def test_what_a_selection_reaches(selection: list[str], stages: set[str]) -> None:
    assert reachable([make_experiment(stages=LADDER)], selection) == {"parity": stages}


def test_a_kind_of_which_there_is_no_stage_reaches_what_is_below() -> None:
    assert reachable([make_experiment(stages=[prompt("prompted")])], ["better_together"])["parity"] == {
        "baseline",
        "prompted",
    }


def test_a_name_that_one_experiment_knows_leaves_the_others_at_their_baseline() -> None:
    one, two = make_experiment("one", stages=[prompt("mine")]), make_experiment("two", stages=[prompt("yours")])
    assert reachable([one, two], ["yours"]) == {"one": {"baseline"}, "two": {"baseline", "yours"}}
    assert reachable([one, two], ["prompt"]) == {"one": {"baseline", "mine"}, "two": {"baseline", "yours"}}


def test_a_stage_called_like_a_kind_is_reached_by_it() -> None:
    made = make_experiment(stages=[tuned("prompt"), prompt("small")])
    assert reachable([made], ["prompt"])["parity"] == {"baseline", "prompt", "small"}


def test_a_name_that_no_experiment_knows_lists_the_choices() -> None:
    made = make_experiment(stages=LADDER)
    with pytest.raises(ExperimentError, match=r"no stage 'tunde'; did you mean 'tuned'\?.*prompted.*on_top"):
        reachable([made], ["prompt", "tunde"])
    with pytest.raises(ExperimentError, match=r"no stage 'zzz'.*baseline, prompt, finetune, better_together"):
        reachable([made], ["zzz"])


def test_without_experiments_a_kind_is_no_error() -> None:
    assert reachable([], ["finetune", "all"]) == {}
    with pytest.raises(ExperimentError):
        reachable([], ["tuned"])


@pytest.mark.parametrize(
    ("stage", "kind"),
    [
        (Stage("s"), "baseline"),
        (prompt("s"), "prompt"),
        (Stage("s", lambda program, *, trainset, teacher: program), "prompt"),
        (tuned("s"), "finetune"),
        (LADDER[-1], "better_together"),
        (prompt("s", kind="finetune"), "finetune"),
    ],
)
def test_the_kind_of_a_stage(stage: Stage, kind: str) -> None:
    assert stage.work == kind


def test_closure_is_in_an_order_that_can_be_built() -> None:
    stages = [tuned("d", start="b", teacher="c"), prompt("c", start="a"), prompt("b", start="a"), prompt("a")]
    made = make_experiment(stages=stages)
    order = made.closure("d")
    assert set(order) == {"baseline", "a", "b", "c", "d"}
    for name in order:
        assert all(order.index(needed) < order.index(name) for needed in made.stages[name].needs)


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        (lambda: [prompt("a"), prompt("a")], "two stages are named 'a'"),
        (lambda: [prompt("baseline")], "'baseline' is always there"),
        (lambda: [prompt("a", start="nowhere")], "start='nowhere', which is no stage"),
        (lambda: [prompt("prompted"), tuned("b", teacher="promted")], "did you mean 'prompted'"),
        (lambda: [prompt("a", start="b"), prompt("b", start="a")], "circle: a -> b -> a"),
        (lambda: [prompt("a", teacher="a")], "circle: a -> a"),
        (lambda: [prompt("two words")], "two_words"),
        (lambda: [prompt("class")], "identifier"),
        (lambda: [prompt("max")], "already means something"),
        (lambda: [Stage("a", dspy.LabeledFewShot)], "give an instance"),
        (lambda: [Stage("a", "mipro")], "not str"),
        (lambda: [tuned("a", accept=88)], r"outside \[0, 1\]"),
        (lambda: [Stage("a", lm="openai/gpt-4o")], "dspy.LM"),
        (lambda: [Stage("a", teacher="baseline")], "need an optimizer"),
        (lambda: [prompt("a", kind="finetuned")], "none of baseline"),
        (lambda: ["a"], "must hold Stage objects"),
    ],
)
def test_wrong_ladders(stages: Any, words: str) -> None:
    with pytest.raises(ExperimentError, match=words):
        make_experiment(stages=stages())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"program": "question -> answer"}, "must be a dspy.Module, not str"),
        ({"program": dspy.Module()}, "no predictor"),
        ({"metric": 1}, "callable"),
        ({"dataset": []}, "Dataset"),
        ({"lm": "local"}, "dspy_lm fixture"),
        ({"lm": None}, "not None"),
        ({"name": " "}, "name"),
    ],
)
def test_wrong_arguments(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ExperimentError, match=words):
        make_experiment(**change)


def test_a_limited_experiment_leaves_the_whole_one_alone() -> None:
    made = make_experiment()
    few = made.limited(3)
    assert few.dataset.sizes == {"train": 3, "dev": 3, "test": 3}
    assert made.dataset.sizes == {"train": 80, "dev": 10, "test": 10}
    assert few.stages == made.stages


def test_a_limit_also_cuts_the_examples_that_a_stage_hands_to_its_optimizer() -> None:
    made = make_experiment()
    train = made.dataset.train
    arguments = {"trainset": train, "valset": train[:6], "num_trials": 3, "names": ["a"] * 9}
    made = make_experiment(stages=[Stage("s", print, compile_args=arguments)])
    few = made.limited(4).stages["s"].compile_args
    assert few == {"trainset": train[:4], "valset": train[:4], "num_trials": 3, "names": ["a"] * 9}
    assert made.stages["s"].compile_args == arguments
