"""What a session would build, load and measure, and what that would take: found out without calling an LM.

A stage's key says whether the store has it, and which part of the key changed says why it does not. What work would
take is estimated from the best evidence there is, in this order: what the same stage took before (under another key or
on another split), what the stage it starts from took, and the length of its prompts. The evidence is named beside
every figure; what cannot be known is None.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from pytest_dspy_ft.errors import DspyFtError
from pytest_dspy_ft.experiment.experiment import Experiment
from pytest_dspy_ft.experiment.stage import Stage
from pytest_dspy_ft.finetune.hosted.job_request import TrainingSettings
from pytest_dspy_ft.finetune.kept_collections import KeptCollection
from pytest_dspy_ft.finetune.settings import finetuners, training_settings
from pytest_dspy_ft.fingerprint import lm_identity
from pytest_dspy_ft.ladder.drift import judging_lms
from pytest_dspy_ft.ladder.dspy_versions import dspy_version
from pytest_dspy_ft.ladder.estimates import calls_of
from pytest_dspy_ft.ladder.ladder import Ladder
from pytest_dspy_ft.ladder.local_time import CHARACTERS_PER_TOKEN, LocalTime
from pytest_dspy_ft.ladder.preflight import stage_problems
from pytest_dspy_ft.ladder.prompts import sample_prompts
from pytest_dspy_ft.ladder.recipe import stage_lm
from pytest_dspy_ft.lms.failures import describe_exception
from pytest_dspy_ft.lms.prices import Prices
from pytest_dspy_ft.lms.resolve import is_local
from pytest_dspy_ft.records.base import SPLITS, Split
from pytest_dspy_ft.records.build import BuildRecord
from pytest_dspy_ft.records.evaluation import StageResult
from pytest_dspy_ft.records.plan import Plan, PlanStep

REPLY_TOKENS = 40
"""A reply's markers and what a label does not show, guessed."""

LABEL_MARKERS = 14
"""The tokens of a reply of one field beside its value, in DSPy's chat format."""

UNKNOWN = {"lm_calls": None, "tokens": None, "seconds": None, "cost": None}


def plan(
    ladder: Ladder, builds: Collection[str], evaluations: Collection[tuple[str, Split]], prices: Prices | None = None
) -> Plan:
    """The steps to these stages and these evaluations, each with an estimate of what it would take.

    Args:
        ladder: The experiment's ladder; nothing in it is built, and no LM is called.
        builds: Stages that are needed as programs.
        evaluations: (stage, split) that gates need.
        prices: What models cost.
    """
    experiment = ladder.experiment
    asked = {name for name, _ in evaluations} | set(builds)
    needed = {name for stage in asked for name in experiment.closure(stage)}
    ordered = [name for stage in experiment.stages for name in experiment.closure(stage) if name in needed]
    planner = _Planner(ladder, prices or Prices())
    steps: list[PlanStep] = []
    problems: list[str] = []
    for name in dict.fromkeys(ordered):
        steps.append(_planned(partial(planner.building, name), stage=name, action="build"))
        steps += [
            _planned(partial(planner.evaluation, name, on), stage=name, on=on, action="measure")
            for on in SPLITS
            if (name, on) in evaluations
        ]
        problems += planner.problems(name)
    timed = tuple(planner.with_loading(steps))
    return Plan(experiment=experiment.name, lm=str(experiment.lm.model), steps=timed, problems=tuple(problems))


def unplannable(experiment: Experiment, error: Exception) -> Plan:
    """The plan of an experiment that cannot be looked at.

    Args:
        experiment: The experiment.
        error: What looking at it raised.
    """
    why = str(error) if isinstance(error, DspyFtError) else describe_exception(error)
    text = f"nothing can be planned for experiment {experiment.name!r}: {why}"
    return Plan(experiment=experiment.name, lm=str(experiment.lm.model), steps=(), problems=(text,))


