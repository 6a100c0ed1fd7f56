"""What is to be measured: a program, a split, and the keys that scores and outputs are filed under."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_dspy_ft.evaluation.binding import predictor_lms, unbound_program
from pytest_dspy_ft.evaluation.programs import copy_program
from pytest_dspy_ft.evaluation.repeats import samples
from pytest_dspy_ft.experiment.example_id import example_id
from pytest_dspy_ft.fingerprint import digest_json, fingerprint, lm_identity
from pytest_dspy_ft.fingerprint.versions import described_as_of
from pytest_dspy_ft.ladder.built_stage import BuiltStage
from pytest_dspy_ft.ladder.context import LadderContext
from pytest_dspy_ft.ladder.recipe import evaluation_key, outputs_key
from pytest_dspy_ft.lms.resolve import is_local
from pytest_dspy_ft.records.base import Split
from pytest_dspy_ft.store.outputs import OutputsPlace


@dataclass(frozen=True)
class EvaluationTask:
    """A program to measure on a split, and what its evaluation is filed under."""

    experiment: str
    name: str
    """The stage; for a program that is none, ``program-`` and the beginning of its fingerprint."""
    on: Split
    program: Any
    lm: Any
    """The LM that is bound around its calls; it says how many threads it likes."""
    model: str
    """The model that answers, for the record."""
    key: str
    """Of the scores."""
    outputs_key: str
    repeats: int
    """How many times each example is evaluated."""
    digest: str = ""
    """Content hash of the stage's build; empty for a program that is no stage."""
    served: bool = False
    """A server answers for models of this machine."""

    @property
    def answered_here(self) -> bool:
        """True where a model of this machine answers in this process: free, and in batches of one whole run."""
        return is_local(self.lm) and not self.served

    @property
    def outputs_place(self) -> OutputsPlace:
        """Where its outputs lie."""
        return OutputsPlace(self.experiment, self.name, self.on, self.outputs_key)

    def call_ids(self, examples: Sequence[Any]) -> list[str]:
        """The ids of all calls that it takes, in the order of the examples, repeat by repeat."""
        ids = list(map(example_id, examples))
        if self.repeats == 1:
            return ids
        return [f"{identity}#{repeat}" for identity in ids for repeat in range(self.repeats)]


class EvaluationTasks:
    """Finds out what an evaluation takes.

    Args:
        context: The experiment in this session.
    """

    def __init__(self, context: LadderContext) -> None:
        self._experiment, self._settings = context.experiment, context.settings

    def of_stage(self, built: BuiltStage, on: Split) -> EvaluationTask:
        """The task of measuring a stage."""
        subject = {"stage": built.recipe.key, "digest": built.build.digest}
        with described_as_of(version := built.recipe.version):
            return self._task(built.recipe.stage.name, on, built.program, built.lm, built.record.lm, subject, version)

    def of_program(self, given: Any, on: Split) -> EvaluationTask:
        """The task of measuring a program that is no stage."""
        program, lm = unbound_program(copy_program(given), self._experiment.lm)
        lms = [lm_identity(asked) for asked in predictor_lms(program, lm).values()]
        subject = {"program": fingerprint(program), "lms": digest_json(lms)}
        return self._task(f"program-{subject['program'][:8]}", on, program, lm, lm.model, subject)

    def repeats(self, program: Any, lm: Any) -> int:
        """How many times each example is evaluated: once where the LM gives the same answer every time."""
        return self._settings.repeats if self._settings.repeats > 1 and samples(program, lm) else 1

    def _task(
        self,
        name: str,
        on: Split,
        program: Any,
        lm: Any,
        model: str,
        subject: Mapping[str, str],
        version: str | None = None,
    ) -> EvaluationTask:
        repeats, serving = self.repeats(program, lm), self._settings.serving
        served = serving is not None and any(map(is_local, predictor_lms(program, lm).values()))
        server = serving.identity() if serving is not None and served else None
        return EvaluationTask(
            experiment=self._experiment.name,
            name=name,
            on=on,
            program=program,
            lm=lm,
            model=model,
            key=evaluation_key(self._experiment, subject, on, repeats=repeats, server=server, version=version),
            outputs_key=outputs_key(self._experiment, subject, on, repeats=repeats, server=server),
            repeats=repeats,
            digest=subject.get("digest", ""),
            served=serving is not None,
        )
