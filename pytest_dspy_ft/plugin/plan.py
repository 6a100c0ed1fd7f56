"""``--dspy-plan``: what the collected tests would make the session build, load and measure.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_dspy_ft.plugin.markers import GATES, ITEM_EXPERIMENT, STAGES, applicable_gates
from pytest_dspy_ft.plugin.session import session_of

if TYPE_CHECKING:
    from pytest_dspy_ft.experiment.experiment import Experiment
    from pytest_dspy_ft.records.base import Split
    from pytest_dspy_ft.records.plan import Plan

STAGE_FIXTURES = {
    "dspy_baseline": "baseline",
    "dspy_prompt_optimized": "prompt_optimized",
    "dspy_finetuned": "finetuned",
    "dspy_better_together": "better_together",
}
"""The fixtures that stand for a stage."""

_PLANS: pytest.StashKey[list[Plan]] = pytest.StashKey()


def plans_of(config: pytest.Config) -> list[Plan]:
    """The plans that were made, one for each experiment."""
    return config.stash.get(_PLANS, [])


def make_plans(session: pytest.Session) -> None:
    """Plan each experiment that the collected tests use; tests out of reach ask for nothing, as they would be skipped.

    What a test asks for in its body (``dspy_evaluate("...")``) cannot be seen from outside and is not in the plan.
    """
    state = session_of(session.config)
    needs: dict[str, tuple[Experiment, set[str], set[tuple[str, Split]]]] = {}
    for item in session.items:
        experiment = item.stash.get(ITEM_EXPERIMENT, None)
        if experiment is None:
            continue
        gates = applicable_gates(item, experiment)
        if item.stash.get(GATES, []) and not gates:
            continue
        fixtures = {STAGE_FIXTURES[name] for name in getattr(item, "fixturenames", ()) if name in STAGE_FIXTURES}
        builds = {*item.stash.get(STAGES, []), *fixtures, *(name for gate in gates for name in gate.build_stages)}
        measured = {(name, gate.on) for gate in gates for name in gate.score_stages}
        _, all_builds, all_measured = needs.setdefault(experiment.name, (experiment, set(), set()))
        if (builds | {name for name, _ in measured}) <= state.reach.stages(experiment):
            all_builds.update(builds)
            all_measured.update(measured)
    from pytest_dspy_ft.ladder.plan import plan

    plans = session.config.stash[_PLANS] = []
    for experiment, builds, measured in needs.values():
        with state.progress.passing(f"planning {experiment.name}"):
            plans.append(plan(state.ladder(experiment), builds, measured, state.options.prices))