def _planned(plan_step: Callable[[], PlanStep], **step: Any) -> PlanStep:
    """A step as it is planned; where that raises, what could not be estimated and why.

    Args:
        plan_step: Plans it; a program, an optimizer or an LM of the user's may raise anything.
        step: What is known of it all the same.
    """
    try:
        return plan_step()
    except Exception as error:
        why = str(error) if isinstance(error, DspyFtError) else describe_exception(error, 200)
        return PlanStep.model_validate({**step, **UNKNOWN, "basis": f"not estimated: {why}"})


@dataclass(frozen=True)
class _Figures:
    """LM calls, tokens, seconds and US dollars that some work takes; None where that is not known."""

    lm_calls: float = 0.0
    tokens: float = 0.0
    seconds: float | None = 0.0
    cost: float | None = 0.0

    def __add__(self, other: _Figures) -> _Figures:
        return _Figures(
            self.lm_calls + other.lm_calls,
            self.tokens + other.tokens,
            None if self.seconds is None or other.seconds is None else self.seconds + other.seconds,
            None if self.cost is None or other.cost is None else self.cost + other.cost,
        )

    def times(self, count: int) -> _Figures:
        """The same work so many times; what is not known of it does not matter where it is not done."""
        if not count:
            return _Figures()
        seconds, cost = (None if each is None else count * each for each in (self.seconds, self.cost))
        return _Figures(count * self.lm_calls, count * self.tokens, seconds, cost)

    def fields(self) -> dict[str, Any]:
        """As fields of a :class:`PlanStep`."""
        return {**asdict(self), "lm_calls": round(self.lm_calls), "tokens": round(self.tokens)}


