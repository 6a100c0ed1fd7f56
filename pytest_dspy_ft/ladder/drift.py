"""Which evaluations may come out otherwise today though nothing here changed: those that an LM elsewhere answers."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable
from types import CellType, FunctionType, MethodType
from typing import Any

import dspy

from pytest_dspy_ft.constants import MODEL_PREFIX
from pytest_dspy_ft.experiment.experiment import Experiment
from pytest_dspy_ft.fingerprint import is_user_code
from pytest_dspy_ft.lms.calls import active_recorder
from pytest_dspy_ft.lms.resolve import is_local, may_change
from pytest_dspy_ft.records.base import Split
from pytest_dspy_ft.records.evaluation import StageResult

_DEPTH = 4


def answering_lms(experiment: Experiment, stage: str) -> list[Any]:
    """The LMs that answer when a stage is evaluated, as far as they are declared."""
    name, lm = stage, None
    while lm is None and name != "baseline":
        lm, name = experiment.stages[name].lm, experiment.stages[name].start
    lms = [lm or experiment.lm, *judging_lms(experiment)]
    lms += [predictor.lm for predictor in experiment.program.predictors()]
    return [lm for lm in lms if lm is not None]


def judging_lms(experiment: Experiment) -> list[Any]:
    """The LMs that the metrics ask, as far as they are declared, or stand in their closures, globals or objects."""
    found = [getattr(experiment, "judge_lm", None)]
    todo, seen = [(metric, 0) for metric in (experiment.metric, *experiment.metrics.values())], set()
    while todo:
        value, depth = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dspy.BaseLM):
            found.append(value)
        elif isinstance(value, dspy.Module):
            found += [predictor.lm for predictor in value.predictors()]
        elif depth < _DEPTH:
            todo += [(inner, depth + 1) for inner in _reached(value)]
    return [lm for lm in found if lm is not None]


def _reached(value: Any) -> list[Any]:
    """What a function or an object of the user's can reach without looking anything up."""
    if isinstance(value, MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if cell != CellType()]
        names = [name for name in value.__code__.co_names if name in value.__globals__]
        return [*cells, *(value.__globals__[name] for name in names), *(value.__defaults__ or ())]
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if is_user_code(type(value)) and hasattr(value, "__dict__"):
        called = vars(type(value)).get("__call__")
        return [*vars(value).values(), called]
    return []


def may_drift(lms: Iterable[Any], stored: StageResult | None = None, *, served: bool = False) -> bool:
    """True where an evaluation made anew may differ from one in the store.

    Args:
        lms: The LMs that answer, as far as they are known.
        stored: What the store has: it says which models did answer, also those that no declaration shows.
        served: A server answers for the models of this machine.
    """
    known = list(lms)
    if any(may_change(lm) or (served and is_local(lm)) for lm in known):
        return True
    steady = {str(lm.model) for lm in known}
    answered = stored.usage.models if stored is not None else {}
    return any(model not in steady and not model.startswith(MODEL_PREFIX) for model in answered)


def not_measurable_anew(
    experiment: Experiment, evaluations: Collection[tuple[str, Split]], *, frozen: bool, served: bool
) -> str:
    """Why a session cannot measure anew what may have changed; empty where it can, or where nothing may have.

    Args:
        experiment: The experiment.
        evaluations: What is to be compared: stages on splits.
        frozen: The session calls no LM.
        served: A server answers for the models of this machine.
    """
    for stage, on in evaluations:
        lms = answering_lms(experiment, stage) if stage in experiment.stages else []
        if not may_drift(lms, served=served):
            continue
        model = next((lm.model for lm in lms if may_change(lm)), lms[0].model)
        what = (
            f"{stage} on {on} ran on {model}, which may have changed behind its name: --dspy-compare measures it anew"
        )
        if frozen:
            return f"{what}, and --dspy-frozen calls no LM"
        recorder = active_recorder()
        if recorder is not None and recorder.mode != "all" and any(map(recorder.covers, lms)):
            return f"{what}, and recorded answers (--dspy-record={recorder.mode}) are those of then"
    return ""
