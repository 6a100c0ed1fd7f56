"""``--dspy-stage``: the stages that a session may use.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_dspy_ft.constants import UPGRADED
from pytest_dspy_ft.errors import ExperimentError

if TYPE_CHECKING:
    from pytest_dspy_ft.experiment.experiment import Experiment


class Reach:
    """The stages within reach, by experiment.

    Args:
        selection: The words of ``--dspy-stage``.
    """

    def __init__(self, selection: Sequence[str]) -> None:
        self._selection = selection
        self._stages: dict[str, frozenset[str]] = {}

    @property
    def is_known(self) -> bool:
        """True once the experiments of the collected tests were looked at."""
        return bool(self._stages)

    def decide(self, experiments: Sequence[Experiment], rebuild: Sequence[str]) -> None:
        """Work out which stages are within reach, and check the words of ``--dspy-rebuild``.

        Raises:
            pytest.UsageError: If an option names something that no experiment has.
        """
        from pytest_dspy_ft.experiment.experiment import reachable

        try:
            self._stages = reachable(experiments, self._selection)
        except ExperimentError as error:
            raise pytest.UsageError(f"--dspy-stage: {error}") from None
        known = {name for experiment in experiments for name in experiment.stages}
        for word in rebuild:
            if word not in ("all", UPGRADED) and word not in known:
                choices = ", ".join(("all", UPGRADED, *sorted(known)))
                raise pytest.UsageError(f"--dspy-rebuild: no stage {word!r}; choices are {choices}")

    def stages(self, experiment: Experiment) -> frozenset[str]:
        """The stages of an experiment that the session may use."""
        known = self._stages.get(experiment.name)
        if known is not None:
            return known
        from pytest_dspy_ft.experiment.experiment import reachable
        from pytest_dspy_ft.records.base import KINDS

        # It was not there at collection: judge it by itself.
        words = [word for word in self._selection if word == "all" or word in KINDS or word in experiment.stages]
        return reachable([experiment], words)[experiment.name]


def out_of_reach(experiment: Experiment, stage: str) -> str:
    """Why a stage is not used in this session, and what would run it."""
    kind = experiment.stages[stage].work
    return f"needs --dspy-stage={kind if kind != 'baseline' else stage}"
