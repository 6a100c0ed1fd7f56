"""The slices of one experiment in one session: those that gates are judged in, and those that reports show."""

from __future__ import annotations

from collections.abc import Iterable

from pytest_dspy_ft.errors import ExperimentError, GateError
from pytest_dspy_ft.experiment.experiment import Experiment
from pytest_dspy_ft.experiment.slices import check_labels, label_fields, labels_by, source_of
from pytest_dspy_ft.gates.gate import Gate
from pytest_dspy_ft.gates.slices import Slice, grouped_ids, slices_of
from pytest_dspy_ft.records.base import Split
from pytest_dspy_ft.records.slices import SlicingRecord


class Slicings:
    """The slices that reports show of what was measured.

    Args:
        experiment: The experiment, with the examples that the session uses.
        limited: These are not all of its examples, so that many labels may be there once.
    """

    def __init__(self, experiment: Experiment, *, limited: bool = False) -> None:
        self._experiment = experiment
        self._check_labels = labels_by if limited else check_labels
        self._asked: dict[Split, dict[str, None]] = {}
        self._records: dict[tuple[str, Split, bool], SlicingRecord] = {}

    def check(self, on: Split) -> None:
        """Ask the experiment's slice functions about a split, before anything is spent on it.

        Raises:
            ExperimentError: If one fails, or makes no slices.
        """
        for name in self._experiment.slices:
            self._check_labels(self._experiment, name, on)

    def of_gate(self, gate: Gate) -> tuple[Slice, ...]:
        """The slices that a gate with ``by=`` is judged in; reports show them from here on.

        Raises:
            GateError: If there is no such field or slice function, or it makes no slices.
        """
        try:
            self._check_labels(self._experiment, gate.by or "", gate.on)
        except ExperimentError as error:
            raise GateError(f"gate `{gate.expression}`: {error}") from None
        slices = slices_of(self._experiment, gate)
        self._asked.setdefault(gate.on, {})[gate.by or ""] = None
        return slices

    def records(self, splits: Iterable[Split]) -> tuple[SlicingRecord, ...]:
        """The slicings of splits: by what gates asked for, by the experiment's functions, by its labels."""
        found = []
        for on in dict.fromkeys(splits):
            asked = {**self._asked.get(on, {}), **dict.fromkeys(self._experiment.slices)}
            for by in dict.fromkeys([*asked, *label_fields(self._experiment)]):
                found.append(self._record(by, on, by in asked))
        return tuple(found)

    def _record(self, by: str, on: Split, asked: bool) -> SlicingRecord:
        key = by, on, asked
        if key not in self._records:
            groups = grouped_ids(labels_by(self._experiment, by, on))
            source = source_of(self._experiment, by)
            self._records[key] = SlicingRecord(by=by, on=on, source=source, asked=asked, groups=groups)
        return self._records[key]
