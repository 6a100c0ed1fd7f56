"""One training job after the other: on this machine, at a hosted service, or taken from a recording."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_dspy_ft.errors import BuildError, DspyFtError
from pytest_dspy_ft.finetune.hosted.answering import result_lm
from pytest_dspy_ft.finetune.hosted.registry import is_hosted
from pytest_dspy_ft.finetune.launched.context import is_launchable
from pytest_dspy_ft.finetune.rows import ChatRow
from pytest_dspy_ft.finetune.settings import TraceFinetuneSettings, training_settings
from pytest_dspy_ft.fingerprint import canonical, digest_json
from pytest_dspy_ft.insides.training import TrainDataFormat
from pytest_dspy_ft.lms.calls import active_recorder
from pytest_dspy_ft.lms.failures import describe_exception
from pytest_dspy_ft.progress import Task
from pytest_dspy_ft.records.build import TrainingRecord
from pytest_dspy_ft.redaction import without_secrets
from pytest_dspy_ft.text import counted, duration

POLL_SECONDS = 0.2
ANSWERS = "answers"
"""How a recorded job's model answers, beside its record, where the model's name does not tell it."""


@dataclass(frozen=True)
class TrainingTask:
    """One job: an LM, and what it is trained on."""

    lm: Any
    predictors: tuple[str, ...]
    """Names of the predictors that will run on the trained LM."""
    rows: list[ChatRow]
    collection: int
    """The number of the collection that the rows are from."""


class LMTrainer:
    """Trains LMs as one optimizer of a stage asks for it.

    Args:
        optimizer: Its train settings count.
        settings: The stage's.

    Attributes:
        records: One for each training job.
        folders: Where the weights of each resulting model lie, for models trained on this machine.
        kept: How each resulting model answers, for models trained elsewhere where its name does not tell it.
    """

    def __init__(self, optimizer: Any, settings: TraceFinetuneSettings) -> None:
        self._optimizer = optimizer
        self._settings = settings
        self.records: list[TrainingRecord] = []
        self.folders: dict[str, Path] = {}
        self.kept: dict[str, dict[str, Any]] = {}

    def train(self, task: TrainingTask) -> Any:
        """The trained LM; from a recording, where it is trained elsewhere and its job is recorded.

        Raises:
            BuildError: If the job fails.
        """
        lm, recorder = task.lm, active_recorder()
        if recorder is None or not recorder.covers(lm) or _trains_here(lm):
            return self._train(task)
        request = {
            "stage": self._settings.stage,
            "model": lm.model,
            "rows": len(task.rows),
            "rows_digest": digest_json(task.rows),
            "settings": canonical(without_secrets(training_settings(lm, self._optimizer))),
            "seed": self._settings.seed,
        }
        if (result := recorder.job(request)) is not None:
            kept = result.pop(ANSWERS, {})
            replayed = {**result, "predictors": task.predictors, "resumed": True}  # this session pays nothing for it
            self.records.append(TrainingRecord.model_validate(replayed))
            return self._result(lm, self.records[-1].model, kept)
        trained = self._train(task)
        kept = self.kept.get(trained.model, {})
        recorder.keep_job(request, self.records[-1].model_dump(mode="json") | ({ANSWERS: kept} if kept else {}))
        return trained

    def _train(self, task: TrainingTask) -> Any:
        """Train here or elsewhere, and note the job."""
        lm, stage = task.lm, self._settings.stage
        train_kwargs = training_settings(lm, self._optimizer)
        hosted = self._hosted_provider(lm, train_kwargs)
        provider = hosted or self._launched_provider(lm)
        folder = self._settings.workspace / "training" / f"job-{len(self.records) + 1}"
        reported: deque[Any] = deque(maxlen=1)
        if hosted is not None:
            train_kwargs["collection"] = task.collection
        elif _trains_here(lm):
            train_kwargs.setdefault("seed", self._settings.seed)
            train_kwargs |= {"output_dir": str(folder), "progress": reported.append}
        started = time.monotonic()
        lm.kill()  # frees what inference holds, where a provider serves models itself
        trainee = lm if provider is None else lm.copy(provider=provider)
        job = trainee.finetune(train_data=task.rows, train_data_format=TrainDataFormat.CHAT, train_kwargs=train_kwargs)

        def latest_progress() -> Any:
            return reported[0] if reported else getattr(job, "progress", None)

        of = [name for name in task.predictors if name != "self"]  # what DSPy calls a program that is one predictor
        title = f"{stage}: training {', '.join(of) or 'the model'} on {counted(len(task.rows), 'row')}"
        trained = self._wait(job, title, latest_progress)
        if (crash := getattr(job, "crash", None)) is not None:
            raise crash
        if isinstance(trained, DspyFtError) and provider is not None:
            raise type(trained)(f"stage {stage!r}: {trained}") from None
        if isinstance(trained, Exception):
            raise BuildError(f"stage {stage!r}: training failed: {describe_exception(trained, 2000)}") from trained
        if trained.model == lm.model:
            raise BuildError(f"stage {stage!r}: training gave back the model it started from, {lm.model!r}")
        if hosted is not None:  # with the provider the user's LM has
            trained = self._result(lm, trained.model, job.outcome.kept)
        elif provider is not None:
            trained = lm.copy(model=trained.model)
        trained.launch()
        if _trains_here(lm):
            self.folders[trained.model] = folder
        progress, entry = latest_progress(), job.entry if provider is not None else None
        self.records.append(
            TrainingRecord(
                model=trained.model,
                predictors=task.predictors,
                rows=len(task.rows),
                steps=getattr(progress, "step", None) or None,
                train_loss=getattr(progress, "loss", None),
                validation_loss=getattr(progress, "validation_loss", None),
                seconds=time.monotonic() - started,
                job=getattr(entry, "job", None),
                trained_tokens=getattr(entry, "trained_tokens", None),
                cost=getattr(job, "cost", None) if entry is not None else None,
                resumed=getattr(entry, "resumed", False),
                launcher=getattr(entry, "launcher", None),
                processes=getattr(entry, "processes", None),
            )
        )
        return trained

    def _result(self, lm: Any, model: str, kept: dict[str, Any]) -> Any:
        """The LM that answers with a model trained elsewhere."""
        if kept:
            self.kept[model] = kept
        context = self._settings.job_context
        return result_lm(lm, model, kept, None if context is None else context.endpoints)

    def _hosted_provider(self, lm: Any, train_kwargs: dict[str, Any]) -> Any:
        """Our provider, where a service trains the LM elsewhere; None where its own one trains it."""
        if self._settings.job_context is None or not is_hosted(lm, train_kwargs):
            return None
        from pytest_dspy_ft.finetune.hosted.provider import hosted_provider

        provider = hosted_provider(lm, train_kwargs)
        return None if provider is None else provider.bound(lm, self._settings.job_context)

    def _launched_provider(self, lm: Any) -> Any:
        """The launcher's provider, where one trains models of this machine; None where this process does."""
        launch = self._settings.launch
        if launch is None or not is_launchable(lm):
            return None
        from pytest_dspy_ft.finetune.launched.provider import LaunchedProvider

        return LaunchedProvider(lm.engine, launch)

    def _wait(self, job: Any, title: str, latest_progress: Callable[[], Any]) -> Any:
        """The job's result, with its progress shown in this thread.

        An interrupt cancels a job on this machine; one that runs elsewhere is paid for and goes on.
        """
        with self._settings.progress.task(title, unit="steps") as shown:
            state, since = "", time.monotonic()
            try:
                while True:
                    try:
                        return job.result(timeout=POLL_SECONDS)
                    except FutureTimeout:
                        if job.done():
                            return job.result()
                    finally:
                        if (progress := latest_progress()) is not None:
                            if (now := getattr(progress, "note", "")) != state:
                                state, since = now, time.monotonic()
                            _show(shown, progress, state and f"{state} for {duration(time.monotonic() - since)}")
            except KeyboardInterrupt:
                if not hasattr(job, "leave"):
                    job.cancel()
                    raise
                raise KeyboardInterrupt(job.leave()) from None


def _show(shown: Task, progress: Any, state: str) -> None:
    """Show how far a job is: steps, the state it is in where somebody else trains, and its losses."""
    losses = [("loss", progress.loss), ("validation loss", getattr(progress, "validation_loss", None))]
    said = [state, *(f"{name} {loss:.3f}" for name, loss in losses if loss is not None)]
    shown.advance(progress.step, total=progress.total_steps, note=", ".join(filter(None, said)))


def _trains_here(lm: Any) -> bool:
    return bool(getattr(lm.provider, "trains_on_this_machine", False))
