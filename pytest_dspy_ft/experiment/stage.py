"""One version of a program: where it starts, and what is done to it."""

from __future__ import annotations

import inspect
import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, get_args

from pytest_dspy_ft.errors import ExperimentError, raised_where_called
from pytest_dspy_ft.experiment.argument_checks import check_lm
from pytest_dspy_ft.records.base import KINDS, Kind
from pytest_dspy_ft.text import LINE, shorten

if TYPE_CHECKING:
    import dspy

BASELINE = "baseline"

# Names a gate expression already has a meaning for.
RESERVED_NAMES = frozenset({"min", "max", "cost", "tokens", "latency", "errors", "unparsed", "bootstrap_rate", "all"})

DEFAULT_MIN_TRACES = 10


@dataclass(frozen=True)
class Stage:
    """One version of the program: take the program of ``start``, put it on ``lm``, compile it with ``optimizer``.

    Args:
        name: A Python identifier; gates call the stage by it.
        optimizer: Any DSPy teleprompter, or a callable ``(program, *, trainset, teacher) -> program``; None leaves the
            program as ``start`` has it (useful with ``lm=``: the same program on another LM).
        start: The stage whose program this one starts from. It is copied, never changed.
        teacher: The stage whose program gives the answers to learn from; None lets the optimizer use the student.
        lm: The LM to run on; None keeps that of ``start``.
        accept: The score a trace must reach to be trained on, in [0, 1]; None keeps every trace above 0, as DSPy does.
        min_traces: With fewer traces to train on the stage fails before it trains, and says what would help.
        compile_args: Further keyword arguments for ``optimizer.compile``.
        kind: The kind of work, where the optimizer does not show it.

    Raises:
        ExperimentError: If the declaration contradicts itself.
    """

    name: str
    optimizer: Any = None
    start: str = field(default=BASELINE, kw_only=True)
    teacher: str | None = field(default=None, kw_only=True)
    lm: dspy.LM | None = field(default=None, kw_only=True)
    accept: float | None = field(default=None, kw_only=True)
    min_traces: int = field(default=DEFAULT_MIN_TRACES, kw_only=True)
    compile_args: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    kind: Kind | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isidentifier() or keyword.iskeyword(self.name):
            raise ExperimentError(
                f"stage name {self.name!r} cannot be used in a gate: use a Python identifier such as "
                f"{re.sub(r'[^0-9a-zA-Z_]+', '_', str(self.name)).strip('_') or 'prompt_optimized'!r}"
            )
        if self.name in RESERVED_NAMES:
            raise ExperimentError(
                f"stage name {self.name!r} already means something in a gate expression; "
                f"reserved are {', '.join(sorted(RESERVED_NAMES))}"
            )
        if self.optimizer is not None and not (callable(self.optimizer) or hasattr(self.optimizer, "compile")):
            raise ExperimentError(
                f"stage {self.name!r}: optimizer must be a DSPy optimizer or a callable "
                f"(program, *, trainset, teacher) -> program, not {type(self.optimizer).__name__}"
            )
        if inspect.isclass(self.optimizer):
            raise ExperimentError(
                f"stage {self.name!r}: optimizer is the class {self.optimizer.__name__}; "
                f"give an instance: {self.optimizer.__name__}(metric=...)"
            )
        for role, stage in (("start", self.start), ("teacher", self.teacher)):
            if not isinstance(stage, str) and (role == "start" or stage is not None):
                raise ExperimentError(
                    f"stage {self.name!r}: {role} must be the name of a stage, such as {role}='baseline', "
                    f"not {type(stage).__name__}"
                )
        if self.lm is not None:
            check_lm(f"stage {self.name!r}: lm", self.lm, fixture="lm=")
        self._check_accept()
        if not isinstance(self.compile_args, Mapping):
            raise ExperimentError(
                f"stage {self.name!r}: compile_args must be a dict, such as {{'valset': [...]}}, "
                f"not {type(self.compile_args).__name__}"
            )
        if not isinstance(self.min_traces, int) or isinstance(self.min_traces, bool) or self.min_traces < 1:
            raise ExperimentError(
                f"stage {self.name!r}: min_traces={self.min_traces!r} is not a whole number of at least 1"
            )
        if self.kind is not None and self.kind not in get_args(Kind):
            raise ExperimentError(f"stage {self.name!r}: kind={self.kind!r} is none of {', '.join(KINDS)}")
        if self.optimizer is None and (self.teacher or self.compile_args or self.accept is not None):
            raise ExperimentError(f"stage {self.name!r}: teacher, accept and compile_args need an optimizer to act on")

    def _check_accept(self) -> None:
        accept, is_number = self.accept, isinstance(self.accept, int | float) and not isinstance(self.accept, bool)
        if accept is None or (is_number and 0.0 <= accept <= 1.0):
            return
        hint = f"; did you mean {accept / 100:g}?" if is_number and 1.0 < accept <= 100.0 else ": a number such as 0.5"
        raise ExperimentError(f"stage {self.name!r}: accept={accept!r} is outside [0, 1], the range of a score{hint}")

    def __repr__(self) -> str:
        optimizer = "" if self.optimizer is None else getattr(self.optimizer, "__name__", type(self.optimizer).__name__)
        lm = "" if self.lm is None else f"lm={self.lm.model!r}"
        plain = ("start", "teacher", "accept", "min_traces", "compile_args", "kind")
        asked = [
            f"{one.name}={value!r}"
            for one in fields(self)
            if one.name in plain and (value := getattr(self, one.name)) and value != one.default
        ]
        return shorten(f"Stage({', '.join(filter(None, [repr(self.name), optimizer, lm, *asked]))})", LINE)

    @property
    def work(self) -> Kind:
        """The kind of work this stage is, seen from its optimizer unless ``kind`` says otherwise."""
        if self.kind is not None:
            return self.kind
        if self.optimizer is None:
            return "baseline"
        names = {cls.__name__ for cls in type(self.optimizer).__mro__}
        if "BetterTogether" in names:
            return "better_together"
        return "finetune" if names & {"FinetuneTeleprompter", "GRPO"} else "prompt"

    @property
    def needs(self) -> tuple[str, ...]:
        """The stages that must exist before this one can be built."""
        if self.name == BASELINE:
            return ()
        return (self.start,) if self.teacher is None or self.teacher == self.start else (self.start, self.teacher)


Stage.__init__ = raised_where_called(Stage.__init__)  # type: ignore[method-assign]
