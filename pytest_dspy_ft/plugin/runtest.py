"""When a test runs: is it within reach, and do its gates hold, also those that were added by then?

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import pytest

from pytest_dspy_ft.plugin.collection import REFUSAL, name_problems
from pytest_dspy_ft.plugin.compat import fixture_value, skip_test, skipped_by_unittest
from pytest_dspy_ft.plugin.experiments import EXPERIMENT
from pytest_dspy_ft.plugin.failures import FailurePart, PlainFailure, plain_errors, plain_failure
from pytest_dspy_ft.plugin.guards import caution_of, guard_demos, guard_large_dataset, guard_late_gate
from pytest_dspy_ft.plugin.markers import (
    GATES,
    ITEM_EXPERIMENT,
    STAGES,
    applicable_gates,
    marked_gates,
    read_item,
    where,
)
from pytest_dspy_ft.plugin.required import JUDGED
from pytest_dspy_ft.plugin.session import session_of
from pytest_dspy_ft.text import first_line
from pytest_dspy_ft.tracebacks import warnings_at

if TYPE_CHECKING:
    from pytest_dspy_ft.experiment.experiment import Experiment
    from pytest_dspy_ft.gates.gate import Gate
    from pytest_dspy_ft.records.evaluation import StageResult
    from pytest_dspy_ft.records.gate import VerdictRecord


def skip_out_of_reach(item: pytest.Item) -> None:
    """Skip a test that needs a stage beyond ``--dspy-stage``, or whose gates are all for other LMs."""
    session = session_of(item.config)
    item.stash[JUDGED] = []  # also where it is run once more
    if refusal := item.config.stash.get(REFUSAL, ""):
        raise plain_failure(refusal)
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
    added = _read_added(item)
    judged = item.stash.setdefault(JUDGED, [])
    waiting = [(mark, gate) for mark, gate in marked_gates(item) if not any(mark is known for known in judged)]
    if (not waiting and added is None) or skipped_by_unittest(item):
        return
    experiment = _experiment_of(item)
    if added is not None:
        _check_added(item, experiment, added)
    session = session_of(item.config)
    failures: list[FailurePart] = []
    with plain_errors(), warnings_at(str(item.path), (item.location[1] or 0) + 1):
        guard_large_dataset(item, experiment)
        ladder = session.ladder(experiment)
        for mark, gate in reversed(waiting):  # the order in which the markers are written
            if not gate.applies_to(experiment.lm.model):
                continue
            with session.progress.passing(f"{experiment.name}: judging {gate.title} on {gate.on}"):
                failures += [FailurePart(first_line(text), text) for text in guard_demos(item, gate, ladder)]
                verdict = ladder.judge(
                    gate,
                    test=item.nodeid,
                    caution=caution_of(item, gate),
                    divisor=session.trials.divisor(experiment, gate),
                    slice_divisors=session.trials.slice_divisors(experiment, gate),
                )
            judged.append(mark)
            item.user_properties.append(
                ("dspy_gate", f"{gate.title} on {gate.on}: {verdict.observed} {verdict.verdict}")
            )
            for result in ladder.measured(gate).values():
                record_score(item, result)
            if not verdict.passed:
                failures.append(FailurePart(_headline(verdict), verdict.message, is_gate=True))
            elif verdict.verdict == "UNDECIDED" and verdict.undecided == "warn":
                item.warn(pytest.PytestWarning(f"undecided gate: {verdict.message.splitlines()[0]}"))
    if failures:
        raise PlainFailure(*failures)


def _headline(verdict: VerdictRecord) -> str:
    """A verdict in one line, its outcome first: the short summary cuts the end off."""
    return f"{verdict.verdict} at {verdict.observed}: {verdict.title} on {verdict.on}"


def refuse_late_gates(item: pytest.Item) -> None:
    """Fail a test whose tear-down added gates: nothing judges them any more."""
    if _read_added(item) is not None:
        raise plain_failure(f"{where(item)}: a gate was added when the test was over: it was not judged")


def _read_added(item: pytest.Item) -> list[Gate] | None:
    """Read the markers of a test again: the gates that were added since, or None if it has the markers it had."""
    before = [mark for mark, _ in marked_gates(item)]
    try:
        if not read_item(item, session_of(item.config).options.confidence):
            return None
    except pytest.UsageError as error:
        raise plain_failure(str(error)) from None
    return [gate for mark, gate in marked_gates(item) if not any(mark is known for known in before)]


def _experiment_of(item: pytest.Item) -> Experiment:
    """The experiment of a running test, whether or not it requested it."""
    if not isinstance(item, pytest.Function):
        raise plain_failure(f"{where(item)}: a gate on a {type(item).__name__}, for which nothing is judged")
    return cast("Experiment", fixture_value(item, EXPERIMENT))


def _check_added(item: pytest.Item, experiment: Experiment, gates: Sequence[Gate]) -> None:
    """The checks that gates and stages known at collection had there, for markers that came while the test ran."""
    item.stash[ITEM_EXPERIMENT] = experiment
    problems = list(name_problems(item, experiment))
    if not problems:
        session = session_of(item.config)
        needed: list[str] = item.stash.get(STAGES, [])
        session.require(experiment, needed)
        for gate in gates:
            if gate.applies_to(experiment.lm.model):
                session.require(experiment, sorted(gate.stages))
                problems += guard_late_gate(item, gate, experiment)
    if problems:
        raise plain_failure("\n".join(problems))


def record_score(node: pytest.Item, result: StageResult) -> None:
    """Put a result's figures into the test's JUnit properties, once; xdist carries nothing richer than text safely."""
    low, high = result.interval
    figures = {
        "score": f"{result.score:.6f}",
        "interval": f"{low:.6f} {high:.6f}",
        "n": str(result.n),
        "unparsed": str(result.unparsed),
        "errors": str(result.errors),
        **{f"metric.{name}": f"{result.metric(name).score:.6f}" for name in result.metrics},
        **({"planned": str(result.planned)} if result.stopped else {}),
    }
    for name, value in figures.items():
        entry = (f"dspy_{name}.{result.stage}.{result.on}", value)
        if entry not in node.user_properties:
            node.user_properties.append(entry)
