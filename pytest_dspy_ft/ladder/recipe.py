"""Recipes: all that determines a stage or an evaluation, and the keys that they are filed under."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from pytest_dspy_ft.evaluation.programs import adapter_of
from pytest_dspy_ft.experiment.experiment import Experiment
from pytest_dspy_ft.experiment.stage import Stage
from pytest_dspy_ft.finetune.launched.context import is_launchable
from pytest_dspy_ft.finetune.settings import requires_training
from pytest_dspy_ft.fingerprint import canonical, digest_json, fingerprint, lm_identity
from pytest_dspy_ft.fingerprint.versions import described_as_of
from pytest_dspy_ft.ladder.dspy_versions import FIRST, dspy_version, earlier_versions
from pytest_dspy_ft.ladder.optimizer_traps import copy_with_steps, with_stage_lm
from pytest_dspy_ft.records.base import Split

KEY_FORMAT = 1
"""Raised when what a key means changes, so that no build of an older meaning is taken for a new one."""

RUN_STATE = ("num_threads", "rng", "prompt_model_total_calls", "total_calls", "verbose", "track_stats", "log_dir")
"""Attributes that compiling leaves on an optimizer, and settings that change no result."""


@dataclass(frozen=True)
class Recipe:
    """All that determines a stage, and the key it is filed under."""

    stage: Stage
    lm: Any
    """The LM the stage runs on (before training changes it)."""
    parts: Mapping[str, Any]
    """The parts that the key is made of, by name."""
    collecting: Any = None
    """The optimizer without its training settings, where the stage trains weights."""

    @property
    def key(self) -> str:
        """Hash of all parts: 32 hexadecimal digits."""
        return digest_json(self.part_digests)

    @property
    def part_digests(self) -> dict[str, str]:
        """Hash of each part: enough to say which one changed, and nothing a secret could be read from."""
        return {name: digest_json(part, length=16) for name, part in self.parts.items()}

    @property
    def version(self) -> str:
        """The DSPy that it is of: ``3.4``."""
        return str(self.parts["dspy"])

    @property
    def traces_key(self) -> str:
        """Hash of all that traces depend on: of the key's parts, those that say nothing of training."""
        digests = {name: part for name, part in self.part_digests.items() if name not in _OF_TRAINING}
        return digest_json({**digests, "collecting": digest_json(self.collecting, length=16)})

    def changed_parts(self, digests: Mapping[str, str]) -> list[str]:
        """Names of the parts that are not what they were when a build kept these digests, in alphabetical order."""
        mine = self.part_digests
        return sorted(name for name in mine.keys() | digests.keys() if mine.get(name) != digests.get(name))


_METRIC, _FURTHER = "the metric", "further metrics"
"""Under which the metrics are described: no names of stages."""
_OF_TRAINING = frozenset({"optimizer", "training", "trained_by"})
"""Parts of a key that say how a model is trained, not what on."""
_COLLECTING = "collecting"
"""Of what is described of a stage, what is no part of its key."""

_declared: WeakKeyDictionary[Experiment, dict[str, dict[str, Any]]] = WeakKeyDictionary()
"""What experiments declared when their ladders were made: running may leave counters and caches on what is declared.

As each version of DSPy describes it that may have filed something.
"""


def describe_declaration(experiment: Experiment) -> None:
    """Describe all that an experiment declares as it is now: from here on its keys are made of this."""
    _declared.pop(experiment, None)
    _declared[experiment] = {}
    for version in (dspy_version(), *earlier_versions()):
        with described_as_of(version):
            _declared[experiment][version] = _describe(experiment)


def _describe(experiment: Experiment) -> dict[str, Any]:
    described: dict[str, Any] = {
        _METRIC: fingerprint(experiment.metric, with_lms=True),
        _FURTHER: {name: fingerprint(metric, with_lms=True) for name, metric in experiment.metrics.items()},
    }
    for name, stage in experiment.stages.items():
        try:
            described[name] = _parts(experiment, stage, stage_lm(experiment, stage))
        except Exception:  # an engine that cannot say what it is: said where the stage is asked for
            continue
    return described


def _described(experiment: Experiment, version: str) -> dict[str, Any]:
    """What an experiment declared, as a version of DSPy describes it; empty where no ladder was made of it."""
    declared = _declared.get(experiment, {})
    return declared.get(version) or declared.get(dspy_version()) or {}


def stage_lm(experiment: Experiment, stage: Stage) -> Any:
    """The LM a stage runs on: its own, or that of the stage it starts from."""
    while stage.lm is None and stage.needs:
        stage = experiment.stages[stage.start]
    return stage.lm or experiment.lm


def _parts(experiment: Experiment, stage: Stage, lm: Any) -> dict[str, Any]:
    """The parts of a stage's key that are not keys of other stages."""
    parts: dict[str, Any] = {
        "program": fingerprint(experiment.program),
        "lm": lm_identity(lm),
        "own_lms": {n: lm_identity(p.lm) for n, p in experiment.program.named_predictors() if p.lm is not None},
        "adapter": fingerprint(adapter_of(experiment)),
    }
    if stage.optimizer is not None:
        optimizer = with_stage_lm(stage.optimizer, lm, experiment.ambient_lm)
        parts |= {
            "optimizer": canonical(without_run_state(optimizer)),
            "compile_args": canonical(dict(stage.compile_args)),
            "train": experiment.dataset.fingerprint("train"),
            "accept": stage.accept,
            "seed": experiment.seed,
            **_judge_part(experiment),
            **_labels_part(experiment),
            "training": canonical(getattr(lm, "train_kwargs", {})) if requires_training(stage.optimizer) else None,
        }
        if requires_training(stage.optimizer):
            bare = copy_with_steps(without_run_state(optimizer), lambda copied: vars(copied).pop("train_kwargs", None))
            parts[_COLLECTING] = canonical(bare)
    return parts


