"""``--dspy-plan``: what the collected tests would make the session build, load and measure.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from pytest_dspy_ft.plugin.markers import GATES, ITEM_EXPERIMENT, STAGES, applicable_gates
from pytest_dspy_ft.plugin.session import DspySession, session_of

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


@dataclass
class Needs:
    """What the collected tests need of an experiment."""

    experiment: Experiment
    builds: set[str] = field(default_factory=set)
    """Stages as programs."""
    measured: set[tuple[str, Split]] = field(default_factory=set)
    """Evaluations: stage and split."""

    @property
    def stages(self) -> set[str]:
        """All stages that are named, without those that they need."""
        return self.builds | {name for name, _ in self.measured}


def needs_of(session: pytest.Session) -> list[Needs]:
    """What the collected tests need; tests out of reach ask for nothing, as they would be skipped.

    What a test asks for in its body (``dspy_evaluate("...")``) cannot be seen from outside.
    """
    state = session_of(session.config)
    needs: dict[str, Needs] = {}
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
        known = needs.setdefault(experiment.name, Needs(experiment))
        if (builds | {name for name, _ in measured}) <= state.reach.stages(experiment):
            known.builds.update(builds)
            known.measured.update(measured)
    return list(needs.values())


def make_plans(session: pytest.Session) -> None:
    """Plan each experiment that the collected tests use; a plan in which something cannot be done fails the session."""
    state = session_of(session.config)
    plans: list[Plan] = []
    for needs in needs_of(session):
        with state.progress.passing(f"planning {needs.experiment.name}"):
            plans.append(_plan_of(state, needs))
    session.config.stash[_PLANS] = plans
    session.testsfailed += sum(len(plan.problems) for plan in plans)


def _plan_of(state: DspySession, needs: Needs) -> Plan:
    """The plan of an experiment, whatever its program, optimizers and LMs do when they are looked at."""
    from pytest_dspy_ft.ladder.plan import plan, unplannable

    try:
        return plan(state.ladder(needs.experiment), needs.builds, needs.measured, state.options.prices)
    except Exception as error:
        return unplannable(needs.experiment, error)
