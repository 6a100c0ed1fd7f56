"""At collection: markers and names are checked, nothing is built.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_dspy_ft.errors import ExperimentError, GateError
from pytest_dspy_ft.plugin.collected import collected_tests
from pytest_dspy_ft.plugin.commit import checked_out
from pytest_dspy_ft.plugin.compare import Comparison
from pytest_dspy_ft.plugin.compat import is_worker, names_a_test, request_fixture
from pytest_dspy_ft.plugin.experiments import EXPERIMENT, declared_experiments, not_an_experiment
from pytest_dspy_ft.plugin.guards import apply_guards, slice_problems
from pytest_dspy_ft.plugin.markers import (
    GATES,
    ITEM_EXPERIMENT,
    MARKERS,
    STAGES,
    applicable_gates,
    has_marker,
    read_item,
    where,
)
from pytest_dspy_ft.plugin.preflight import unworkable
from pytest_dspy_ft.plugin.reach import out_of_reach
from pytest_dspy_ft.plugin.required import note_declared
from pytest_dspy_ft.plugin.session import session_of

if TYPE_CHECKING:
    from pytest_dspy_ft.experiment.experiment import Experiment
    from pytest_dspy_ft.gates.gate import Gate


REFUSAL: pytest.StashKey[str] = pytest.StashKey()
"""On an xdist worker's config: why it cannot run its tests; elsewhere that is a usage error."""

_MEASURING: pytest.StashKey[list[pytest.Item]] = pytest.StashKey()
"""On the config: all collected tests that may measure an experiment, before any is deselected."""


def request_experiment(collector: Any, name: str, obj: object) -> None:
    """Make a function with one of our markers request ``dspy_experiment``, before pytest looks at what it requests."""
    function = getattr(obj, "__func__", obj)
    if names_a_test(collector, name) and inspect.isfunction(function) and has_marker(collector, function):
        pytest.mark.usefixtures(EXPERIMENT)(function)


def request_experiments(items: Iterable[object]) -> None:
    """The same for tests that were made already: marks of parameters and of ``unittest`` are not on the function."""
    for item in items:
        if isinstance(item, pytest.Function) and any(item.get_closest_marker(name) for name in MARKERS):
            with contextlib.suppress(pytest.UsageError):  # said with all other problems, by read_markers
                _give_experiment(item)


