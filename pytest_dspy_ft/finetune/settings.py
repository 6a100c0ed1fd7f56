"""How fine-tuning is set up: the settings of a stage, and those of an optimizer for each LM it trains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy

from pytest_dspy_ft.evaluation.run import Runtime
from pytest_dspy_ft.finetune.hosted.journal import TrainingJobContext
from pytest_dspy_ft.finetune.kept_collections import KeptCollections
from pytest_dspy_ft.finetune.launched.context import LaunchContext
from pytest_dspy_ft.finetune.trace_files import TraceFiles
from pytest_dspy_ft.progress import Progress


@dataclass(frozen=True)
class TraceFinetuneSettings:
    """How one stage is fine-tuned."""

    stage: str
    """Name of the stage, for messages."""
    teacher_name: str
    """Name of the stage whose program teaches."""
    accept: float | None
    """See :class:`~pytest_dspy_ft.Stage`."""
    minimum: int
    """How many traces must be kept, or nothing is trained."""
    trace_files: TraceFiles
    """Where the traces are written."""
    runtime: Runtime
    """LM, adapter and threads for collecting traces."""
    workspace: Path
    """Folder of the build; a provider on this machine trains into a folder below it."""
    seed: int
    """Seed of the training."""
    progress: Progress
    """Told how far it is."""
    launch: LaunchContext | None = None
    """Who trains models of this machine instead of this process; None: nobody."""
    collections: KeptCollections | None = None
    """The stage's traces, whatever its training settings; None where they depend on a training."""
    job_context: TrainingJobContext | None = None
    """The stage that hosted jobs are for, and their journal; None where no LM is trained elsewhere."""


def finetuners(optimizer: Any) -> list[Any]:
    """The optimizers that train weights: itself, or those of the steps it combines."""
    if isinstance(optimizer, dspy.BootstrapFinetune):
        return [optimizer]
    return [found for step in getattr(optimizer, "optimizers", {}).values() for found in finetuners(step)]


def requires_training(optimizer: Any) -> bool:
    """True where an optimizer trains weights, itself or in one of the steps it combines."""
    return bool(finetuners(optimizer))


def training_settings(lm: Any, optimizer: Any) -> dict[str, Any]:
    """How an optimizer trains an LM: the LM's own ``train_kwargs``, then the optimizer's."""
    settings = optimizer.train_kwargs
    if lm in settings:
        own = settings[lm]
    else:  # merely asking DSPy's defaultdict for an LM would change the optimizer
        default = getattr(settings, "default_factory", None)
        own = default() if default is not None else None
    return {**(getattr(lm, "train_kwargs", None) or {}), **(own or {})}  # a BaseLM of the user's has none
