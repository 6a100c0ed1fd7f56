"""The models that a build was trained to: kept with it, and attached to its program."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_dspy_ft.ladder.compile import Compiled

MODEL_AFFIX = "+"


def keep_adapters(compiled: Compiled, workspace: Path) -> dict[str, dict[str, str]]:
    """Bring the trained weights that the program uses into the build, and drop what else training left.

    Returns:
        For each predictor with another model: ``{"model": ..., "adapter": folder below the build}`` (no ``adapter``
        where the model lives elsewhere).
    """
    kept: dict[str, dict[str, str]] = {}
    for name, model in compiled.models.items():
        kept[name] = {"model": model}
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


def attach_models(program: Any, lm: Any, models: Mapping[str, Mapping[str, str]], folder: Path | None) -> None:
    """Put a program on the models its build was trained to: the LM it has, with another model's name.

    Args:
        program: A program with the LMs of its stage's start.
        lm: The LM of predictors without one of their own.
        models: From :func:`keep_adapters`.
        folder: Folder of the build; None where no weights are to be loaded.
    """
    shared: dict[tuple[int, str], Any] = {}  # predictors of one LM and one model go on sharing it
    for name, predictor in program.named_predictors():
        if (entry := models.get(name)) is None:
            continue
        model, untrained = entry["model"], predictor.lm or lm
        if folder is not None and "adapter" in entry:
            untrained.engine.add_adapter(model.partition(MODEL_AFFIX)[2], folder / entry["adapter"])
        predictor.lm = shared.setdefault((id(untrained), model), untrained.copy(model=model))
