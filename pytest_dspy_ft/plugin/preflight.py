"""Before the first test: stages that could not be built as they are declared refuse the session, before any LM call.

Only stages that the chosen tests need and the store does not have are looked at: what is loaded needs no optimizer, no
package and no key. Keys and servers may be set up by fixtures, so they are asked for when the first test needs them.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from pytest_dspy_ft.plugin.experiments import place_of
from pytest_dspy_ft.plugin.plan import needs_of
from pytest_dspy_ft.plugin.session import DspySession, session_of

if TYPE_CHECKING:
    from pytest_dspy_ft.experiment.experiment import Experiment


def unworkable(session: pytest.Session) -> list[str]:
    """What keeps the collected tests' programs from running and their stages from being built, each with its place.

    Raises:
        pytest.UsageError: ``--dspy-train`` names no launcher.
    """
    state = session_of(session.config)
    state.begin()
    problems = []
    for needs in needs_of(session):
        from pytest_dspy_ft.experiment.argument_checks import input_problem

        experiment = needs.experiment
        place = place_of(session, experiment)
        if misfit := input_problem(f"experiment {experiment.name!r}", experiment.program, experiment.dataset):
            problems.append(f"{place}: {misfit}")
        if state.options.frozen or state.options.instead or session.config.option.collectonly:
            continue
        found = _problems(experiment, needs.stages, state)
        if not found:
            continue
        ladder = state.looking_ladder(experiment)  # the store is looked into only where something is wrong
        for name, problem in found.items():
            if ladder.find(name) is None:
                problems.append(f"{place}: experiment {experiment.name!r}, {problem}")
    return problems


def _problems(experiment: Experiment, stages: set[str], state: DspySession) -> dict[str, str]:
    from pytest_dspy_ft.ladder.preflight import stage_problems
    from pytest_dspy_ft.ladder.recipe import stage_lm

    found: dict[str, str] = {}
    for name in dict.fromkeys(needed for stage in sorted(stages) for needed in experiment.closure(stage)):
        stage = experiment.stages[name]
        lm = stage_lm(experiment, stage)
        # What a user's optimizer or LM raises when it is looked at, it may not raise when it works: its test will show.
        with contextlib.suppress(Exception):
            for problem in stage_problems(experiment, stage, lm, state.launcher, started=True, with_keys=False):
                found.setdefault(name, problem)
    return found
