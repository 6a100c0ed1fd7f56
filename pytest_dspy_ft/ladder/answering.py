"""Who answers an evaluation: servers for models of this machine, and endpoints that are started for it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pytest_dspy_ft.errors import ServingError
from pytest_dspy_ft.evaluation.binding import predictor_lms
from pytest_dspy_ft.evaluation.programs import copy_program
from pytest_dspy_ft.finetune.hosted.endpoints import EndpointEngine
from pytest_dspy_ft.ladder.context import LadderContext
from pytest_dspy_ft.ladder.evaluation_task import EvaluationTask
from pytest_dspy_ft.ladder.prompts import sample_prompts
from pytest_dspy_ft.lms.adapter_probe import Probe
from pytest_dspy_ft.lms.calls import active_recorder
from pytest_dspy_ft.store.evaluation_journal import EvaluationJournal
from pytest_dspy_ft.store.loaded_adapters import LoadedAdapters
from pytest_dspy_ft.store.outputs import OutputsJournal


@contextlib.contextmanager
def answering(context: LadderContext, task: EvaluationTask) -> Iterator[None]:
    """The block in which models answer that have to be started for it.

    Raises:
        ServingError: If one does not come up.
    """
    recorder = active_recorder()
    with contextlib.ExitStack() as stack:
        for lm in predictor_lms(task.program, task.lm).values():
            if recorder is not None and recorder.offline and recorder.covers(lm):
                continue  # its answers are recorded
            if isinstance(getattr(lm, "engine", None), EndpointEngine):
                title = f"{task.name}: starting an endpoint for {lm.model}"
                with context.settings.progress.task(title, unit="s") as shown:
                    shown.advance(0)
                    stack.enter_context(lm.engine.answering())
        yield


def ready(context: LadderContext, task: EvaluationTask) -> EvaluationTask:
    """The task with a program of its own; where there are servers, with LMs that answer from there."""
    program, serving = copy_program(task.program), context.settings.serving
    if serving is None:
        return replace(task, program=program)
    served: dict[int, Any] = {}
    named, notes = dict(program.named_predictors()), functools.partial(LoadedAdapters, context.store)
    with context.settings.progress.task(f"loading adapters at {serving.address}", unit="s") as shown:
        shown.advance(0)
        for name, lm in predictor_lms(program, task.lm).items():
            if id(lm) not in served:
                served[id(lm)] = serving.served(lm, _probes(context, task, named[name]), notes)
        for predictor in program.predictors():
            predictor.lm = served.get(id(predictor.lm))
    return replace(task, program=program, lm=served.get(id(task.lm)) or next(iter(served.values()), task.lm))


def _probes(context: LadderContext, task: EvaluationTask, predictor: Any) -> list[Probe]:
    """Prompts that tell whether an adapter answers: the predictor's own for the first examples, where they are text."""
    prompts = sample_prompts(context.experiment, predictor, context.experiment.examples(task.on)[:2])
    try:
        probes = [tuple((str(m["role"]), m["content"]) for m in prompt) for prompt in prompts]
    except (TypeError, KeyError):
        return []
    plain = [p for p in probes if p[0][0] == "system" and len(p) > 1 and all(isinstance(text, str) for _, text in p)]
    return list(dict.fromkeys(plain))


def confirm(context: LadderContext, task: EvaluationTask, journal: EvaluationJournal, outputs: OutputsJournal) -> None:
    """See that servers answered with what was asked for to the end; where not, nothing of it is kept."""
    if (serving := context.settings.serving) is None:
        return
    try:
        for lm in predictor_lms(task.program, task.lm).values():
            serving.confirm(lm)
    except ServingError:
        outputs.discard()
        journal.discard()
        raise
    for remark in serving.remarks:
        context.caution(remark)
