"""At collection: markers and names are checked, nothing is built.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_dspy_ft.plugin.experiments import EXPERIMENT, declared_experiments
from pytest_dspy_ft.plugin.guards import take_precautions
from pytest_dspy_ft.plugin.markers import (
    GATES,
    ITEM_EXPERIMENT,
    MARKERS,
    STAGES,
    has_marker,
    read_gates,
    read_stages,
    where,
)
from pytest_dspy_ft.plugin.session import DspySession, is_worker, out_of_reach, session_of

if TYPE_CHECKING:
    from pytest_dspy_ft.experiment.experiment import Experiment


def request_experiment(collector: Any, name: str, obj: object) -> None:
    """Make a function with one of our markers request ``dspy_experiment``, before pytest looks at what it requests."""
    if not collector.funcnamefilter(name) if hasattr(collector, "funcnamefilter") else True:
        return
    function = getattr(obj, "__func__", obj)
    if inspect.isfunction(function) and has_marker(collector, function):
        pytest.mark.usefixtures(EXPERIMENT)(function)


def read_markers(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Read the markers of all tests.

    Raises:
        pytest.UsageError: With every wrong marker, one a line.
    """
    confidence = session_of(config).options.confidence
    problems = []
    session_of(config).survey.seen = [item for item in items if measures(item)]
    for item in items:
        if not any(item.get_closest_marker(name) for name in MARKERS):
            continue
        try:
            item.stash[GATES] = read_gates(item, confidence)
            item.stash[STAGES] = read_stages(item)
        except pytest.UsageError as error:
            problems.append(str(error))
    _refuse(config, problems)


def check_experiments(session: pytest.Session) -> None:
    """Look at the experiments that the collected tests use, and check every name against them.

    Raises:
        pytest.UsageError: If an experiment cannot be declared, two have one name, a gate or an option names a stage
            that does not exist, or a gate is on an empty split.
    """
    items = [item for item in session.items if EXPERIMENT in getattr(item, "fixturenames", ())]
    if not items:
        return
    problems: list[str] = []
    experiments = declared_experiments(session, items, problems)
    for item in items:
        if ITEM_EXPERIMENT in item.stash:
            problems.extend(_name_problems(item, item.stash[ITEM_EXPERIMENT]))
    _refuse(session.config, problems)
    if experiments:
        try:
            session_of(session.config).reach(list(experiments))
        except pytest.UsageError as error:
            _refuse(session.config, [str(error)])
            return
        _refuse(session.config, take_precautions(session.config, items))
        _survey(session_of(session.config), session.items, experiments)


def measures(item: pytest.Item) -> bool:
    """Whether a test may measure something of an experiment; a comparison of what was measured does not."""
    return EXPERIMENT in getattr(item, "fixturenames", ()) and not hasattr(item, "experiment_name")


def _survey(session: DspySession, items: Sequence[pytest.Item], experiments: Sequence[Experiment]) -> None:
    """Note what the chosen tests will measure, what they need beyond reach, and which tests were not chosen."""
    survey = session.survey
    chosen = {id(item) for item in items}
    survey.dropped = [item.nodeid for item in survey.seen if id(item) not in chosen]
    for experiment in experiments:
        allowed = session.allowed[experiment.name]
        survey.beyond[experiment.name] = {
            stage: out_of_reach(experiment, stage) for stage in experiment.stages if stage not in allowed
        }
    for item in items:
        if not measures(item) or ITEM_EXPERIMENT not in item.stash:
            continue
        experiment = item.stash[ITEM_EXPERIMENT]
        gates = [gate for gate in item.stash.get(GATES, []) if gate.applies_to(experiment.lm.model)]
        needed = {*item.stash.get(STAGES, []), *(stage for gate in gates for stage in gate.stages)}
        missed = needed - session.allowed[experiment.name]
        if missed:
            survey.missed.setdefault(experiment.name, set()).update(missed)
        else:
            pairs = {(stage, gate.on) for gate in gates for stage in gate.score_stages}
            survey.wanted.setdefault(experiment.name, set()).update(pairs)


def _name_problems(item: pytest.Item, experiment: Experiment) -> Iterator[str]:
    from pytest_dspy_ft.errors import ExperimentError, GateError

    if not hasattr(experiment, "stages"):
        yield f"{where(item)}: dspy_experiment returned {type(experiment).__name__}, not a pytest_dspy_ft.Experiment"
        return
    for gate in item.stash.get(GATES, []):
        try:
            gate.check_names(experiment.stages)
        except GateError as error:
            yield f"{where(item)}: {error}"
        if not experiment.dataset.split(gate.on):
            yield (
                f"{where(item)}: gate `{gate.expression}` is on {gate.on!r}, but that split of experiment "
                f"{experiment.name!r} is empty"
            )
    for stage in item.stash.get(STAGES, []):
        try:
            experiment.stage(stage)
        except ExperimentError as error:
            yield f"{where(item)}: {error}"


def _refuse(config: pytest.Config, problems: Sequence[str]) -> None:
    if not problems:
        return
    message = "\n".join(dict.fromkeys(problems))
    if is_worker(config):
        # A worker that stops at collection looks crashed: let its tests carry the message instead.
        session_of(config).refusal = message
        return
    raise pytest.UsageError(message)