def read_markers(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Read the markers of all tests.

    Raises:
        pytest.UsageError: With every wrong marker, one a line.
    """
    problems = [*_marks_of_conftests(config), *_read(config, items)]
    config.stash[_MEASURING] = [item for item in items if _may_measure(item)]
    _refuse(config, problems)


def check_experiments(session: pytest.Session) -> None:
    """Look at the experiments that the collected tests use, and check every name against them.

    Raises:
        pytest.UsageError: If an experiment cannot be declared, two have one name, a gate or an option names a stage
            that does not exist, or a gate is on an empty split.
    """
    _refuse(session.config, _read(session.config, session.items))  # hooks that ran after ours may have added some
    items = [item for item in session.items if EXPERIMENT in getattr(item, "fixturenames", ())]
    if not items:
        return
    problems: list[str] = []
    experiments, collected_tests(session.config).folders = declared_experiments(session, items, problems)
    for item in items:
        if ITEM_EXPERIMENT in item.stash:
            problems.extend(name_problems(item, item.stash[ITEM_EXPERIMENT]))
    _refuse(session.config, problems)
    if experiments:
        state = session_of(session.config)
        try:
            state.reach.decide(experiments, state.options.rebuild)
        except pytest.UsageError as error:
            _refuse(session.config, [str(error)])
            return
        _refuse(session.config, apply_guards(session.config, items))
        try:
            _refuse(session.config, unworkable(session))
        except pytest.UsageError as error:
            _refuse(session.config, [str(error)])
            return
        _note_collected(session, experiments)
    note_declared(session.config, items)


def _may_measure(item: pytest.Item) -> bool:
    """True for a test that uses an experiment; a comparison of what others measured does not count."""
    return EXPERIMENT in getattr(item, "fixturenames", ()) and not isinstance(item, Comparison)


def _note_collected(session: pytest.Session, experiments: Sequence[Experiment]) -> None:
    """Note what the chosen tests will measure, what they need out of reach, and which tests were not chosen."""
    collected, reach = collected_tests(session.config), session_of(session.config).reach
    chosen = {id(item) for item in session.items}
    collected.deselected = [item.nodeid for item in session.config.stash[_MEASURING] if id(item) not in chosen]
    if not session.config.getoption("collectonly", False):
        collected.commit, collected.dirty = checked_out(session.config.rootpath)
    for experiment in experiments:
        within_reach, name = reach.stages(experiment), experiment.name
        collected.out_of_reach[name] = {
            stage: out_of_reach(experiment, stage) for stage in experiment.stages if stage not in within_reach
        }
        missing: set[str] = set()
        measured: set[tuple[str, str]] = set()
        for item in session.items:
            used = item.stash.get(ITEM_EXPERIMENT, None)
            if used is None or used.name != name or not _may_measure(item):
                continue
            gates = applicable_gates(item, used)
            needed = {*item.stash.get(STAGES, []), *(stage for gate in gates for stage in gate.stages)}
            missing |= needed - within_reach
            if needed <= within_reach:
                measured |= {(stage, gate.on) for gate in gates for stage in gate.score_stages}
        collected.needed_out_of_reach[name] = sorted(missing)
        collected.to_measure[name] = sorted(measured)


def _read(config: pytest.Config, items: Iterable[pytest.Item]) -> list[str]:
    """Read the markers of tests; gives what is wrong with them."""
    confidence = session_of(config).options.confidence
    problems = []
    for item in items:
        try:
            if read_item(item, confidence):
                _give_experiment(item)
        except pytest.UsageError as error:
            problems.append(str(error))
    return problems


def _give_experiment(item: pytest.Item) -> None:
    """Make a test with our markers request the experiment.

    Raises:
        pytest.UsageError: If it cannot: then nothing would judge its gates.
    """
    if EXPERIMENT in getattr(item, "fixturenames", ()):
        return
    if not isinstance(item, pytest.Function):
        marks = ", ".join(name for name in MARKERS if item.get_closest_marker(name))
        raise pytest.UsageError(
            f"{where(item)}: {marks} on a {type(item).__name__}, for which nothing is judged; mark a test function"
        )
    if parametrized := request_fixture(item, EXPERIMENT):
        raise pytest.UsageError(
            f"{where(item)}: its mark came too late for fixture {parametrized!r}, whose parameters multiply tests; "
            f"let the test request {EXPERIMENT}"
        )


def _marks_of_conftests(config: pytest.Config) -> Iterator[str]:
    """Markers of ours where pytest overlooks them."""
    for plugin in config.pluginmanager.get_plugins():
        marks = vars(plugin).get("pytestmark", ()) if inspect.ismodule(plugin) else ()
        for mark in marks if isinstance(marks, (list, tuple)) else [marks]:
            if getattr(mark, "name", "") in MARKERS:
                yield (
                    f"{plugin.__file__}: pytest knows no pytestmark in a conftest.py, so {mark.name} would reach no "
                    "test; put it into the test files, or add it in pytest_collection_modifyitems"
                )


def name_problems(item: pytest.Item, experiment: Experiment) -> Iterator[str]:
    """What is wrong with the names in a test's markers, as far as the experiment tells."""
    if problem := not_an_experiment(experiment):  # one that came while the test ran
        yield f"{where(item)}: {problem}"
        return
    for gate in item.stash.get(GATES, []):
        try:
            gate.check_names(experiment.stages, experiment.metrics)
        except GateError as error:
            yield f"{where(item)}: {error}"
        yield from _rate_problems(item, gate, experiment)
        if not experiment.dataset.sizes[gate.on]:
            yield (
                f"{where(item)}: gate `{gate.expression}` is on {gate.on!r}, but that split of experiment "
                f"{experiment.name!r} is empty: give {gate.on} some examples (split=, or Dataset({gate.on}=[...])), or "
                f"judge the gate on={_filled(experiment)!r}"
            )
        else:
            yield from slice_problems(item, gate, experiment)
    for stage in item.stash.get(STAGES, []):
        try:
            experiment.stage(stage)
        except ExperimentError as error:
            yield f"{where(item)}: {error}"


def _rate_problems(item: pytest.Item, gate: Gate, experiment: Experiment) -> Iterator[str]:
    """Stages whose ``bootstrap_rate`` a gate names though they collect no traces."""
    tuned = [name for name, stage in experiment.stages.items() if stage.work in ("finetune", "better_together")]
    for quantity in gate.condition.quantities:
        stage = quantity.stage
        if quantity.measure == "bootstrap_rate" and stage in experiment.stages and stage not in tuned:
            which = f"name one that is: {', '.join(tuned)}" if tuned else "give it a dspy.BootstrapFinetune"
            yield (
                f"{where(item)}: gate `{gate.expression}`: there is no bootstrap_rate({stage}): stage {stage!r} is "
                f"not fine-tuned, and collects no traces; {which}"
            )


def _filled(experiment: Experiment) -> str:
    """A split that gates may be judged on: dev, else whichever has examples."""
    sizes = experiment.dataset.sizes
    return next((split for split in ("dev", "test", "train") if sizes[split]), "dev")


def _refuse(config: pytest.Config, problems: Sequence[str]) -> None:
    if not problems:
        return
    message = "\n".join(dict.fromkeys(problems))
    if is_worker(config):
        # A worker that stops at collection looks crashed: let its tests carry the message instead.
        config.stash[REFUSAL] = message
        return
    raise pytest.UsageError(message)