class _Planner:
    """Says of each piece of work whether the store has it, and else what it would take."""

    def __init__(self, ladder: Ladder, prices: Prices) -> None:
        self._ladder = ladder
        self._experiment = ladder.experiment
        self._prices = prices
        self._time = LocalTime(ladder.settings)

    def with_loading(self, steps: Sequence[PlanStep]) -> Iterator[PlanStep]:
        """The steps, the first of which that asks a model of this machine loads it."""
        loaded = False
        for step in steps:
            if not loaded and step.seconds and step.action in ("build", "measure"):
                loaded, lm = True, self._ladder.recipe(step.stage).lm
                yield step.model_copy(update={"seconds": step.seconds + self._time.loading(lm)})
            else:
                yield step

    def building(self, name: str) -> PlanStep:
        """The step that has the stage as a program."""
        if (built := self._ladder.find(name)) is not None:
            other = f"built with DSPy {built.recipe.version}" if built.recipe.version != dspy_version() else ""
            return PlanStep(stage=name, action="load", why=other)
        stage = self._experiment.stages[name]
        figures: dict[str, Any] = {}
        if stage.optimizer is not None:
            kept = self._ladder.kept_traces(name)
            figures = self._trained_only(stage, kept) if kept else self._as_before(stage) or self._by_settings(stage)
        return PlanStep(stage=name, action="build", why=self._ladder.why(name), **figures)

    def evaluation(self, name: str, on: Split) -> PlanStep:
        """The step that has the stage measured on a split."""
        if self._ladder.find_evaluation(name, on) is not None:
            return PlanStep(stage=name, on=on, action="load")
        if why := self._ladder.why_scored_again(name, on):
            return self._scoring(name, on, why)
        calls = self._experiment.dataset.sizes[on] * self._ladder.repeats_of(name)
        each, basis = self._one_call(name)
        built = self._ladder.find(name) is not None
        why = (
            self._ladder.why_unmeasured(name, on) or "never measured before" if built else "the stage is not built yet"
        )
        if (name, on) in self._ladder.settings.measure_anew and self._newest_evaluation(name) is not None:
            why = "compared with a baseline: its LM may have changed behind its name"
        figures = each.times(calls).fields()
        if ending := self._ladder.foreseen_end(name, on):
            basis, figures["at_most"] = f"{basis}; {ending}", True
        return PlanStep(stage=name, on=on, action="measure", why=why, basis=basis, **figures)

    def _scoring(self, name: str, on: Split, why: str) -> PlanStep:
        """The step that scores stored outputs: it takes no LM call but a judge's."""
        figures: dict[str, Any] = {"basis": "no LM call: the outputs are in the store"}
        if judging_lms(self._experiment):
            last, calls = self._newest_evaluation(name), self._experiment.dataset.sizes[on]
            asked = None if last is None else last.judge.lm_calls / max(last.n, 1) * calls
            unknown = {**UNKNOWN, "lm_calls": None if asked is None else round(asked)}
            figures = {**unknown, "basis": "calls of its judge, as in its last evaluation"}
        return PlanStep(stage=name, on=on, action="score", why=f"scored again from stored outputs: {why}", **figures)

    def problems(self, name: str) -> list[str]:
        """What keeps a stage that is not there from being built."""
        stage = self._experiment.stages[name]
        lm, launcher = stage_lm(self._experiment, stage), self._ladder.settings.launcher
        try:
            if stage.optimizer is None or self._ladder.find(name) is not None:
                return []
            return list(stage_problems(self._experiment, stage, lm, launcher, started=True, with_keys=False))
        except Exception as error:  # of the user's own; its step says it
            return [f"stage {name!r}: {describe_exception(error)}"]

    # --- building ----------------------------------------------------------------------------------------------------

    def _as_before(self, stage: Stage) -> dict[str, Any] | None:
        """The figures of the stage's newest build, if it learned from the same examples; None without one."""
        manifest = self._ladder.store.newest_manifest(self._experiment.name, stage.name)
        if manifest is None:
            return None
        try:
            record = BuildRecord.model_validate(manifest["record"])
        except (KeyError, ValueError):
            return None  # another version's
        if manifest["parts"].get("train") != self._ladder.recipe(stage.name).part_digests.get("train"):
            return None  # another train split is other work
        usage = record.usage
        jobs = sum(job.cost or 0.0 for job in record.training)
        cost = None if usage.cost is None else usage.cost + jobs
        tokens = None if usage.unmetered_calls else usage.tokens
        figures = {"lm_calls": usage.lm_calls, "tokens": tokens, "seconds": record.seconds, "cost": cost}
        return {**figures, "basis": "what building it took before"}

    def _trained_only(self, stage: Stage, kept: KeptCollection) -> dict[str, Any]:
        """The figures of a training on traces that are there."""
        own, _ = self._one_call(stage.start)
        seconds, basis = self._training_time(stage, len(kept.rows))
        total = _Figures(seconds=seconds, cost=self._training_cost(stage, len(kept.rows), own.tokens))
        return {**total.fields(), "basis": f"traces kept from {kept.created}; {basis}"}

    def _by_settings(self, stage: Stage) -> dict[str, Any]:
        """The figures that the settings of the stage's optimizer let one expect."""
        train = self._experiment.dataset.held("train")
        calls = calls_of(stage, train, len(self._experiment.program.predictors()))
        if calls is None:
            return {**UNKNOWN, "basis": f"{type(stage.optimizer).__name__}: only running it can tell"}
        own, basis = self._one_call(stage.start)
        taught, _ = self._one_call(stage.teacher) if stage.teacher else (own, basis)
        proposal = _Figures(1, max(own.tokens, taught.tokens), own.seconds, own.cost)
        total = own.times(calls.program) + taught.times(calls.teacher) + proposal.times(calls.other)
        asks = calls.program or calls.teacher or calls.other
        basis = f"{calls.basis}; a call: {basis}" if asks else calls.basis
        if calls.trained_rows:
            seconds, rests_on = self._training_time(stage, calls.trained_rows)
            total += _Figures(seconds=seconds, cost=self._training_cost(stage, calls.trained_rows, own.tokens))
            basis = "; ".join(dict.fromkeys([*basis.split("; "), rests_on]))
        return {**total.fields(), "at_most": calls.bound, "basis": basis}

    def _training_time(self, stage: Stage, rows: int) -> tuple[float | None, str]:
        """Seconds for training on all rows, and what they rest on."""
        lm, predictors = self._ladder.recipe(stage.name).lm, self._experiment.program.predictors()
        prompts = [prompt for predictor in predictors for prompt in _prompts(self._experiment, predictor)]
        taught = LABEL_MARKERS + _label_tokens(self._experiment)
        seconds, basis = self._time.training(lm, stage.optimizer, rows, prompts, taught)
        return seconds, basis or "time of training not known yet"

    def _training_cost(self, stage: Stage, rows: int, tokens: float) -> float | None:
        """US dollars for training on all rows of so many tokens each; None where the price is not known."""
        lm = self._ladder.recipe(stage.name).lm
        if is_local(lm):
            launcher = self._ladder.settings.launcher
            return 0.0 if launcher is None or getattr(launcher, "runs_here", False) else None
        price = self._prices.of(lm.model)
        settings = training_settings(lm, finetuners(stage.optimizer)[0])
        epochs = TrainingSettings(n_epochs=settings.get("n_epochs", settings.get("epochs", "auto"))).epochs(rows)
        return None if price is None else price.training_cost(round(rows * tokens * epochs))

    # --- one call ----------------------------------------------------------------------------------------------------

    def _one_call(self, name: str) -> tuple[_Figures, str]:
        """The figures of one call of a stage's program, and the evidence for them."""
        recipe, start = self._ladder.recipe(name), self._experiment.stages[name].start
        if (result := self._newest_evaluation(name)) is not None:
            return _measured(result), f"its last evaluation on {result.on}"
        same_lm = lm_identity(recipe.lm) == lm_identity(self._ladder.recipe(start).lm)
        if same_lm and (result := self._newest_evaluation(start)) is not None:
            return _measured(result), f"its start's last evaluation ({start}) on {result.on}"
        predictors = self._experiment.program.predictors()
        sampled = [_prompts(self._experiment, predictor) for predictor in predictors]
        prompt = sum(_mean_tokens(prompts) if prompts else REPLY_TOKENS for prompts in sampled)
        one_reply = REPLY_TOKENS + _label_tokens(self._experiment)
        price = self._prices.of(recipe.lm.model)
        cost = None if price is None else price.cost(round(prompt), round(one_reply * len(predictors)))
        times = [self._time.answering(recipe.lm, prompts, one_reply) for prompts in sampled]
        seconds = None if any(each is None for each, _ in times) else sum(each or 0.0 for each, _ in times)
        basis = "; ".join(filter(None, ("the length of prompts and labels", times[0][1] if times else "")))
        return _Figures(len(predictors), prompt + one_reply * len(predictors), seconds, cost), basis

    def _newest_evaluation(self, name: str) -> StageResult | None:
        result = self._ladder.store.newest_evaluation(self._experiment.name, name)
        known = result is not None and result.n and result.tokens is not None  # some replies do not say what they took
        return result if known else None


def _measured(result: StageResult) -> _Figures:
    """The figures of one call in an evaluation, on average."""
    seconds = result.wall_seconds / result.calls if result.wall_seconds else None
    return _Figures(result.usage.lm_calls / result.calls, result.tokens or 0.0, seconds, result.cost)


def _prompts(experiment: Experiment, predictor: Any) -> list[Any]:
    """A predictor's prompts for a few examples, what other predictors give it left out."""
    return list(sample_prompts(experiment, predictor, experiment.dataset.train[:5] or experiment.dataset.dev[:5]))


def _label_tokens(experiment: Experiment) -> float:
    return _mean_tokens(example.labels().toDict() for example in experiment.dataset.held("train")[:20])


def _mean_tokens(values: Iterable[Any]) -> float:
    """The mean length of values as JSON; 0 without any."""
    lengths = [len(json.dumps(value, default=str)) for value in values]
    return sum(lengths) / max(len(lengths), 1) / CHARACTERS_PER_TOKEN
