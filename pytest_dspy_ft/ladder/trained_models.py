"""The models that a build was trained to: kept with it, and attached to its program."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_dspy_ft.finetune.hosted.answering import result_lm
from pytest_dspy_ft.finetune.hosted.endpoints import Endpoints
from pytest_dspy_ft.ladder.compile import Compiled

MODEL_AFFIX = "+"


def keep_adapters(compiled: Compiled, workspace: Path) -> dict[str, dict[str, Any]]:
    """Bring the trained weights that the program uses into the build, and drop what else training left.

    Returns:
        For each predictor with another model: ``{"model": ..., "adapter": folder below the build}`` (no ``adapter``
        where the model lives elsewhere), and how that one answers, where its name does not tell it.
    """
    kept: dict[str, dict[str, Any]] = {}
    for name, model in compiled.models.items():
        kept[name] = {"model": model, **compiled.kept.get(model, {})}
        if (source := compiled.folders.get(model)) is not None:
            adapter = model.partition(MODEL_AFFIX)[2]
            target = workspace / "adapters" / adapter
            if not target.exists():
                shutil.copytree(source, target)
            kept[name]["adapter"] = f"adapters/{adapter}"
    training = workspace / "training"
    if training.exists():
        shutil.rmtree(training)
    return kept


def attach_models(
    program: Any,
    lm: Any,
    models: Mapping[str, Mapping[str, Any]],
    folder: Path | None,
    endpoints: Endpoints | None = None,
) -> None:
    """Put a program on the models its build was trained to: the LM it has, with another model's name.

    Args:
        program: A program with the LMs of its stage's start.
        lm: The LM of predictors without one of their own.
        models: From :func:`keep_adapters`.
        folder: Folder of the build; None where no weights are to be loaded.
        endpoints: Starts what has to be started for a model to answer; None where none is to be asked.
    """
    shared: dict[tuple[int, str], Any] = {}  # predictors of one LM and one model go on sharing it
    for name, predictor in program.named_predictors():
        if (entry := models.get(name)) is None:
            continue
        model, untrained = entry["model"], predictor.lm or lm
        if folder is not None and "adapter" in entry:
            untrained.engine.add_adapter(model.partition(MODEL_AFFIX)[2], folder / entry["adapter"])
        predictor.lm = shared.setdefault((id(untrained), model), result_lm(untrained, model, entry, endpoints))
