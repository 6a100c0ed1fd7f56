"""Evaluations to hold gates against, and gates held against them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pytest_dspy_ft.gates.gate import Gate
from pytest_dspy_ft.gates.verdict import judge
from pytest_dspy_ft.records.base import Split
from pytest_dspy_ft.records.evaluation import ExampleResult, Outcome, StageResult
from pytest_dspy_ft.records.gate import VerdictRecord
from pytest_dspy_ft.records.usage import Usage


def result(
    stage: str,
    scores: Iterable[float],
    *,
    on: Split = "dev",
    outcomes: Mapping[int, Outcome] | None = None,
    ids: Iterable[str] | None = None,
    **usage: Any,
) -> StageResult:
    """A stage's evaluation with these scores; ids are ex0, ex1, ...; ``usage`` is that of each example."""
    scores = list(scores)
    names = list(ids) if ids is not None else [f"ex{i}" for i in range(len(scores))]
    used = Usage(**{"lm_calls": 1, "input_tokens": 100, "cost": 0.001, "seconds": 0.5, **usage})
    examples = []
    for i, (name, score) in enumerate(zip(names, scores, strict=True)):
        outcome = (outcomes or {}).get(i, "scored")
        error = f"KeyError: 'answer' in {name}" if outcome == "error" else None
        prediction = {"category": "billing" if score == 1 else "other"}
        examples.append(
            ExampleResult(id=name, score=score, outcome=outcome, prediction=prediction, error=error, usage=used)
        )
    return StageResult(experiment="tickets", stage=stage, on=on, lm="openai/x", key="k", examples=tuple(examples))


def share(right: int, n: int) -> list[float]:
    return [1.0] * right + [0.0] * (n - right)


def verdict(expression: str, /, *, seed: int = 0, rates=None, examples=None, **stages) -> VerdictRecord:
    """Judge by the figures as they are; a stage is a StageResult or its scores."""
    return sure(expression, None, seed=seed, rates=rates, examples=examples, **stages)


def sure(
    expression: str, confidence: float | None = 0.95, /, *, seed=0, rates=None, examples=None, **stages
) -> VerdictRecord:
    gate = Gate.parse(expression, confidence=confidence)
    results = {name: s if isinstance(s, StageResult) else result(name, s) for name, s in stages.items()}
    return judge(gate, results, rates, experiment="tickets", examples=examples, seed=seed)


def caret(error: BaseException) -> str:
    """What the expression holds from the caret on."""
    lines = str(error).splitlines()
    at = next(i for i, line in enumerate(lines) if line.strip() == "^")
    return lines[at - 1][lines[at].index("^") :]
