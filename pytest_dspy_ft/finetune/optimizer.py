"""The fine-tuning optimizer that stands in for ``dspy.BootstrapFinetune``, also inside ``dspy.BetterTogether``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_dspy_ft.errors import BuildError, TooFewTracesError
from pytest_dspy_ft.evaluation.binding import predictor_lms, without_lm
from pytest_dspy_ft.experiment.optimizers import LabeledFinetune
from pytest_dspy_ft.finetune.diagnosis import diagnose
from pytest_dspy_ft.finetune.remedies import LABELS
from pytest_dspy_ft.finetune.rows import ChatRow, RowWriter, written_rows
from pytest_dspy_ft.finetune.settings import TraceFinetuneSettings
from pytest_dspy_ft.finetune.trace_content import trace_json
from pytest_dspy_ft.finetune.traces import Trace, collect_traces, label_traces
from pytest_dspy_ft.finetune.training import LMTrainer, TrainingTask
from pytest_dspy_ft.fingerprint import digest_json, fingerprint, lm_identity
from pytest_dspy_ft.insides.optimizers import Teleprompter, mark_compiled
from pytest_dspy_ft.lms.calls import active_recorder
from pytest_dspy_ft.records.build import BootstrapRecord, TrainingRecord
from pytest_dspy_ft.report.diagnosis import refusal


class TraceFinetune(Teleprompter):  # type: ignore[misc]
    """Fine-tunes a program's LMs on accepted traces, with the settings of a ``dspy.BootstrapFinetune``.

    Args:
        original: The optimizer whose metric, train settings, ``multitask`` and ``exclude_demos`` count.
        settings: The stage's.

    Attributes:
        bootstraps: One record for each compilation.
    """

    def __init__(self, original: Any, settings: TraceFinetuneSettings) -> None:
        super().__init__()
        self._original = original
        self._settings = settings
        self._teacher_name = LABELS if isinstance(original, LabeledFinetune) else settings.teacher_name
        self._trainer = LMTrainer(original, settings)
        self._journal = settings.job_context.journal if settings.job_context is not None else None
        self.bootstraps: list[BootstrapRecord] = []

    @property
    def trainings(self) -> list[TrainingRecord]:
        """One record for each training job."""
        return self._trainer.records

    @property
    def folders(self) -> dict[str, Path]:
        """Where the weights of each resulting model lie, for models trained on this machine."""
        return self._trainer.folders

    @property
    def kept(self) -> dict[str, dict[str, Any]]:
        """How each resulting model answers, for models trained elsewhere where its name does not tell it."""
        return self._trainer.kept

    def compile(self, student: Any, trainset: list[Any], teacher: Any = None) -> Any:
        """Collect traces, choose rows, train, and put the trained LMs on the student's predictors.

        Args:
            student: The program to train; it is changed and returned, as DSPy's optimizers do.
            trainset: Examples to collect traces on.
            teacher: Who answers; None lets the student teach itself. Of several, all of them.

        Raises:
            BuildError: If too few traces are worth training on, or a job fails.
        """
        rows, collection = self._rows(student, trainset, teacher)
        for task in self._tasks(student, rows, collection):
            trained = self._trainer.train(task)
            for name, predictor in student.named_predictors():
                if name in task.predictors:
                    predictor.lm = trained
        if self._original.exclude_demos:
            for predictor in student.predictors():
                predictor.demos = []
        mark_compiled(student, True)
        return student

    def _rows(self, student: Any, trainset: list[Any], teacher: Any) -> tuple[list[tuple[str, ChatRow]], int]:
        """The rows to train on, by predictor, and the number of their collection.

        Where a job elsewhere was asked for with rows that an interrupted build collected, they are those: traces
        collected again might differ, since what failed then may answer now, and other rows would be another job to pay.
        """
        settings, journal = self._settings, self._journal
        digest = self._collection_digest(student, teacher) if journal is not None else ""
        # While calls are recorded, traces are collected again: their answers are kept, or recorded already.
        if journal is not None and active_recorder() is None and (kept := journal.collection(digest)) is not None:
            self._note_collection(kept.bootstrap, None)
            return list(kept.rows), kept.number
        collections = settings.collections if not self.bootstraps else None  # later ones depend on a training
        if collections is not None and active_recorder() is None and (found := collections.use()) is not None:
            record = found.bootstrap.model_copy(update={"minimum": settings.minimum})
            self._note_collection(record, found.traces)
            numbered = None if journal is None else journal.add_collection(digest, record, found.rows)
            return list(found.rows), 1 if numbered is None else numbered.number
        traces = self._traces(student, trainset, teacher)
        bare = bool(self._original.exclude_demos)
        writer = RowWriter(student, settings.runtime.adapter, settings.runtime.lm, exclude_demos=bare)
        traces, rows = written_rows(traces, writer, settings.accept)
        record = diagnose(
            traces, rows, student, teacher=self._teacher_name, accept=settings.accept, minimum=settings.minimum
        )
        lines = [json.dumps(trace_json(trace, settings.accept), ensure_ascii=False) for trace in traces]
        lm_failed = any(trace.lm_failed for trace in traces)
        if collections is not None:
            collections.add(record, rows, lines, lm_failed=lm_failed)
        self._note_collection(record, lines, lm_failed=lm_failed)
        return rows, 1 if journal is None else journal.add_collection(digest, record, rows).number

    def _note_collection(
        self, record: BootstrapRecord, traces: Sequence[str] | None, *, lm_failed: bool = False
    ) -> None:
        """Keep the record and the traces; TooFewTracesError where training would spend money to learn nothing."""
        self.bootstraps.append(record)
        path = self._settings.trace_files.add(record, traces, lm_failed=lm_failed)
        if record.kept < self._settings.minimum:
            raise TooFewTracesError(f"{refusal(record, self._settings.stage)}\n  every trace, with all replies: {path}")

    def _collection_digest(self, student: Any, teacher: Any) -> str:
        """A digest of what a collection of rows depends on, within one stage."""
        programs = [student, *(teacher if isinstance(teacher, list) else [teacher])]
        bound = self._settings.runtime.lm
        lms = [list(map(lm_identity, predictor_lms(p, bound).values())) for p in programs if p is not None]
        return digest_json([len(self.bootstraps), [fingerprint(program) for program in programs], lms])

    def _traces(self, student: Any, trainset: list[Any], teacher: Any) -> list[Trace]:
        metric, settings = self._original.metric, self._settings
        if isinstance(self._original, LabeledFinetune):
            return label_traces(student, trainset, metric)
        teachers = teacher if isinstance(teacher, list) else [teacher if teacher is not None else student]
        require_same_predictors(settings.stage, student, teachers)
        title = f"{settings.stage}: collecting traces from {self._teacher_name}"
        traces: list[Trace] = []
        for one in teachers:
            with without_lm(one, settings.runtime.lm):  # inside BetterTogether it is on every predictor
                shown: dict[str, Any] = {"progress": settings.progress, "title": title, "accept": settings.accept}
                traces += collect_traces(one, trainset, metric, settings.runtime, **shown)
        return traces

    def _tasks(self, student: Any, rows: Sequence[tuple[str, ChatRow]], collection: int) -> list[TrainingTask]:
        """One job for each LM, or with ``multitask=False`` for each predictor."""
        groups: dict[tuple[int, str | None], list[str]] = {}
        lms: dict[int, Any] = {}
        for name, lm in predictor_lms(student, self._settings.runtime.lm).items():
            lms[id(lm)] = lm
            groups.setdefault((id(lm), None if self._original.multitask else name), []).append(name)
        tasks = []
        for (lm_id, _), names in groups.items():
            job_rows = [row for name, row in rows if name in names]
            if not job_rows:
                raise BuildError(
                    f"stage {self._settings.stage!r}: no accepted trace calls {' or '.join(names)}, so there is "
                    "nothing to train on; with multitask=True one model is trained on the rows of all predictors"
                )
            tasks.append(TrainingTask(lms[lm_id], tuple(names), job_rows, collection))
        return tasks


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
