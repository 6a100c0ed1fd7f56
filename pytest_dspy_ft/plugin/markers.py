"""The markers ``dspy_gate`` and ``dspy_stage``: read and checked at collection, never silently ignored.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_dspy_ft.errors import GateError
from pytest_dspy_ft.text import did_you_mean

if TYPE_CHECKING:
    from pytest_dspy_ft.experiment.experiment import Experiment
    from pytest_dspy_ft.gates.gate import Gate

GATE = "dspy_gate"
STAGE = "dspy_stage"
MARKERS = (GATE, STAGE)
PREFIX = "dspy_"
"""A mark whose name begins with this is one of ours, or misspelt."""

GATES: pytest.StashKey[list[Gate]] = pytest.StashKey()
"""On an item: its gates, outermost marker last."""
STAGES: pytest.StashKey[list[str]] = pytest.StashKey()
_READ: pytest.StashKey[list[pytest.Mark]] = pytest.StashKey()
"""On an item: the marks that were read, outermost last."""
ITEM_EXPERIMENT: pytest.StashKey[Experiment] = pytest.StashKey()
"""On an item: the experiment it uses, as it was declared at collection."""

HELP = (
    "dspy_gate(expression, *, on='dev', confidence=None, undecided='fail', lm=None, by=None, min_n=20): "
    "the test fails unless the expression over stages holds, e.g. 'finetuned >= prompt_optimized'",
    "dspy_stage(name): the test needs this stage; it is skipped where --dspy-stage does not reach it",
)


def gate_arguments(
    expression: str,
    *,
    on: str = "dev",
    confidence: float | None = None,
    undecided: str = "fail",
    lm: str | None = None,
    by: str | None = None,
    min_n: int = 20,
) -> dict[str, Any]:
    """The signature of ``dspy_gate``: what is not in it is an error."""
    if not isinstance(expression, str):
        raise TypeError(f"the expression must be a string such as 'finetuned >= 80%', not {expression!r}")
    settings = {"on": on, "confidence": confidence, "undecided": undecided, "lm": lm, "by": by, "min_n": min_n}
    return {"expression": expression, **settings}


def stage_arguments(name: str) -> str:
    """The signature of ``dspy_stage``."""
    if not isinstance(name, str):
        raise TypeError(f"a stage's name must be a string, not {name!r}")
    return name


def read_item(item: pytest.Item, default_confidence: float | None) -> bool:
    """Read a test's markers, unless it still has those that were read before: hooks and fixtures may add some.

    Returns:
        True where there was something to read.

    Raises:
        pytest.UsageError: If a mark that begins with ``dspy_`` is none of ours, or a marker's arguments are wrong.
    """
    marks = [mark for mark in item.iter_markers() if mark.name.lower().startswith(PREFIX)]
    read: list[pytest.Mark] = item.stash.get(_READ, [])
    if _same(marks, read):
        return False
    item.stash[_READ] = marks
    for mark in marks:
        if mark.name not in MARKERS:
            hint = did_you_mean(mark.name, MARKERS)
            raise pytest.UsageError(
                f"{where(item)}: there is no marker {mark.name!r}{hint}; those that begin with {PREFIX} are "
                f"{', '.join(MARKERS)}"
            )
    item.stash[GATES] = read_gates(item, default_confidence)
    item.stash[STAGES] = read_stages(item)
    return True


def forget_item(item: pytest.Item) -> None:
    """Let the next :func:`read_item` read a test's markers again."""
    item.stash[_READ], item.stash[GATES], item.stash[STAGES] = [], [], []


def marked_gates(item: pytest.Item) -> list[tuple[pytest.Mark, Gate]]:
    """The gates of a test that were read, each with its mark, outermost last."""
    marks = [mark for mark in item.stash.get(_READ, []) if mark.name == GATE]
    gates: list[Gate] = item.stash.get(GATES, [])
    return list(zip(marks, gates, strict=False))  # fewer gates than marks where a mark is wrong


def read_gates(item: pytest.Item, default_confidence: float | None) -> list[Gate]:
    """The gates of a test, outermost marker last.

    Raises:
        pytest.UsageError: If a marker's arguments or its expression are wrong; it says where and what would be right.
    """
    from pytest_dspy_ft.gates.gate import Gate

    gates = []
    for mark in item.iter_markers(GATE):
        arguments = _bind(item, mark, gate_arguments)
        if arguments["confidence"] is None:
            arguments["confidence"] = default_confidence
        try:
            gates.append(Gate(arguments.pop("expression"), **arguments))
        except GateError as error:
            raise pytest.UsageError(f"{where(item)}: {error}") from None
    return gates


def read_stages(item: pytest.Item) -> list[str]:
    """The stages a test asks for with ``dspy_stage``.

    Raises:
        pytest.UsageError: If a marker's arguments are wrong.
    """
    return [_bind(item, mark, stage_arguments) for mark in item.iter_markers(STAGE)]


def applicable_gates(item: pytest.Item, experiment: Experiment) -> list[Gate]:
    """The gates of a test that are for the experiment's LM."""
    return [gate for gate in item.stash.get(GATES, []) if gate.applies_to(experiment.lm.model)]


def where(item: pytest.Item) -> str:
    """A test as file, line and name."""
    path, line, name = item.location
    return f"{path}:{(line or 0) + 1}: {name}"


def has_marker(collector: Any, function: Any) -> bool:
    """True if a function about to become a test carries one of the markers: itself, by class, module or parameter."""
    marks = [*getattr(function, "pytestmark", ()), *collector.iter_markers()]
    if any(getattr(mark, "name", None) in MARKERS for mark in marks):
        return True
    values = [value for mark in marks if mark.name == "parametrize" for value in _values(mark)]
    return any(mark.name in MARKERS for value in values for mark in getattr(value, "marks", ()))


def _values(mark: pytest.Mark) -> Sequence[object]:
    """The values of a parametrize mark; none where reading them would use them up."""
    values = mark.args[1] if len(mark.args) > 1 else mark.kwargs.get("argvalues")
    return values if isinstance(values, (list, tuple)) else ()


def _same(marks: Sequence[pytest.Mark], others: Sequence[pytest.Mark]) -> bool:
    return len(marks) == len(others) and all(mark is other for mark, other in zip(marks, others, strict=True))


def _bind(item: pytest.Item, mark: pytest.Mark, signature: Any) -> Any:
    try:
        return signature(*mark.args, **mark.kwargs)
    except TypeError as error:
        parameters = inspect.signature(signature).parameters
        choices = ", ".join(p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters.values())
        unknown = next((name for name in mark.kwargs if name not in parameters), "")
        problem = str(error).replace(f"{signature.__name__}()", f"{mark.name}()") + did_you_mean(unknown, parameters)
        raise pytest.UsageError(f"{where(item)}: {problem}; the marker is {mark.name}({choices})") from None
