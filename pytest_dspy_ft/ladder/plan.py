"""What a session would build, load and measure, and what that would take: found out without calling an LM.

A stage's key says whether the store has it, and which part of the key changed says why it does not. What work would
take is estimated from the best evidence there is, in this order: what the same stage took before (under another key or
on another split), what the stage it starts from took, and the length of its prompts. The evidence is named beside
every figure; what cannot be known is None.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_dspy_ft.evaluation.programs import adapter_of
from pytest_dspy_ft.experiment.stage import Stage
from pytest_dspy_ft.finetune.hosted.job_request import HostedSettings
from pytest_dspy_ft.finetune.settings import finetuners, training_settings
from pytest_dspy_ft.fingerprint import lm_identity
from pytest_dspy_ft.ladder.estimates import Calls, calls_of
from pytest_dspy_ft.ladder.ladder import Ladder
from pytest_dspy_ft.lms.prices import Prices
from pytest_dspy_ft.lms.resolve import is_local
from pytest_dspy_ft.records.base import Split
from pytest_dspy_ft.records.build import BuildRecord
from pytest_dspy_ft.records.evaluation import StageResult
from pytest_dspy_ft.records.plan import Plan, PlanStep

CHARACTERS_PER_TOKEN = 4.0
"""Of English text, roughly."""

REPLY_TOKENS = 40
"""A reply's markers and what a label does not show, guessed."""


def plan(
    ladder: Ladder, builds: Collection[str], evaluations: Collection[tuple[str, Split]], prices: Prices | None = None
) -> Plan:
    """What it would take to have these stages and these evaluations.

    Args:
        ladder: The experiment's ladder; nothing in it is built, and no LM is called.
        builds: Stages that are needed as programs.
        evaluations: (stage, split) that gates need.
        prices: What models cost.
    """
    experiment = ladder.experiment
    wanted = {name for name, _ in evaluations} | set(builds)
    needed = {name for stage in wanted for name in experiment.closure(stage)}
    ordered = [name for stage in experiment.stages for name in experiment.closure(stage) if name in needed]
    planner = _Planner(ladder, prices or Prices())
    steps: list[PlanStep] = []
    for name in dict.fromkeys(ordered):
        steps.append(planner.building(name))
        splits = [on for on in ("train", "dev", "test") if (name, on) in evaluations]
        steps += [planner.evaluation(name, on) for on in splits]  # type: ignore[arg-type]
    return Plan(experiment=experiment.name, lm=experiment.lm.model, steps=tuple(steps))


@dataclass(frozen=True)
class _PerCall:
    """What one call of a program takes."""

    lm_calls: float
    tokens: float
    seconds: float | None
    cost: float | None
    basis: str


