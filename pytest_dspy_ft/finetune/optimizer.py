"""The fine-tuning optimizer that stands in for ``dspy.BootstrapFinetune``, also inside ``dspy.BetterTogether``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any

import dspy
from dspy.clients.utils_finetune import TrainDataFormat
from dspy.teleprompt.teleprompt import Teleprompter

from pytest_dspy_ft.errors import BuildError, DspyFtError, TooFewTracesError
from pytest_dspy_ft.evaluation.run import Runtime
from pytest_dspy_ft.experiment.optimizers import LabeledFinetune
from pytest_dspy_ft.finetune.diagnosis import LABELS, diagnose
from pytest_dspy_ft.finetune.hosted.clients import is_hosted
from pytest_dspy_ft.finetune.hosted.journal import Work
from pytest_dspy_ft.finetune.rows import Row, training_rows
from pytest_dspy_ft.finetune.trace_files import TraceFiles
from pytest_dspy_ft.finetune.traces import Trace, collect_traces, label_traces
from pytest_dspy_ft.fingerprint import canonical, digest_json, fingerprint, lm_identity
from pytest_dspy_ft.lms.calls import active_recorder
from pytest_dspy_ft.lms.failures import describe_exception
from pytest_dspy_ft.progress import Progress
from pytest_dspy_ft.records.build import BootstrapRecord, TrainingRecord
from pytest_dspy_ft.redaction import without_secrets
from pytest_dspy_ft.report.diagnosis import refusal

POLL_SECONDS = 0.2


class TraceFinetune(Teleprompter):  # type: ignore[misc]
    """Fine-tunes a program's LMs on accepted traces, with the settings of a ``dspy.BootstrapFinetune``.

    Args:
        original: The optimizer whose metric, train settings, ``multitask`` and ``exclude_demos`` count.
        stage: Name of the stage, for messages.
        teacher_name: Name of the stage whose program teaches.
        accept: See :class:`~pytest_dspy_ft.Stage`.
        minimum: How many traces must be kept, or nothing is trained.
        trace_files: Where the traces are written.
        runtime: LM, adapter and threads for collecting traces.
        workspace: Folder of the build; a provider on this machine trains into a folder below it.
        seed: Seed of the training.
        progress: Told how far it is.
        work: What hosted jobs are for and where they are written down; None where no LM is trained elsewhere.

    Attributes:
        bootstraps: One record for each compilation.
        trainings: One record for each training job.
        folders: Where the weights of each resulting model lie, for models trained on this machine.
    """

    def __init__(
        self,
        original: Any,
        *,
        stage: str,
        teacher_name: str,
        accept: float | None,
        minimum: int,
        trace_files: TraceFiles,
        runtime: Runtime,
        workspace: Path,
        seed: int,
        progress: Progress,
        work: Work | None = None,
    ) -> None:
        super().__init__()
        self._original = original
        self._stage = stage
        self._teacher_name = LABELS if isinstance(original, LabeledFinetune) else teacher_name
        self._accept = accept
        self._minimum = minimum
        self._files = trace_files
        self._runtime = runtime
        self._workspace = workspace
        self._seed = seed
        self._progress = progress
        self._work = work
        self.bootstraps: list[BootstrapRecord] = []
        self.trainings: list[TrainingRecord] = []
        self.folders: dict[str, Path] = {}

    def compile(self, student: Any, trainset: list[Any], teacher: Any = None) -> Any:
        """Collect traces, train, and put the trained LMs on the student.

        Args:
            student: The program to train; it is changed and returned, as DSPy's optimizers do.
            trainset: Examples to collect traces on.
            teacher: Who answers; None lets the student teach itself. Of several, all of them.

        Raises:
            BuildError: If too few traces are worth training on, or a job fails.
        """
        exclude_demos = bool(self._original.exclude_demos)
        rows, collection = self._rows(student, trainset, teacher, exclude_demos)
        for lm, names, job_rows in self._jobs(student, rows):
            trained = self._trained(lm, names, job_rows, collection)
            for name, predictor in student.named_predictors():
                if name in names:
                    predictor.lm = trained
        if exclude_demos:
            for predictor in student.predictors():
                predictor.demos = []
        student._compiled = True
        return student

    def _rows(
        self, student: Any, trainset: list[Any], teacher: Any, exclude_demos: bool
    ) -> tuple[list[tuple[str, Row]], int]:
        """The rows to train on, and the number of their collection.

        Where a job elsewhere was ordered for rows that an interrupted build collected, they are those: traces collected
        again might differ, since what failed then may answer now, and another set of rows would be another job to pay.
        """
        journal = self._work.journal if self._work is not None else None
        digest = self._digest(student, teacher) if journal is not None else ""
        # While calls are recorded, traces are collected again: their answers are kept, or recorded already.
        if journal is not None and active_recorder() is None and (kept := journal.collection(digest)) is not None:
            self.bootstraps.append(kept.bootstrap)
            self._require_enough(kept.bootstrap, self._files.add(kept.bootstrap, None, self._accept))
            return [(name, row) for name, row in kept.rows], kept.number
        traces = self._traces(student, trainset, teacher)
        rows = training_rows(traces, student, self._runtime.adapter, accept=self._accept, exclude_demos=exclude_demos)
        record = diagnose(traces, rows, student, teacher=self._teacher_name, accept=self._accept, minimum=self._minimum)
        self.bootstraps.append(record)
        self._require_enough(record, self._files.add(record, traces, self._accept))
        return rows, 1 if journal is None else journal.add_collection(digest, record, rows).number

    def _require_enough(self, record: BootstrapRecord, path: Path) -> None:
        """Refuse to train on next to nothing: it would spend money to learn nothing."""
        if record.kept < self._minimum:
            raise TooFewTracesError(f"{refusal(record, self._stage)}\n  every trace, with all replies: {path}")

    def _digest(self, student: Any, teacher: Any) -> str:
        """What a collection of rows depends on, within one stage."""
        programs = [student, *(teacher if isinstance(teacher, list) else [teacher])]
        lms = [[lm_identity(p.lm) for p in program.predictors()] for program in programs if program is not None]
        return digest_json([len(self.bootstraps), [fingerprint(program) for program in programs], lms])

    def _traces(self, student: Any, trainset: list[Any], teacher: Any) -> list[Trace]:
        if isinstance(self._original, LabeledFinetune):
            return label_traces(student, trainset, self._original.metric)
        teachers = teacher if isinstance(teacher, list) else [teacher if teacher is not None else student]
        require_same_predictors(self._stage, student, teachers)
        title = f"{self._stage}: collecting traces from {self._teacher_name}"
        metric, runtime = self._original.metric, self._runtime
        return [
            trace
            for one in teachers
            for trace in collect_traces(one, trainset, metric, runtime, progress=self._progress, title=title)
        ]

    def _jobs(self, student: Any, rows: Sequence[tuple[str, Row]]) -> list[tuple[Any, tuple[str, ...], list[Row]]]:
        """One job for each LM, or with ``multitask=False`` for each predictor: (lm, predictor names, rows)."""
        groups: dict[tuple[int, str | None], list[str]] = {}
        lms: dict[int, Any] = {}
        for name, predictor in student.named_predictors():
            lms[id(predictor.lm)] = predictor.lm
            groups.setdefault((id(predictor.lm), None if self._original.multitask else name), []).append(name)
        jobs = []
        for (lm_id, _), names in groups.items():
            job_rows = [row for name, row in rows if name in names]
            if not job_rows:
                raise BuildError(
                    f"stage {self._stage!r}: no accepted trace calls {' or '.join(names)}, so there is nothing to "
                    "train on; with multitask=True one model is trained on the rows of all predictors"
                )
            jobs.append((lms[lm_id], tuple(names), job_rows))
        return jobs

    def _trained(self, lm: Any, names: tuple[str, ...], rows: list[Row], collection: int) -> Any:
        """A job's result: from a recording, where the model is trained elsewhere and its job is recorded."""
        recorder = active_recorder()
        if recorder is None or not recorder.covers(lm) or getattr(lm.provider, "trains_on_this_machine", False):
            return self._train(lm, names, rows, collection)
        settings = training_settings(lm, self._original)
        order = {
            "stage": self._stage,
            "model": lm.model,
            "rows": len(rows),
            "rows_digest": digest_json(rows),
            "settings": canonical(without_secrets(settings)),
            "seed": self._seed,
        }
        if (result := recorder.job(order)) is not None:
            replayed = {**result, "predictors": names, "resumed": True}  # this session pays nothing for it
            self.trainings.append(TrainingRecord.model_validate(replayed))
            return lm.copy(model=self.trainings[-1].model)
        trained = self._train(lm, names, rows, collection)
        recorder.keep_job(order, self.trainings[-1].model_dump(mode="json"))
        return trained

    def _train(self, lm: Any, names: tuple[str, ...], rows: list[Row], collection: int) -> Any:
        number = len(self.trainings) + 1
        settings = training_settings(lm, self._original)
        trainee = self._trainee(lm)
        if trainee is not lm:
            settings["collection"] = collection
        state: dict[str, Any] = {}
        folder = self._workspace / "training" / f"job-{number}"
        here = bool(getattr(lm.provider, "trains_on_this_machine", False))
        if here:
            settings.setdefault("seed", self._seed)
            settings["output_dir"] = str(folder)
            settings["progress"] = lambda progress: state.update(latest=progress)
        started = time.monotonic()
        lm.kill()  # frees what inference holds, where a provider serves models itself
        job = trainee.finetune(train_data=rows, train_data_format=TrainDataFormat.CHAT, train_kwargs=settings)
        title = f"{self._stage}: training {', '.join(names)} on {len(rows)} rows"
        result = self._wait(job, title, lambda: state.get("latest") or getattr(job, "progress", None))
        if (crash := getattr(job, "crash", None)) is not None:
            raise crash
        if isinstance(result, DspyFtError) and trainee is not lm:
            raise type(result)(f"stage {self._stage!r}: {result}") from None
        if isinstance(result, Exception):
            raise BuildError(f"stage {self._stage!r}: training failed: {describe_exception(result, 2000)}") from result
        if result.model == lm.model:
            raise BuildError(f"stage {self._stage!r}: training gave back the model it started from, {lm.model!r}")
        if trainee is not lm:
            result = lm.copy(model=result.model)  # with the provider the user's LM has
        result.launch()
        if here:
            self.folders[result.model] = folder
        latest = state.get("latest") or getattr(job, "progress", None)
        report = getattr(job, "report", None) if trainee is not lm else None
        self.trainings.append(
            TrainingRecord(
                model=result.model,
                predictors=names,
                rows=len(rows),
                steps=getattr(latest, "step", None) or None,
                train_loss=getattr(latest, "loss", None),
                validation_loss=getattr(latest, "validation_loss", None),
                seconds=time.monotonic() - started,
                job=getattr(report, "job", None),
                trained_tokens=getattr(report, "trained_tokens", None),
                cost=getattr(report, "cost", None),
                resumed=getattr(report, "resumed", False),
            )
        )
        return result

    def _trainee(self, lm: Any) -> Any:
        """The LM whose provider trains: ``lm``, or a copy of it with our provider where it is trained elsewhere."""
        if self._work is None or not is_hosted(lm):
            return lm
        from pytest_dspy_ft.finetune.hosted.provider import hosted_provider

        provider = hosted_provider(lm)
        return lm if provider is None else lm.copy(provider=provider.bound(lm, self._work))

    def _wait(self, job: Any, title: str, latest: Callable[[], Any]) -> Any:
        """The job's result, with its progress shown in this thread.

        An interrupt cancels a job on this machine; one that runs elsewhere is paid for and goes on.
        """
        with self._progress.task(title, unit="steps") as task:
            try:
                while True:
                    try:
                        return job.result(timeout=POLL_SECONDS)
                    except FutureTimeout:
                        if job.done():
                            return job.result()
                    current = latest()
                    if current is not None:
                        notes = [
                            getattr(current, "note", ""),
                            f"loss {current.loss:.3f}" if current.loss is not None else "",
                        ]
                        note = ", ".join(filter(None, notes))
                        task.advance(current.step, total=current.total_steps, note=note)
                    else:
                        task.advance(0)
            except KeyboardInterrupt:
                if not hasattr(job, "leave"):
                    job.cancel()
                    raise
                raise KeyboardInterrupt(job.leave()) from None


