"""Keeping a stage as it was built: written down, put back on a fresh start, and held against what its optimizer gave.

What cannot be written down is compiled again whenever it is needed, where that takes no LM call and no training (as
``dspy.KNNFewShot`` does, whose program holds a function of its own); anything else is an error that names it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pytest_dspy_ft.errors import BuildError, StoreError
from pytest_dspy_ft.evaluation.anatomy import Anatomy, differences, lm_node, shown
from pytest_dspy_ft.evaluation.binding import predictor_lms
from pytest_dspy_ft.evaluation.known import Known
from pytest_dspy_ft.evaluation.program_state import StateReader, StateWriter
from pytest_dspy_ft.evaluation.programs import program_state, restore_state
from pytest_dspy_ft.evaluation.values import Path, Reader, UnkeptError, place
from pytest_dspy_ft.experiment.experiment import Experiment
from pytest_dspy_ft.experiment.stage import Stage
from pytest_dspy_ft.finetune.hosted.answering import result_lm
from pytest_dspy_ft.fingerprint import digest_json
from pytest_dspy_ft.ladder.compile import Compiled
from pytest_dspy_ft.ladder.trained_models import attach_models
from pytest_dspy_ft.records.base import SPLITS

_SHOWN: Final = 5
"""At most so many differences stand in a message."""

_REMEDY: Final = (
    "nothing was filed, and the answers it was built with are kept for the next attempt; let the optimizer give back "
    "what can be kept (prompts, demos, plain attributes, LMs that are declared), or wrap it in a function that does"
)


@dataclass(frozen=True)
class StageKeeper:
    """Writes a built stage down so that it comes back as it was, or says what does not.

    Args:
        stage: The stage.
        lm: The LM that it runs on, for predictors without one of their own.
        known: What its declaration leads to.
        start: Makes a fresh copy of the program that it starts from.
        again: Compiles the stage once more; fails where that takes LM calls.
    """

    stage: Stage
    lm: Any
    known: Known
    start: Callable[[], Any]
    again: Callable[[], Any]

    def write(self, compiled: Compiled) -> dict[str, Any]:
        """The content of the build's ``program.json``, but for the models that it was trained to.

        Raises:
            BuildError: If the program that comes back is not the one that was built.
        """
        start, other = self.start(), self.start()
        unsteady = [path for path, _, _ in differences(Anatomy(start).root, Anatomy(other).root)]
        trained = _trained(predictor_lms(start, self.lm), compiled)
        writer = StateWriter(start, compiled.program, self.known, lambda path: _name(path) in trained)
        lost = [f"{place(e.path)}: {e.why}" for e in writer.lost if not _within(e.path, unsteady)]
        content: dict[str, Any] = {"format": 2, "state": program_state(compiled.program)}
        if not lost:
            content["changes"] = writer.changes
            models = {
                name: {"model": model, **compiled.kept.get(model, {})}
                for name, model in compiled.models.items()
                if name in trained
            }
            lost = self._lost_by_restoring(compiled, content, models, unsteady)
        if lost and self._may_compile_again(compiled, writer.lost):
            content.pop("changes", None)
            content["again"] = self._written_again(compiled, unsteady)
            lost = []
        if lost:
            raise BuildError(
                f"stage {self.stage.name!r}: what its optimizer gave back cannot be kept as it is:\n  "
                + "\n  ".join(lost[:_SHOWN])
                + (f"\n  ... and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else "")
                + f"\n  {_REMEDY}"
            )
        return content

    def _lost_by_restoring(
        self, compiled: Compiled, content: Mapping[str, Any], models: Mapping[str, Any], unsteady: list[Path]
    ) -> list[str]:
        """What is not as it was built once the content went through JSON and back."""
        start = self.start()
        attach_models(start, self.lm, models, None)
        try:
            back = restore(start, json.loads(json.dumps(content)), self.known)
        except (ValueError, TypeError, KeyError, AttributeError, LookupError) as error:
            return [f"{type(error).__name__}: {error}"]
        found = differences(Anatomy(compiled.program).root, Anatomy(back).root)
        return [
            f"{place(path)}: it was built as {shown(built)} and comes back as {shown(kept)}"
            for path, built, kept in found
            if not _within(path, unsteady)
        ]

    def _may_compile_again(self, compiled: Compiled, lost: Iterable[UnkeptError]) -> bool:
        """True where compiling once more takes no LM call and no training."""
        of_lms = any(error.path and error.path[-1] == ("attribute", "lm") for error in lost)
        return not (compiled.calls or compiled.models or of_lms) and self.stage.work == "prompt"

    def _written_again(self, compiled: Compiled, unsteady: list[Path]) -> str:
        """The digest of a program that compiling again gives, too; empty where no two copies of it are alike.

        Raises:
            BuildError: If it gives another one.
        """
        built, twin = Anatomy(compiled.program).root, Anatomy(self.again()).root
        for path, one, other in differences(built, twin):
            if not _within(path, unsteady):
                raise BuildError(
                    f"stage {self.stage.name!r}: its program cannot be written down, and compiling it again gives "
                    f"another one: {place(path)} is {shown(one)}, then {shown(other)}; seed what is random in the "
                    "optimizer"
                )
        return digest_json(built) if built == twin else ""

    def read(self, content: Mapping[str, Any]) -> Any:
        """The program that :meth:`write` wrote down, with its models still to be attached to the start.

        Raises:
            StoreError: If it does not come back as it was built.
        """
        if "again" in content:
            program = self.again()
            if content["again"] and digest_json(Anatomy(program).root) != content["again"]:
                raise StoreError(
                    f"stage {self.stage.name!r}: its program is compiled again each time, and this time another one "
                    f"than was built came out; --dspy-rebuild={self.stage.name} builds it anew"
                )
            return program
        try:
            return restore(self.start(), content, self.known)
        except ValueError as error:
            raise StoreError(
                f"stage {self.stage.name!r}: its program does not come back from the store: {error}; "
                f"--dspy-rebuild={self.stage.name} builds it anew"
            ) from error


def restore(start: Any, content: Mapping[str, Any], known: Known) -> Any:
    """A program from the content of a ``program.json``, of today's format or of that before.

    Raises:
        ValueError: If it does not fit its start, or names something that is not known.
    """
    if "changes" not in content:
        restore_state(start, content["state"])
        return start
    return StateReader(start, known).apply(content["changes"])


def declared_objects(experiment: Experiment, stage: Stage) -> Known:
    """What may be named in a kept stage: all that its program, data, LMs and optimizers lead to."""
    stages = [experiment.stages[name] for name in reversed(experiment.closure(stage.name))]
    lms = [experiment.lm, *(s.lm for s in stages)]
    optimizers = [part for s in stages for part in (s.optimizer, dict(s.compile_args))]
    examples = [experiment.dataset.held(split) for split in SPLITS]
    return Known([lms, experiment.program, *optimizers, experiment.metric, *examples])


def check_examples(experiment: Experiment, stage: Stage, known: Known) -> None:
    """Find out before anything is paid whether demos made of the train examples could be kept.

    Raises:
        BuildError: If a value could not; it names the field.
    """
    writer = StateWriter(None, None, known)
    for number, example in enumerate(experiment.dataset.held("train")):
        for field, value in example.items():
            if type(value) in (str, int, float, bool, type(None)):
                continue
            try:
                written = json.loads(json.dumps(writer.write(value, (("item", number), ("key", field)))))
                back = Reader(known.class_named).read(written)
                path, _, _ = next(differences(Anatomy(value).root, Anatomy(back).root), (None, 0, 0))
                why = f"{place(path, 'it')} does not come back as it was" if path is not None else ""
            except UnkeptError as error:
                why = f"{place(error.path[2:], 'it')}: {error.why}"
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                why = str(error)
            if why:
                raise BuildError(
                    f"stage {stage.name!r}: field {field!r} of train example {number} could not be kept in a demo: "
                    f"{why}; use text, numbers, lists, dicts, sets, dates, bytes, enums, dataclasses or pydantic models"
                )


def _trained(before: Mapping[str, Any], compiled: Compiled) -> frozenset[str]:
    """The predictors whose LM is the one they had before, with another model's name: their models are kept by name."""
    found = set()
    for name, predictor in compiled.program.named_predictors():
        lm, model = before.get(name), compiled.models.get(name)
        if lm is not None and model is not None:
            kept = result_lm(lm, model, compiled.kept.get(model, {}), None)
            if lm_node(kept) == lm_node(predictor.lm):
                found.add(name)
    return frozenset(found)


def _name(path: Path) -> str:
    """The name that DSPy gives to the predictor at a path."""
    return place(path, "").removeprefix(".") or "self"


def _within(path: Path, others: Iterable[Path]) -> bool:
    return any(path[: len(other)] == other for other in others)