class _Planner:
    def __init__(self, ladder: Ladder, prices: Prices) -> None:
        self._ladder = ladder
        self._experiment = ladder.experiment
        self._prices = prices

    def building(self, name: str) -> PlanStep:
        if self._ladder.find(name) is not None:
            return PlanStep(stage=name, action="load")
        stage = self._experiment.stages[name]
        step = PlanStep(stage=name, action="build", why=self._ladder.why(name))
        if stage.optimizer is None:
            return step
        earlier = self._earlier_build(name)
        if earlier is not None:
            cost = (
                None if earlier.usage.cost is None else earlier.usage.cost + sum(_job_cost(j) for j in earlier.training)
            )
            figures = {"lm_calls": earlier.usage.lm_calls, "tokens": earlier.usage.tokens, "seconds": earlier.seconds}
            return step.model_copy(update={**figures, "cost": cost, "basis": "what building it took before"})
        predictors = len(self._experiment.program.named_predictors())
        calls = calls_of(stage, self._experiment.dataset.split("train"), predictors)
        if calls is None:
            unknown = {"lm_calls": None, "tokens": None, "seconds": None, "cost": None}
            basis = f"{type(stage.optimizer).__name__}: only running it can tell"
            return step.model_copy(update={**unknown, "basis": basis})
        return step.model_copy(update=self._counted(stage, calls))

    def evaluation(self, name: str, on: Split) -> PlanStep:
        if self._ladder.find_evaluation(name, on) is not None:
            return PlanStep(stage=name, on=on, action="load")
        n = len(self._experiment.dataset.split(on)) * self._ladder.repeats_of(name)
        each = self._per_call(name)
        why = "never measured before" if self._ladder.find(name) is not None else "the stage is not built yet"
        return PlanStep(
            stage=name,
            on=on,
            action="measure",
            why=why,
            lm_calls=round(n * each.lm_calls),
            tokens=round(n * each.tokens),
            seconds=None if each.seconds is None else n * each.seconds,
            cost=None if each.cost is None else n * each.cost,
            basis=each.basis,
        )

    def _counted(self, stage: Stage, calls: Calls) -> dict[str, Any]:
        own = self._per_call(stage.start)
        taught = self._per_call(stage.teacher) if stage.teacher else own
        lm_calls = calls.program * own.lm_calls + calls.teacher * taught.lm_calls + calls.other
        tokens = calls.program * own.tokens + calls.teacher * taught.tokens
        tokens += calls.other * max(own.tokens, taught.tokens)
        times = [(calls.program, own.seconds), (calls.teacher, taught.seconds), (calls.other, own.seconds)]
        costs = [(calls.program, own.cost), (calls.teacher, taught.cost), (calls.other, own.cost)]
        cost, training = _sum(costs), self._training_cost(stage, calls, own)
        trains = calls.trained_rows > 0
        seconds = _sum(times)
        return {
            "lm_calls": round(lm_calls),
            "at_most": calls.bound,
            "tokens": round(tokens),
            "seconds": None if trains else seconds,
            "cost": None if cost is None or training is None else cost + training,
            "basis": f"{calls.basis}; a call: {own.basis}" + ("; time of training not known yet" if trains else ""),
        }

    def _training_cost(self, stage: Stage, calls: Calls, each: _PerCall) -> float | None:
        """US dollars for training on all rows; None where the price is not known."""
        lm = self._ladder.recipe(stage.name).lm
        if not calls.trained_rows or is_local(lm):
            return 0.0
        price = self._prices.of(lm.model)
        own = training_settings(lm, finetuners(stage.optimizer)[0])
        epochs = HostedSettings(n_epochs=own.get("n_epochs", own.get("epochs", "auto"))).epochs(calls.trained_rows)
        return None if price is None else price.training_cost(round(calls.trained_rows * each.tokens * epochs))

    def _earlier_build(self, name: str) -> BuildRecord | None:
        manifest = self._ladder.store.newest_manifest(self._experiment.name, name)
        if manifest is None:
            return None
        try:
            record = BuildRecord.model_validate(manifest["record"])
        except (KeyError, ValueError):
            return None  # another version's
        same = manifest["parts"].get("train") == self._ladder.recipe(name).part_digests.get("train")
        return record if same else None  # another train split is other work

    def _per_call(self, name: str) -> _PerCall:
        """What a call of a stage's program takes."""
        lm = self._ladder.recipe(name).lm
        for earlier, words in ((name, "its last evaluation"), (self._experiment.stages[name].start, "its start's")):
            result = self._ladder.store.newest_evaluation(self._experiment.name, earlier)
            if result is not None and result.n and (earlier == name or self._same_lm(name, earlier)):
                return _measured(result, words if earlier == name else f"{words} last evaluation ({earlier})")
        predictors = self._experiment.program.named_predictors()
        prompt = sum(self._prompt_tokens(predictor) for _, predictor in predictors)
        reply = (REPLY_TOKENS + self._label_tokens()) * len(predictors)
        price = self._prices.of(lm.model)
        cost = None if price is None else price.cost(round(prompt), round(reply))
        return _PerCall(len(predictors), prompt + reply, None, cost, "the length of prompts and labels")

    def _same_lm(self, one: str, other: str) -> bool:
        first, second = (lm_identity(self._ladder.recipe(name).lm) for name in (one, other))
        return first == second

    def _prompt_tokens(self, predictor: Any) -> float:
        """The mean length of a predictor's prompt over a few examples, what other predictors give it left out."""
        examples = self._experiment.dataset.split("train")[:5] or self._experiment.dataset.split("dev")[:5]
        adapter = adapter_of(self._experiment)
        signature = predictor.signature
        lengths = []
        for example in examples:
            inputs = {field: example.get(field, "") for field in signature.input_fields}
            try:
                messages = adapter.format(signature, predictor.demos, inputs)
            except Exception:  # an adapter or a field of the user's own: a guess is not worth a failure
                return REPLY_TOKENS
            lengths.append(len(json.dumps(messages, default=str)))
        return sum(lengths) / max(len(lengths), 1) / CHARACTERS_PER_TOKEN

    def _label_tokens(self) -> float:
        examples = self._experiment.dataset.split("train")[:20]
        lengths = [len(json.dumps(example.labels().toDict(), default=str)) for example in examples]
        return sum(lengths) / max(len(lengths), 1) / CHARACTERS_PER_TOKEN


def _measured(result: StageResult, words: str) -> _PerCall:
    usage = result.usage
    seconds = result.wall_seconds / result.calls if result.wall_seconds else None
    return _PerCall(usage.lm_calls / result.calls, result.tokens, seconds, result.cost, f"{words} on {result.on}")


def _sum(terms: Sequence[tuple[int, float | None]]) -> float | None:
    """The sum of count times figure; a figure that is not known counts only where it is needed."""
    if any(count and each is None for count, each in terms):
        return None
    return sum(count * (each or 0.0) for count, each in terms)


def _job_cost(job: Any) -> float:
    return float(getattr(job, "cost", None) or 0.0)
