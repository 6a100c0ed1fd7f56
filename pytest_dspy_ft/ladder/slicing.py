"""The slices of one experiment in one session: those that gates are judged in, and those that reports show."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from pytest_dspy_ft.experiment.experiment import Experiment
from pytest_dspy_ft.experiment.slices import label_fields, labels_by, source_of
from pytest_dspy_ft.gates.slices import grouped_ids
from pytest_dspy_ft.records.base import Split
from pytest_dspy_ft.records.gate import VerdictRecord
from pytest_dspy_ft.records.slices import SlicingRecord


class Slicings:
    """The slices that reports show of what was measured.

    Args:
        experiment: The experiment, with the examples that the session uses.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._records: dict[tuple[str, Split, bool], SlicingRecord] = {}

    def check(self, on: Split) -> None:
        """Ask the experiment's slice functions about a split, before anything is spent on it.

        Raises:
            ExperimentError: If one fails, or makes no slices.
        """
        for name in self._experiment.slices:
            labels_by(self._experiment, name, on)

    def records(self, splits: Iterable[Split], verdicts: Collection[VerdictRecord]) -> tuple[SlicingRecord, ...]:
        """The slicings of these splits: by what gates ask for, by the experiment's functions, by its labels.

        Args:
            splits: Those on which something was measured.
            verdicts: What gates were judged so far.
        """
        found = []
        for on in dict.fromkeys(splits):
            asked = dict.fromkeys([v.by for v in verdicts if v.by and v.on == on] + list(self._experiment.slices))
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
