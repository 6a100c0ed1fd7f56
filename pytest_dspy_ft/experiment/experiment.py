"""An experiment: one program, one dataset, one metric, and a ladder of stages to compare.

Declarations only: nothing is built, loaded or called here, and dspy is not imported. Mistakes in a declaration are
found when it is made, and say what would be right.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pytest_dspy_ft.errors import ExperimentError, raised_where_called
from pytest_dspy_ft.experiment.argument_checks import (
    check_adapter,
    check_dataset,
    check_lm,
    check_program,
    check_stages,
)
from pytest_dspy_ft.experiment.metrics import Metric, check_metric, checked_metrics
from pytest_dspy_ft.experiment.slices import SliceFunction, checked_functions
from pytest_dspy_ft.experiment.stage import BASELINE, Stage
from pytest_dspy_ft.experiment.typed_labels import with_typed_labels
from pytest_dspy_ft.records.base import KINDS, SPLITS, Split
from pytest_dspy_ft.text import LINE, did_you_mean, shorten

if TYPE_CHECKING:
    import dspy

    from pytest_dspy_ft.experiment.dataset import Dataset


class Experiment:
    """One program, one dataset, one metric, a ladder of stages. The stage ``baseline`` is always there.

    Args:
        name: What the table, the store and reports call it.
        program: Any ``dspy.Module``. It is copied, never changed.
        dataset: A :class:`~pytest_dspy_ft.Dataset`. Labels that are called like an output of the program are read as
            values of its type, as DSPy reads replies: an Enum's member, a number, a pydantic model.
        metric: ``(example, prediction, trace=None) -> bool | float``, a score in [0, 1], or a
            ``dspy.Prediction(score=, feedback=)``; it may be asynchronous. Evaluation always uses it, whatever metric
            an optimizer has.
        lm: The ``dspy.LM`` that the baseline runs on. Predictors that carry an LM of their own keep it.
        stages: The ladder, in the order the table shows it.
        metrics: Further metrics, each a function of a stage in gates by its name: ``{"f1": token_f1}`` makes
            ``f1(finetuned) >= 80%`` a gate.
        slices: Functions of an example that give the label of its slice (text, a whole number, a bool, an enum), by
            name: what ``by=`` on a gate may name beside the examples' fields. They are handed copies.
        judge_lm: The LM that answers a metric which asks one, the same for every stage; LMs that the metric brings
            along come first. None: the one that DSPy is configured with when the stages are built and measured, if any.
        adapter: The DSPy adapter for everything in this experiment; None: the one that DSPy is configured with where
            the experiment is declared, or else ``dspy.ChatAdapter()``.
        seed: Seeds whatever here is random, and nothing global.

    Raises:
        ExperimentError: If a stage is named twice, a ``start=`` or ``teacher=`` names no stage, stages form a cycle, or
            an argument is not what it should be.
    """

    @raised_where_called
    def __init__(  # noqa: PLR0913 - a declaration names all that it is made of
        self,
        name: str,
        *,
        program: dspy.Module,
        dataset: Dataset,
        metric: Metric,
        lm: dspy.LM,
        stages: Sequence[Stage] = (),
        metrics: Mapping[str, Metric] = MappingProxyType({}),
        judge_lm: dspy.LM | None = None,
        slices: Mapping[str, SliceFunction] = MappingProxyType({}),
        adapter: dspy.Adapter | None = None,
        seed: int = 0,
    ) -> None:
        self.name = name
        self.program = program
        self.dataset = dataset
        self.metric = metric
        self.lm = lm
        self.judge_lm = judge_lm
        self.adapter = adapter
        self.seed = seed
        self._check_arguments()
        check_stages(self._where, stages)
        self.slices = checked_functions(self, slices)
        # Optimizers made for this experiment bound the LM that is configured right now; a stage replaces it by its own.
        self.ambient_lm: Any = sys.modules["dspy"].settings.lm if "dspy" in sys.modules else None
        self.ambient_adapter: Any = sys.modules["dspy"].settings.adapter if "dspy" in sys.modules else None
        self.stages: dict[str, Stage] = self._ladder(stages)
        self.metrics: dict[str, Metric] = checked_metrics(self._where, metrics, self.stages)
        self._check_references()
        self._check_lms()

    def __repr__(self) -> str:
        sizes = " / ".join(f"{split} {number}" for split, number in self.dataset.sizes.items())
        return shorten(f"Experiment({self.name!r}: {sizes}; {', '.join(self.stages)})", LINE)

    def stage(self, name: str) -> Stage:
        """The stage of this name.

        Raises:
            ExperimentError: If there is none; the message lists the choices.
        """
        try:
            return self.stages[name]
        except KeyError:
            raise ExperimentError(f"{self._where}: no stage {name!r}{_suggest(name, self.stages)}") from None

    def examples(self, on: Split) -> Sequence[Any]:
        """The dataset's own examples of a split, to measure on: to be copied before a user's code gets them.

        Raises:
            ExperimentError: If there is no such split, or it is empty.
        """
        if on not in SPLITS:
            raise ExperimentError(f"no split {on!r}; choices are {', '.join(SPLITS)}")
        examples: Sequence[Any] = self.dataset.held(on)
        if not examples:
            raise ExperimentError(f"experiment {self.name!r}: the {on} split is empty, nothing can be measured on it")
        return examples

    def closure(self, name: str) -> tuple[str, ...]:
        """The stage and all it needs, in an order in which they can be built."""
        ordered: list[str] = []

        def visit(current: str) -> None:
            for needed in self.stage(current).needs:
                visit(needed)
            if current not in ordered:
                ordered.append(current)

        visit(name)
        return tuple(ordered)

    def limited(self, n: int) -> Experiment:
        """The same experiment on at most ``n`` examples of each split.

        Lists of examples that a stage hands to its optimizer (``compile_args={"valset": ...}``) are cut to as many.
        """
        shorter = copy.copy(self)
        shorter.dataset = self.dataset.limited(n)
        shorter.stages = {
            name: replace(stage, compile_args={k: _cut(value, n) for k, value in stage.compile_args.items()})
            for name, stage in self.stages.items()
        }
        return shorter

    @property
    def _where(self) -> str:
        return f"experiment {self.name!r}"

    def _check_arguments(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise ExperimentError(f"an experiment's name must be a non-empty string, not {self.name!r}")
        check_program(self._where, self.program)
        check_metric(f"{self._where}: metric", self.metric)
        check_dataset(self._where, self.dataset)
        check_lm(f"{self._where}: lm", self.lm, fixture="the dspy_lm fixture or ")
        if self.judge_lm is not None:
            check_lm(f"{self._where}: judge_lm", self.judge_lm)
        check_adapter(self._where, self.adapter)
        self.dataset = with_typed_labels(self.dataset, self.program)

    def _ladder(self, stages: Sequence[Stage]) -> dict[str, Stage]:
        ladder = {BASELINE: Stage(BASELINE)}
        for stage in stages:
            if not isinstance(stage, Stage):
                raise ExperimentError(f"{self._where}: stages must hold Stage objects, not {type(stage).__name__}")
            if stage.name == BASELINE:
                raise ExperimentError(
                    f"{self._where}: the stage 'baseline' is always there: the program as written, on lm; "
                    "give yours another name"
                )
            if stage.name in ladder:
                raise ExperimentError(f"{self._where}: two stages are named {stage.name!r}; rename one of them")
            ladder[stage.name] = stage
        return ladder

    def _check_references(self) -> None:
        for stage in self.stages.values():
            for role, target in (("start", stage.start), ("teacher", stage.teacher)):
                if target is not None and target not in self.stages:
                    raise ExperimentError(
                        f"{self._where}: stage {stage.name!r} has {role}={target!r}, "
                        f"which is no stage{_suggest(target, self.stages)}"
                    )
        done: set[str] = set()
        for name in self.stages:
            self._walk(name, (), done)

    def _check_lms(self) -> None:
        """A stage's LM must answer something: predictors that carry an LM of their own keep it."""
        predictors = self.program.named_predictors()
        if any(predictor.lm is None for _, predictor in predictors):
            return
        for stage in self.stages.values():
            if stage.lm is not None:
                own = ", ".join(f"{name} ({getattr(p.lm, 'model', p.lm)})" for name, p in predictors)
                raise ExperimentError(
                    f"{self._where}: stage {stage.name!r} has lm={getattr(stage.lm, 'model', stage.lm)!r}, which "
                    f"reaches no predictor: each has an LM of its own: {own}. Leave theirs unset (no set_lm() on the "
                    "program: the experiment's lm= is the baseline's), or leave out the stage's lm="
                )

    def _walk(self, name: str, path: tuple[str, ...], done: set[str]) -> None:
        if name in path:
            cycle = " -> ".join((*path[path.index(name) :], name))
            raise ExperimentError(
                f"{self._where}: stages need each other in a circle: {cycle}; break it at one start= or teacher="
            )
        if name in done:
            return
        for needed in self.stages[name].needs:
            self._walk(needed, (*path, name), done)
        done.add(name)


