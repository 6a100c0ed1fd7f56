"""Which evaluations may come out otherwise today though nothing here changed: those that an LM elsewhere answers."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from pytest_dspy_ft.constants import MODEL_PREFIX
from pytest_dspy_ft.experiment.experiment import Experiment
from pytest_dspy_ft.lms.calls import active_recorder
from pytest_dspy_ft.lms.resolve import is_local, may_change
from pytest_dspy_ft.records.base import Split
from pytest_dspy_ft.records.evaluation import StageResult


def answering_lms(experiment: Experiment, stage: str) -> list[Any]:
    """The LMs that answer when a stage is evaluated, as far as they are declared."""
    name, lm = stage, None
    while lm is None and name != "baseline":
        lm, name = experiment.stages[name].lm, experiment.stages[name].start
    lms = [lm or experiment.lm, getattr(experiment, "judge_lm", None)]
    lms += [predictor.lm for predictor in experiment.program.predictors()]
    return [lm for lm in lms if lm is not None]


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
