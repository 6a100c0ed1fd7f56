"""Declarations whose keys are frozen: one experiment for each thing that goes into a key.

What a key is made of includes the source of everything here: a change of it, other than of comments, changes keys.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy

from pytest_dspy_ft import Dataset, Experiment, LabeledFinetune, Ladder, Stage, resolve_lm
from tests.golden.world import Labels, Program, first_two, make_experiment, right_label, rows

STRICT = {"bar": 0.5, "words": ("even", "odd")}


class Judged(dspy.Signature):
    """Judge an answer."""

    text: str = dspy.InputField(desc="the number")
    label: str = dspy.InputField()
    verdict: bool = dspy.OutputField(desc="true where the label fits")


def plain(text: str) -> str:
    return text.strip().lower()


def look_up(number: int) -> str:
    """Looks a number up."""
    return plain(str(number))


class Nested(dspy.Module):
    """Predictors at two depths, one with demos and one with settings, and a helper."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Program()
        self.judges = [dspy.ChainOfThought(Judged), dspy.Predict(Judged, temperature=0.5)]
        self.first.predict.demos = [dspy.Example(text="2", label="even")]

    def forward(self, text: str) -> Any:
        label = self.first(text=plain(text)).label
        return self.judges[0](text=text, label=label)


class Agent(dspy.Module):
    """ReAct with a tool."""

    def __init__(self) -> None:
        super().__init__()
        self.act = dspy.ReAct("question -> answer", tools=[look_up], max_iters=3)

    def forward(self, question: str) -> Any:
        return self.act(question=question)


def within(example: Any, prediction: Any, trace: Any = None, *, bar: float = 0.1) -> float:
    return float(plain(prediction.label) in STRICT["words"]) * bar


def stricter(limit: int) -> Callable[..., bool]:
    def metric(example: Any, prediction: Any, trace: Any = None) -> bool:
        return prediction.label == example.label and limit > 0

    return metric


class Weighed:
    """A metric with a state."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, example: Any, prediction: Any, trace: Any = None) -> float:
        return self.weight * (prediction.label == example.label)


METRICS: dict[str, Any] = {
    "function": right_label,
    "closure": stricter(3),
    "partial": functools.partial(within, bar=0.5),
    "object": Weighed(0.5),
    "lambda": lambda example, prediction, trace=None: prediction.label == example.label,
}
PROGRAMS: dict[str, Callable[[], Any]] = {
    "predict": lambda: dspy.Predict(Labels),
    "module": Program,
    "nested": Nested,
    "agent": Agent,
}
LMS: dict[str, Callable[[], Any]] = {
    "hosted": lambda: dspy.LM("openai/gpt-4o-mini"),
    "settings": lambda: dspy.LM("openai/gpt-4o-mini", temperature=0.7, max_tokens=99, api_key="secret", cache=False),
}


def tuned() -> list[Stage]:
    return [
        Stage("trained", dspy.BootstrapFinetune(metric=right_label, train_kwargs={"epochs": 2, "lora": {"r": 4}})),
        Stage("labelled", LabeledFinetune(metric=right_label, train_kwargs={"epochs": 2})),
    ]


def stages() -> list[Stage]:
    few = dspy.BootstrapFewShot(metric=right_label, max_bootstrapped_demos=2, max_labeled_demos=2)
    finetune = dspy.BootstrapFinetune(metric=right_label)
    return [
        Stage("few", few),
        Stage("labelled_few", dspy.LabeledFewShot(k=2), start="few", compile_args={"sample": False}),
        Stage("mipro", dspy.MIPROv2(metric=right_label, auto="light"), compile_args={"minibatch": False}),
        Stage("by_hand", first_two),
        Stage("by_partial", functools.partial(first_two)),
        Stage("finetuned", finetune, teacher="few", accept=0.5, min_traces=3),
        *tuned(),
        Stage(
            "together", dspy.BetterTogether(metric=right_label, p=few, w=finetune), compile_args={"strategy": "p->w"}
        ),
        Stage("elsewhere", lm=dspy.LM("openai/gpt-4o", temperature=0.0)),
    ]


def experiments() -> dict[str, Experiment]:
    """All declarations, by name; none of them calls anything."""
    with dspy.context(lm=dspy.LM("openai/gpt-4o", temperature=1.0)):  # optimizers bind it; a stage puts its own there
        found = {"stages": make_experiment(stages=stages()), "seed": make_experiment(stages=stages(), seed=7)}
    found["world"] = make_experiment()
    found |= {f"program_{name}": make_experiment(program=make(), stages=[]) for name, make in PROGRAMS.items()}
    found |= {f"lm_{name}": make_experiment(lm=make(), stages=tuned()) for name, make in LMS.items()}
    found["adapter_default"] = make_experiment(adapter=None, stages=[])
    found["adapter_json"] = make_experiment(adapter=dspy.JSONAdapter(), stages=[])
    own = Program()
    own.predict.lm = LMS["settings"]()
    found["own_lm"] = make_experiment(program=own, stages=[])
    return found


def recipes(experiment: Experiment) -> dict[str, Any]:
    """The key of every stage, and the digest of each part that it is made of."""
    ladder = Ladder(experiment, "nowhere")
    made = {name: ladder.recipe(name) for name in experiment.stages}
    return {name: {"key": recipe.key, "parts": dict(recipe.part_digests)} for name, recipe in made.items()}


def evaluations(store: Path) -> dict[str, str]:
    """The key of an evaluation for every kind of metric, and for another adapter and split."""
    few = Dataset(train=rows(range(4)), dev=rows(range(60, 63)), test=rows(range(80, 82)))
    made = {f"metric_{name}": make_experiment(dataset=few, metric=metric) for name, metric in METRICS.items()}
    made["adapter"] = make_experiment(dataset=few, adapter=dspy.ChatAdapter())
    keys = {}
    for name, experiment in made.items():
        ladder = Ladder(experiment, store / name, num_threads=1)
        keys |= {f"{name}/{stage}": ladder.evaluate(stage).key for stage in ("baseline", "by_hand")}
    keys["test"] = Ladder(made["adapter"], store / "test", num_threads=1).evaluate("baseline", on="test").key
    return keys


def snapshot(store: Path) -> dict[str, Any]:
    """All keys of today."""
    return {
        "recipes": {name: recipes(experiment) for name, experiment in experiments().items()},
        "evaluations": evaluations(store),
    }


def local_snapshot() -> dict[str, Any]:
    """The keys of stages on the embedded model, which need its weights' identity."""
    return recipes(make_experiment(lm=resolve_lm("local"), stages=tuned()))
