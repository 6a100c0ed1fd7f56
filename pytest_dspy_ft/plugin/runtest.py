"""When a test runs: is it within reach, and do its gates hold?

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_dspy_ft.plugin.collection import REFUSAL
from pytest_dspy_ft.plugin.compat import skip_test
from pytest_dspy_ft.plugin.experiments import EXPERIMENT
from pytest_dspy_ft.plugin.guards import caution_of, guard_large_dataset
from pytest_dspy_ft.plugin.markers import GATES, ITEM_EXPERIMENT, STAGES, applicable_gates
from pytest_dspy_ft.plugin.session import plain_errors, session_of

if TYPE_CHECKING:
    from pytest_dspy_ft.experiment.experiment import Experiment
    from pytest_dspy_ft.records.evaluation import StageResult


def skip_out_of_reach(item: pytest.Item) -> None:
    """Skip a test that needs a stage beyond ``--dspy-stage``, or whose gates are all for other LMs."""
    session = session_of(item.config)
    if refusal := item.config.stash.get(REFUSAL, ""):
        pytest.fail(refusal, pytrace=False)
    experiment = item.stash.get(ITEM_EXPERIMENT, None)
    if experiment is None:
        return
    stages = item.stash.get(STAGES, [])
    session.require(experiment, stages)
    gates, applicable = item.stash.get(GATES, []), applicable_gates(item, experiment)
    if gates and not applicable:
        patterns = ", ".join(dict.fromkeys(gate.lm for gate in gates if gate.lm))
        skip_test(f"its gates hold for {patterns}; this session runs {experiment.lm.model}")
    for gate in applicable:
        session.require(experiment, sorted(gate.stages))


def judge_gates(item: pytest.Item) -> None:
    """Judge the test's gates, building and measuring what they name.

    A gate that does not hold fails the test right here, so that ``--lf``, JUnit and ``-x`` see it like any failure.
    """
    if not item.stash.get(GATES, []):
        return
    experiment: Experiment = item.funcargs[EXPERIMENT]  # type: ignore[attr-defined]
    session = session_of(item.config)
    failures = []
    with plain_errors():
        guard_large_dataset(item, experiment)
        ladder = session.ladder(experiment)
        for gate in reversed(applicable_gates(item, experiment)):  # the order in which the markers are written
            verdict = ladder.judge(
                gate,
                test=item.nodeid,
                caution=caution_of(item, gate),
                divisor=session.trials.divisor(experiment, gate),
            )
            item.user_properties.append(
                ("dspy_gate", f"{gate.expression} on {gate.on}: {verdict.observed} {verdict.verdict}")
            )
            for stage in sorted(gate.score_stages):
                record_score(item, ladder.evaluate(stage, gate.on))
            if not verdict.passed:
                failures.append(verdict.message)
            elif verdict.verdict == "UNDECIDED" and verdict.undecided == "warn":
                item.warn(pytest.PytestWarning(f"undecided gate: {verdict.message.splitlines()[0]}"))
    if failures:
        pytest.fail("\n\n".join(failures), pytrace=False)


def record_score(node: pytest.Item, result: StageResult) -> None:
    """Put a result's figures into the test's JUnit properties, once; xdist carries nothing richer than text safely."""
    low, high = result.interval
    figures = {
        "score": f"{result.score:.6f}",
        "interval": f"{low:.6f} {high:.6f}",
        "n": str(result.n),
        "unparsed": str(result.unparsed),
        "errors": str(result.errors),
    }
    for name, value in figures.items():
        entry = (f"dspy_{name}.{result.stage}.{result.on}", value)
        if entry not in node.user_properties:
            node.user_properties.append(entry)
