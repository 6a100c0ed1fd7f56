"""``--dspy-rescore``: all outputs in the store, scored with the metrics of the collected tests' experiments.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_dspy_ft.plugin.failures import plain_errors
from pytest_dspy_ft.plugin.markers import ITEM_EXPERIMENT
from pytest_dspy_ft.plugin.session import session_of

if TYPE_CHECKING:
    from pytest_dspy_ft.records.rescored import RescoredRow

_RESCORED: pytest.StashKey[dict[str, list[RescoredRow]]] = pytest.StashKey()


def rescored_of(config: pytest.Config) -> dict[str, list[RescoredRow]]:
    """What scoring came to, by experiment."""
    return config.stash.get(_RESCORED, {})


def score_all(session: pytest.Session) -> None:
    """Score what the store has of each experiment that the collected tests use; what cannot be scored is a failure."""
    from pytest_dspy_ft.ladder.rescoring import rescore

    state, found = session_of(session.config), session.config.stash.setdefault(_RESCORED, {})
    for item in session.items:
        experiment = item.stash.get(ITEM_EXPERIMENT, None)
        if experiment is not None and experiment.name not in found:
            with plain_errors():
                found[experiment.name] = rescore(state.ladder(experiment))
    session.testsfailed += sum(row.failed for rows in found.values() for row in rows)
