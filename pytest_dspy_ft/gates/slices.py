"""The slices that a gate is judged in: the examples of its split by a field or a function, small ones put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_dspy_ft.errors import ExperimentError, GateError
from pytest_dspy_ft.experiment.slices import labels_by
from pytest_dspy_ft.gates.power import too_few
from pytest_dspy_ft.records.slices import NO_LABEL
from pytest_dspy_ft.text import counted, shorten

if TYPE_CHECKING:
    from pytest_dspy_ft.experiment.slices import HasExamples
    from pytest_dspy_ft.gates.gate import Gate

_NAMED = 6
"""Slices that the name of a pool names."""
_LONGEST_NAME = 40


@dataclass(frozen=True)
class Slice:
    """A slice of a split, or several small ones together."""

    name: str
    ids: tuple[str, ...]
    """Of its different examples."""
    pooled: tuple[str, ...] = ()
    """The slices that it was put together from."""


def slices_of(experiment: HasExamples, gate: Gate) -> tuple[Slice, ...]:
    """The slices that a gate is judged in.

    Args:
        experiment: Has the examples.
        gate: One with ``by=``.

    Returns:
        The largest first, what was pooled last. All that is smaller than ``min_n`` is one slice, however small that is.

    Raises:
        GateError: There is no such field or function, or it makes no slices.
    """
    try:
        groups = grouped_ids(labels_by(experiment, gate.by or "", gate.on))
    except ExperimentError as error:
        raise GateError(f"gate `{gate.expression}`: {error}") from None
    return pooled_slices(groups, gate.min_n)


def pooled_slices(groups: Mapping[str, tuple[str, ...]], min_n: int) -> tuple[Slice, ...]:
    """Slices from ids by their label: those of fewer than ``min_n`` are put together, unless there is but one."""
    small = {name: ids for name, ids in groups.items() if len(ids) < min_n}
    if len(small) == 1:
        small = {}
    slices = [Slice(name, ids) for name, ids in groups.items() if name not in small]
    if small:
        members = tuple(identity for ids in small.values() for identity in ids)
        slices.append(Slice(_pool_name(list(small)), members, tuple(small)))
    return tuple(slices)


def grouped_ids(labels: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Ids by their label: numbers in their order, else the largest group first, and what has no label last."""
    groups: dict[str, list[str]] = {}
    for identity, label in labels.items():
        groups.setdefault(label, []).append(identity)
    numbers = all(name.lstrip("-").replace(".", "", 1).isdecimal() for name in groups)
    order = sorted(groups, key=float) if numbers else sorted(groups, key=lambda g: (g == NO_LABEL, -len(groups[g]), g))
    return {name: tuple(groups[name]) for name in order}


def slices_too_few(gate: Gate, slices: Sequence[Slice]) -> str:
    """Explain which slices cannot tell what a gate asks; empty where all can."""
    notes = []
    pooled = [part for part in slices if part.pooled]
    if len(slices) == 1 and pooled:
        notes.append(
            f"each of the {len(pooled[0].pooled)} slices has fewer than min_n={gate.min_n} examples, so they are "
            "judged as one, which is the gate without by="
        )
    elif len(slices) == 1:
        notes.append(f"all examples are in one slice, {slices[0].name!r}, which is the gate without by=")
    for part in slices:
        if len(part.ids) < gate.min_n and len(slices) > 1:
            alone = "with nothing to pool it with" if not part.pooled else "pooled as they are"
            size = f"{counted(len(part.ids), 'example')}, fewer than min_n={gate.min_n}"
            notes.append(f"{part.name!r} has {size}, {alone}, and is judged all the same")
        if note := too_few(gate, len(part.ids)):
            notes.append(f"{part.name!r}: {note.partition(': ')[2] or note}")
    return f"gate `{gate.expression}` by {gate.by!r} on {gate.on!r}: {'; '.join(notes)}" if notes else ""


def _pool_name(names: Sequence[str]) -> str:
    shown = [shorten(name, _LONGEST_NAME) for name in names[:_NAMED]]
    more = [f"{len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return f"(pooled: {', '.join([*shown, *more])})"