def training_settings(lm: Any, optimizer: Any) -> dict[str, Any]:
    """How an optimizer trains an LM: the LM's own ``train_kwargs``, then the optimizer's."""
    return {**lm.train_kwargs, **_settings_for(lm, optimizer.train_kwargs)}


def finetuners(optimizer: Any) -> list[Any]:
    """The optimizers that train weights: itself, or those of the steps it combines."""
    if isinstance(optimizer, dspy.BootstrapFinetune):
        return [optimizer]
    return [found for step in getattr(optimizer, "optimizers", {}).values() for found in finetuners(step)]


def _settings_for(lm: Any, train_kwargs: Any) -> dict[str, Any]:
    """An optimizer's train settings for an LM; merely asking DSPy's defaultdict would change the optimizer."""
    if lm in train_kwargs:
        return dict(train_kwargs[lm] or {})
    default = getattr(train_kwargs, "default_factory", None)
    return dict(default() or {}) if default is not None else {}


def require_same_predictors(stage: str, student: Any, teachers: Sequence[Any]) -> None:
    """Check that teachers are programs of the student's structure.

    Raises:
        BuildError: If their predictors have other names.
    """
    names = [name for name, _ in student.named_predictors()]
    for teacher in teachers:
        theirs = [name for name, _ in teacher.named_predictors()]
        if theirs != names:
            raise BuildError(
                f"stage {stage!r}: the teacher's predictors {theirs} are not the student's {names}; "
                "a teacher must be a version of the same program"
            )


def requires_training(optimizer: Any) -> bool:
    """Whether an optimizer trains weights, itself or in one of the steps it combines."""
    return bool(finetuners(optimizer))
