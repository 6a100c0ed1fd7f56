"""Gates: what is asked of the stages.

`Gate` reads what stands in a ``dspy_gate`` marker; `pytest_dspy_ft.gates.verdict` holds it against the results.
This module is imported while tests are collected, so it loads nothing heavy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import KW_ONLY, dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, Self, get_args

from pytest_dspy_ft.errors import GateError
from pytest_dspy_ft.gates.expression import FUNCTIONS, Condition
from pytest_dspy_ft.gates.parser import no_function, parse
from pytest_dspy_ft.gates.tokens import complain
from pytest_dspy_ft.statistics import CONFIDENCES, is_confidence
from pytest_dspy_ft.text import LINE, did_you_mean, gate_title, shorten

SplitName = Literal["train", "dev", "test"]
Undecided = Literal["fail", "pass", "warn"]

MIN_SLICE = 20
"""Different examples that a slice has at least, unless told otherwise, to be judged by itself."""


@dataclass(frozen=True)
class Gate:
    """One condition on the stages of an experiment: ``Gate("finetuned >= 88%", on="test", confidence=0.95)``.

    Everything is checked that can be checked without knowing the stages.

    Args:
        expression: A comparison such as ``"finetuned >= prompt_optimized"``.
        on: The split to judge on: ``train``, ``dev`` or ``test``.
        confidence: Judge by the interval of the margin with this confidence, at least 0.5 and below 1; None: by the
            figures as they are.
        undecided: What an interval on both sides of 0 does: ``fail``, ``pass`` or ``warn``.
        lm: The gate holds only for LMs whose name matches this glob, such as ``openai/*``.
        by: Judge the gate in every slice of its split: a field of the examples, or a function's name in
            ``Experiment(slices=...)``.
        min_n: Slices of fewer different examples are put together and judged as one.

    Raises:
        GateError: Something is wrong; the message says what, where, and what would be right.
    """

    expression: str
    _: KW_ONLY
    on: SplitName = "dev"
    confidence: float | None = None
    undecided: Undecided = "fail"
    lm: str | None = None
    by: str | None = None
    min_n: int = MIN_SLICE
    condition: Condition = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.expression, str):
            raise GateError(f"the expression must be a string such as 'finetuned >= 80%', not {self.expression!r}")
        condition, confidence, lm = parse(self.expression), self.confidence, self.lm
        _choose("on", self.on, get_args(SplitName))
        _choose("undecided", self.undecided, get_args(Undecided))
        if confidence is not None:
            if isinstance(confidence, bool) or not isinstance(confidence, (int, float)):
                raise GateError(f"dspy_gate: confidence must be a number such as 0.95, not {confidence!r}")
            if not is_confidence(confidence):
                meant = confidence / 100 if 50 <= confidence < 100 else 1 - confidence
                hint = f"; did you mean {meant:g}?" if is_confidence(meant) else ""
                raise GateError(f"dspy_gate: confidence must be {CONFIDENCES}, not {confidence!r}{hint}")
        if lm is not None and not (isinstance(lm, str) and lm.strip()):
            raise GateError(f"dspy_gate: lm must be the name of a model or a pattern such as 'openai/*', not {lm!r}")
        _check_slicing(condition, self.by, self.min_n)
        object.__setattr__(self, "expression", self.expression.strip())
        object.__setattr__(self, "confidence", None if confidence is None else float(confidence))
        object.__setattr__(self, "condition", condition)

    @classmethod
    def parse(cls, expression: str, **settings: Any) -> Self:
        """The gate that ``Gate(expression, **settings)`` gives: what it was called before it could be made so."""
        return cls(expression, **settings)

    def __repr__(self) -> str:
        asked = [
            f"{setting.name}={value!r}"
            for setting in dataclasses.fields(self)
            if setting.repr
            and setting.name != "expression"
            and (value := getattr(self, setting.name)) != setting.default
        ]
        return shorten(f"Gate({', '.join([repr(self.expression), *asked])})", LINE)

    @property
    def title(self) -> str:
        """The expression, with what the gate is sliced by."""
        return gate_title(self.expression, self.by)

    @property
    def stages(self) -> frozenset[str]:
        """All stages named."""
        return frozenset(q.stage for q in self.condition.quantities)

    @property
    def score_stages(self) -> frozenset[str]:
        """The stages that must be evaluated on the split."""
        return frozenset(q.stage for q in self.condition.quantities if q.measure != "bootstrap_rate")

    @property
    def build_stages(self) -> frozenset[str]:
        """The stages that need only be built: their ``bootstrap_rate`` is all that is asked."""
        return self.stages - self.score_stages

    def corrected(self, divisor: int) -> Self:
        """The gate with the error that its confidence allows divided by a number: other gates are judged beside it."""
        if self.confidence is None or divisor <= 1:
            return self
        return dataclasses.replace(self, confidence=1 - (1 - self.confidence) / divisor)

    def check_names(self, known: Collection[str], metrics: Collection[str] = ()) -> None:
        """Check that every stage and every further metric named exists.

        Args:
            known: The names of all stages of the experiment.
            metrics: The names of its further metrics.

        Raises:
            GateError: One does not; the message suggests the likely one and lists the choices.
        """
        for name, position in self.condition.metrics.items():
            if name not in metrics:
                hint = did_you_mean(name, (*FUNCTIONS, *metrics), quoted="`{}`".format)
                raise complain(self.condition.expression, position, no_function(name, hint, metrics))
        for stage, position in self.condition.positions.items():
            if stage in known:
                continue
            if stage in metrics:
                problem = f"`{stage}` is a metric, and no stage: write `{stage}(stage)`"
                raise complain(self.condition.expression, position, problem)
            hyphened = next((name for name in known if not name.isidentifier() and name in self.expression), None)
            if hyphened is not None:
                hint = (
                    f" (`{hyphened}` reads as a calculation here: only names like `{_as_word(hyphened)}` can be gated)"
                )
            else:
                hint = did_you_mean(stage, known, quoted="`{}`".format)
            problem = f"there is no stage `{stage}`{hint}\n    stages: {', '.join(known)}"
            raise complain(self.condition.expression, position, problem)

    def applies_to(self, lm_model: str) -> bool:
        """Tell whether the gate is to be judged for the LM of this name."""
        return self.lm is None or fnmatchcase(lm_model, self.lm)


def _check_slicing(condition: Condition, by: str | None, min_n: int) -> None:
    if isinstance(min_n, bool) or not isinstance(min_n, int) or min_n < 1:
        raise GateError(f"dspy_gate: min_n must be a whole number of at least 1, not {min_n!r}")
    if by is None:
        if min_n != MIN_SLICE:
            raise GateError(f"dspy_gate: min_n={min_n} is the least size of a slice, and there is no by= to slice by")
        return
    if not isinstance(by, str) or not by.strip():
        raise GateError(f"dspy_gate: by must be the name of a field or of a slice function, not {by!r}")
    if all(quantity.measure == "bootstrap_rate" for quantity in condition.quantities):
        raise GateError(
            f"gate `{condition.expression}`: by={by!r} slices the examples of a split, and a bootstrap_rate is counted "
            "on the traces of 'train'; leave out by="
        )


def _choose(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        hint = did_you_mean(str(value), choices)
        raise GateError(f"dspy_gate: {name} must be one of {', '.join(choices)}, not {value!r}{hint}")


def _as_word(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)
