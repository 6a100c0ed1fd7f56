"""Launchers by name: ours, those of entry points, and any of the user's by ``module:factory``."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
from collections.abc import Callable
from typing import Any

from pytest_dspy_ft.errors import TrainingError
from pytest_dspy_ft.finetune.launched.protocol import Launcher
from pytest_dspy_ft.text import did_you_mean

HERE = "here"
GROUP = "pytest_dspy_ft.launchers"
CALLS = ("submit", "status", "fetch", "cancel")


def _torchrun(rest: str) -> Launcher:
    from pytest_dspy_ft.finetune.launched.torchrun import Torchrun

    return Torchrun.from_text(rest)


def _hf_jobs(rest: str) -> Launcher:
    from pytest_dspy_ft.finetune.launched.hf_jobs import HfJobs

    return HfJobs(rest)


def _skypilot(rest: str) -> Launcher:
    from pytest_dspy_ft.finetune.launched.skypilot import SkyPilot

    return SkyPilot(rest)


OURS: dict[str, Callable[[str], Launcher]] = {"torchrun": _torchrun, "hf-jobs": _hf_jobs, "skypilot": _skypilot}


def launcher_for(text: str) -> Launcher | None:
    """The launcher that ``--dspy-train`` names.

    Args:
        text: ``here``; ``torchrun[:N]``, ``hf-jobs:FLAVOR``, ``skypilot:TASK.yaml``; the name of an entry point in the
            group ``pytest_dspy_ft.launchers``, with ``:TEXT`` for what it is called with; or ``package.module:FACTORY``
            called without arguments.

    Returns:
        The launcher; None for ``here``, where models are trained in this process.

    Raises:
        TrainingError: There is none of this name, or it is no launcher.
    """
    launcher = _launcher_for(text)
    with contextlib.suppress(AttributeError):  # one that cannot be marked is named by itself
        launcher.named = text  # type: ignore[union-attr]
    return launcher


def _launcher_for(text: str) -> Launcher | None:
    name, colon, rest = text.strip().partition(":")
    if name == HERE and not colon:
        return None
    if name in OURS:
        return OURS[name](rest)
    points = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
    if name in points:
        factory = points[name].load()
        return _checked(text, factory(rest) if colon else factory())
    if colon and rest.isidentifier() and all(part.isidentifier() for part in name.split(".")):
        return _checked(text, _imported(text, name, rest)())
    choices = [HERE, *OURS, *points]
    raise TrainingError(
        f"{text!r} is no launcher{did_you_mean(name, choices)}: choose from {', '.join(choices)}, or name one of your "
        "own by its module and factory, such as mypackage.slurm:launcher"
    )


def _imported(text: str, module: str, factory: str) -> Any:
    try:
        return getattr(importlib.import_module(module), factory)
    except ModuleNotFoundError as error:
        raise TrainingError(
            f"{text!r}: {error}; the module must be importable: install it, or add its folder to pythonpath in the "
            "ini file"
        ) from None
    except AttributeError:
        raise TrainingError(f"{text!r}: the module {module} has no {factory}") from None


def _checked(text: str, launcher: Any) -> Launcher:
    """A launcher of somebody else's, if it has all that one needs."""
    lacking = [name for name in CALLS if not callable(getattr(launcher, name, None))]
    lacking += [name for name in ("name", "engine", "processes") if not hasattr(launcher, name)]
    if lacking:
        raise TrainingError(
            f"{text!r} gives a {type(launcher).__name__}, which is no launcher: it lacks {', '.join(lacking)}"
        )
    checked: Launcher = launcher
    return checked
