"""What determines a stage, and the key that it is filed under."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dspy
from dspy.teleprompt.teleprompt import Teleprompter

from pytest_dspy_ft.evaluation.programs import adapter_of
from pytest_dspy_ft.experiment.experiment import Experiment
from pytest_dspy_ft.experiment.stage import Stage
from pytest_dspy_ft.finetune.settings import requires_training
from pytest_dspy_ft.fingerprint import canonical, digest_json, fingerprint, lm_identity

KEY_FORMAT = 1
"""Raised when what a key means changes, so that no build of an older meaning is taken for a new one."""


@dataclass(frozen=True)
class Recipe:
    """All that determines a stage, and the key it is filed under."""

    stage: Stage
    lm: Any
    """The LM the stage runs on (before training changes it)."""
    parts: Mapping[str, Any]
    """What the key is made of, part by part."""

    @property
    def key(self) -> str:
        """Hash of all parts: 32 hexadecimal digits."""
        return digest_json(self.part_digests)

    @property
    def part_digests(self) -> dict[str, str]:
        """Hash of each part: enough to say which one changed, and nothing a secret could be read from."""
        return {name: digest_json(part, length=16) for name, part in self.parts.items()}


def make_recipe(experiment: Experiment, stage: Stage, keys: Mapping[str, str], lms: Mapping[str, Any]) -> Recipe:
    """What determines a stage.

    Args:
        experiment: The experiment.
        stage: One of its stages.
        keys: Keys of the stages it needs, by name.
        lms: LMs of the stages it needs, by name.
    """
    lm = stage.lm or (lms[stage.start] if stage.needs else experiment.lm)
    parts: dict[str, Any] = {
        "format": KEY_FORMAT,
        "dspy": ".".join(dspy.__version__.split(".")[:2]),
        "program": fingerprint(experiment.program),
        "start": keys.get(stage.start) if stage.needs else None,
        "lm": lm_identity(lm),
        "own_lms": {n: lm_identity(p.lm) for n, p in experiment.program.named_predictors() if p.lm is not None},
        "adapter": fingerprint(adapter_of(experiment)),
    }
    if stage.optimizer is not None:
        optimizer = prepared(stage.optimizer, lm, experiment.ambient_lm)
        parts |= {
            "teacher": keys[stage.teacher] if stage.teacher else None,
            "optimizer": canonical(_without_noise(optimizer)),
            "compile_args": canonical(dict(stage.compile_args)),
            "train": experiment.dataset.fingerprint("train"),
            "accept": stage.accept,
            "seed": experiment.seed,
            "training": canonical(getattr(lm, "train_kwargs", {})) if requires_training(stage.optimizer) else None,
        }
    return Recipe(stage, lm, parts)


def prepared(optimizer: Any, lm: Any, ambient_lm: Any) -> Any:
    """A copy of an optimizer with the LMs it took from DSPy's configuration replaced by the stage's.

    ``MIPROv2`` binds whatever LM is configured when it is made; only LMs that were given to it explicitly are kept.

    Args:
        optimizer: A DSPy optimizer or a callable.
        lm: The stage's LM.
        ambient_lm: The LM that was configured when the optimizer was made, or None.
    """
    if not isinstance(optimizer, Teleprompter):
        return optimizer
    copied = copy.copy(optimizer)
    for name in ("task_model", "prompt_model"):
        if ambient_lm is not None and getattr(copied, name, None) is ambient_lm:
            setattr(copied, name, lm)
    if hasattr(copied, "optimizers"):
        copied.optimizers = {name: prepared(step, lm, ambient_lm) for name, step in copied.optimizers.items()}
    return copied


def _without_noise(optimizer: Any) -> Any:
    """The optimizer without the state that compiling leaves on it and without settings that change no result."""
    if not isinstance(optimizer, Teleprompter):
        return optimizer
    copied = copy.copy(optimizer)
    for name in ("num_threads", "rng", "prompt_model_total_calls", "total_calls", "verbose", "track_stats", "log_dir"):
        vars(copied).pop(name, None)
    if hasattr(copied, "optimizers"):
        copied.optimizers = {name: _without_noise(step) for name, step in copied.optimizers.items()}
    return copied