def make_recipe(
    experiment: Experiment,
    stage: Stage,
    needed: Mapping[str, Recipe],
    *,
    version: str | None = None,
    trained_by: str | None = None,
) -> Recipe:
    """The recipe of a stage, found out without building or calling anything.

    Args:
        experiment: The experiment.
        stage: One of its stages.
        needed: Recipes of the stages it needs, by name.
        version: The DSPy that it is, or was, built with: ``3.4``; None for the one that is installed.
        trained_by: The engine that trains models of this machine; None where they are trained in this process.
    """
    version = version or dspy_version()
    start = needed[stage.start] if stage.needs else None
    lm = stage.lm or (start.lm if start is not None else experiment.lm)
    with described_as_of(version):
        described = _described(experiment, version).get(stage.name) or _parts(experiment, stage, lm)
    parts: dict[str, Any] = {
        "format": KEY_FORMAT,
        "dspy": version,
        "program": described["program"],
        "start": start.key if start is not None else None,
        **{name: described[name] for name in ("lm", "own_lms", "adapter")},
    }
    if stage.optimizer is not None:
        parts["teacher"] = needed[stage.teacher].key if stage.teacher else None
    parts |= {name: part for name, part in described.items() if name not in parts and name != _COLLECTING}
    if trained_by is not None and trains_local(experiment, stage, lm):
        parts["trained_by"] = trained_by
    return Recipe(stage, lm, parts, described.get(_COLLECTING))


def trains_local(experiment: Experiment, stage: Stage, lm: Any) -> bool:
    """True for a stage that trains a model of this machine, where a launcher may do so.

    Args:
        experiment: The experiment.
        stage: One of its stages.
        lm: The LM that the stage runs on.
    """
    lms = [predictor.lm or lm for predictor in experiment.program.predictors()]
    return requires_training(stage.optimizer) and any(map(is_launchable, lms))


def outputs_key(
    experiment: Experiment, subject: Mapping[str, str], on: Split, *, repeats: int = 1, server: Any = None
) -> str:
    """The key of what a stage or a program gives for the examples of a split, whatever any metric makes of it.

    Args:
        experiment: The experiment whose examples and adapter it is made with.
        subject: Keys and digests of the stage or the program that is run.
        on: The split.
        repeats: How many times each example is evaluated.
        server: Identity of the server that answers for models of this machine; None where they answer here.
    """
    return digest_json({**_run_parts(experiment, subject, on, repeats, server), "outputs": True})


def evaluation_key(
    experiment: Experiment,
    subject: Mapping[str, str],
    on: Split,
    *,
    repeats: int = 1,
    server: Any = None,
    version: str | None = None,
) -> str:
    """The key of an evaluation.

    Args:
        experiment: The experiment whose examples, metric and adapter it is made with.
        subject: Keys and digests of the stage or the program that is measured.
        on: The split.
        repeats: How many times each example is evaluated.
        server: Identity of the server that answers for models of this machine; None where they answer here.
        version: The DSPy that it is described as of; None for the one that is installed.
    """
    described = _described(experiment, version or dspy_version())
    metric = described.get(_METRIC) or fingerprint(experiment.metric, with_lms=True)
    return digest_json(
        {
            **_run_parts(experiment, subject, on, repeats, server),
            **_judge_part(experiment),
            **_labels_part(experiment),
            "metric": metric,
        }
    )


def metric_keys(experiment: Experiment) -> dict[str, str]:
    """What the scores of each further metric are filed under, beside the evaluation that they score, by its name."""
    with described_as_of(FIRST):  # scores go with outputs of any version
        described = _described(experiment, FIRST).get(_FURTHER) or {
            name: fingerprint(metric, with_lms=True) for name, metric in experiment.metrics.items()
        }
        further = {**_judge_part(experiment), **_labels_part(experiment)}
        return {name: digest_json({"metric": m, **further}, length=16) for name, m in described.items()}


def _run_parts(
    experiment: Experiment, subject: Mapping[str, str], on: Split, repeats: int, server: Any
) -> dict[str, Any]:
    """What determines the answers of a program to the examples of a split."""
    return {
        **({"repeats": repeats} if repeats > 1 else {}),
        "format": KEY_FORMAT,
        "what": dict(subject),
        "examples": experiment.dataset.fingerprint(on),
        "adapter": fingerprint(adapter_of(experiment)),
        **({} if server is None else {"served": server}),
    }


def _judge_part(experiment: Experiment) -> dict[str, Any]:
    return {} if experiment.judge_lm is None else {"judge": lm_identity(experiment.judge_lm)}


def _labels_part(experiment: Experiment) -> dict[str, Any]:
    """What labels were read as, where that changed any: a metric and demos see other values than in the data."""
    typed = experiment.dataset.label_types
    return {"labels": dict(typed)} if typed else {}


def without_run_state(optimizer: Any) -> Any:
    """A copy of an optimizer that has the key it had before it ran, whatever it is told that changes no result."""

    def drop(copied: Any) -> None:
        for name in RUN_STATE:
            vars(copied).pop(name, None)

    return copy_with_steps(optimizer, drop)