def reachable(experiments: Sequence[Experiment], selection: Sequence[str]) -> dict[str, frozenset[str]]:
    """The stages that a ``--dspy-stage`` selection lets a session use.

    Args:
        experiments: All experiments of the session.
        selection: Kinds of work (the stages up to that kind, with all they need), exact stage names (that stage and all
            it needs), or ``all``.

    Returns:
        Stage names by experiment name.

    Raises:
        ExperimentError: If a word is neither a kind nor a stage of any experiment; the message lists the choices.
    """
    allowed = {experiment.name: {BASELINE} for experiment in experiments}
    for word in selection:
        known = False
        for experiment in experiments:
            wanted = [word] if word in experiment.stages else []
            if word == "all":
                wanted = list(experiment.stages)
            elif word in KINDS:  # a kind's name reaches all of that kind, also where a stage is called the same
                top = KINDS.index(word)
                wanted += [s.name for s in experiment.stages.values() if _reach(experiment, s) <= top]
            elif not wanted:
                continue
            known = True
            for name in wanted:
                allowed[experiment.name].update(experiment.closure(name))
        if not known and word not in (*KINDS, "all"):
            names = {name: None for experiment in experiments for name in experiment.stages}
            raise ExperimentError(
                f"no stage {word!r}{_suggest(word, [*KINDS, 'all', *names])}; "
                f"kinds of work are {', '.join(KINDS)}; stages are {', '.join(names) or BASELINE}"
            )
    return {name: frozenset(stages) for name, stages in allowed.items()}


def _reach(experiment: Experiment, stage: Stage) -> int:
    """How far up the ladder a stage stands: the highest kind of work among itself and all it needs."""
    return max(KINDS.index(experiment.stages[name].work) for name in experiment.closure(stage.name))


def _cut(value: Any, n: int) -> Any:
    """The first ``n`` of a list of examples; anything else as it is."""
    return value[:n] if isinstance(value, list) and value and hasattr(value[0], "inputs") else value


def _suggest(name: str, choices: Iterable[str]) -> str:
    return did_you_mean(name, choices) or f"; choices are {', '.join(dict.fromkeys(choices))}"
