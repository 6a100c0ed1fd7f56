"""Before anything runs: gates that cannot tell, gates on the split that chose the program, data that leaks.

A warning comes with the test it is about. One that a filter turns into an error refuses the session, like any other
mistake that is found at collection.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_dspy_ft.errors import (
    DatasetError,
    DatasetWarning,
    DspyFtError,
    DspyFtWarning,
    LeakageWarning,
    ResolutionWarning,
    SplitWarning,
    StoreError,
    StoreWarning,
)
from pytest_dspy_ft.plugin.compat import worker_input
from pytest_dspy_ft.plugin.markers import ITEM_EXPERIMENT, applicable_gates, where
from pytest_dspy_ft.plugin.session import DspySession, session_of
from pytest_dspy_ft.text import grouped

if TYPE_CHECKING:
    from pytest_dspy_ft.experiment.experiment import Experiment
    from pytest_dspy_ft.gates.gate import Gate
    from pytest_dspy_ft.ladder.ladder import Ladder
    from pytest_dspy_ft.records.base import Split

SEARCHED_AT_COLLECTION = 20_000
"""Examples that are searched for near-duplicates at collection; more than these, before the first build."""

_CAUTIONS: pytest.StashKey[dict[Gate, str]] = pytest.StashKey()
"""On an item: what the verdicts of its gates are to be marked with."""

_NEAR_DUPLICATES: pytest.StashKey[dict[str, str]] = pytest.StashKey()
"""On the config: the near-duplicates that were found, in words, by the dataset's fingerprint."""


def caution_of(item: pytest.Item, gate: Gate) -> str:
    """The note that marks the verdict of a test's gate; empty where nothing is to be said."""
    return item.stash.get(_CAUTIONS, {}).get(gate, "")


def apply_guards(config: pytest.Config, items: Sequence[pytest.Item]) -> list[str]:
    """Look at the gates that this session will judge, and at the data they are judged on.

    Returns:
        What is wrong enough to refuse the session.
    """
    session = session_of(config)
    problems: list[str] = []
    seen: set[str] = set()
    leaks: dict[str, Mapping[str, Mapping[Split, str]]] = {}
    for item in items:
        experiment = item.stash.get(ITEM_EXPERIMENT, None)
        if experiment is None:
            continue
        if experiment.name not in seen:
            seen.add(experiment.name)
            with session.progress.passing(_checking(experiment)):
                problems += _splits(item, experiment, session)
                if sum(experiment.dataset.sizes.values()) <= SEARCHED_AT_COLLECTION:
                    problems += _near_duplicates(item, experiment, session)
        for gate in applicable_gates(item, experiment):
            if gate.stages <= session.reach.stages(experiment):
                session.trials.add(experiment, gate)
                problems += _gate_problems(item, gate, experiment, leaks)
    if caution := session.trials.caution():
        for experiment in session.trials.experiments:
            session.caution(experiment, caution)
    return problems


def guard_late_gate(item: pytest.Item, gate: Gate, experiment: Experiment) -> list[str]:
    """Look at a gate that came while its test ran.

    Returns:
        What is wrong enough not to judge it.
    """
    session = session_of(item.config)
    if session.options.correction == "holm" and gate.confidence is not None:
        return [
            f"{where(item)}: gate `{gate.expression}` came while the tests ran: dspy_correction = holm has to know all "
            "gates with a confidence before; put the mark on at collection"
        ]
    return _gate_problems(item, gate, experiment, {})


def _gate_problems(
    item: pytest.Item,
    gate: Gate,
    experiment: Experiment,
    leaks: dict[str, Mapping[str, Mapping[Split, str]]],
) -> list[str]:
    session = session_of(item.config)
    if experiment.name not in leaks and session.options.selection_leak != "off":
        from pytest_dspy_ft.gates.guards import selection_leaks

        leaks[experiment.name] = selection_leaks(experiment)
    problems = _selection(item, gate, leaks.get(experiment.name, {}), session)
    return problems + _resolution(item, gate, experiment, session)


def guard_demos(item: pytest.Item, gate: Gate, ladder: Ladder) -> list[str]:
    """Look for a gate's own examples in the programs it judges, once they are built.

    Returns:
        What is wrong enough not to pass the gate, whatever its figures.
    """
    mode = session_of(item.config).options.selection_leak
    note = "" if mode == "off" else ladder.demo_note(gate)
    if not note:
        return []
    if mode == "fail":
        return [f"{note} (dspy_selection_leak)"]
    cautions = item.stash.setdefault(_CAUTIONS, {})
    cautions[gate] = "; ".join(dict.fromkeys(text for text in (cautions.get(gate, ""), note) if text))
    return _warned(item, LeakageWarning(f"{note} (dspy_selection_leak)"), everywhere=True)


def guard_large_dataset(item: pytest.Item, experiment: Experiment) -> None:
    """Search a dataset that was too large to be searched at collection, once, before anything is built on it."""
    session = session_of(item.config)
    with session.progress.passing(_checking(experiment)):
        problems = _near_duplicates(item, experiment, session)
    if problems:
        raise DatasetError("\n".join(problems))


def _checking(experiment: Experiment) -> str:
    sizes = " / ".join(f"{split} {grouped(size)}" for split, size in experiment.dataset.sizes.items())
    return f"{experiment.name}: checking the examples ({sizes})"


def _splits(item: pytest.Item, experiment: Experiment, session: DspySession) -> list[str]:
    """Look at the labels of the splits, and at what the store remembers of them."""
    from pytest_dspy_ft.experiment.label_checks import empty_labels, missing_labels, one_sided_labels
    from pytest_dspy_ft.experiment.moved_examples import moved_examples
    from pytest_dspy_ft.store.split_memory import RememberedSplits, SplitMemory
    from pytest_dspy_ft.store.store import Store

    if problem := missing_labels(experiment):
        return [problem]
    problems: list[str] = []
    if text := empty_labels(experiment):
        session.caution(experiment, text)
        problems += _warned(item, DatasetWarning(text))
    for text in one_sided_labels(experiment):
        session.caution(experiment, text)
        problems += _warned(item, SplitWarning(text))
    limit = session.options.limit
    dataset = experiment.dataset if limit is None else experiment.dataset.limited(limit)
    known = RememberedSplits()
    memory = SplitMemory(Store(session.options.store, read_only=True), experiment.name)
    with (
        warnings.catch_warnings(),
        contextlib.suppress(StoreError),
    ):  # said by the ladder, which may move what is damaged
        warnings.simplefilter("ignore", StoreWarning)
        known = memory.read()
    moved = moved_examples(dataset, known.dev, known.test)
    if moved:
        problems += _warned(item, LeakageWarning(moved.describe(dataset, str(memory.path))))
    return problems


def _near_duplicates(item: pytest.Item, experiment: Experiment, session: DspySession) -> list[str]:
    if session.options.near_duplicates == "off":
        return []
    searched = item.config.stash.setdefault(_NEAR_DUPLICATES, {})
    key = experiment.dataset.fingerprint()
    is_new = key not in searched
    if is_new:
        from pytest_dspy_ft.experiment.near_duplicates import near_duplicates

        found = near_duplicates(experiment.dataset, session.options.near_duplicates_from)
        searched[key] = found.describe(experiment.dataset) if found.pairs else ""
    text = searched[key]
    if not text:
        return []
    if session.options.near_duplicates == "fail":
        return [f"experiment {experiment.name!r}: {text}\nKeep one of each pair, or put both into the same split."]
    session.caution(experiment, text.partition("\n")[0].rstrip(":"))
    return _warned(item, LeakageWarning(f"{text}\n(dspy_near_duplicates)")) if is_new else []


def _selection(
    item: pytest.Item, gate: Gate, leaks: Mapping[str, Mapping[Split, str]], session: DspySession
) -> list[str]:
    from pytest_dspy_ft.gates.guards import selection_note

    note = selection_note(gate, leaks)
    if not note:
        return []
    if session.options.selection_leak == "fail":
        return [f"{where(item)}: {note}"]
    item.stash.setdefault(_CAUTIONS, {})[gate] = note
    return _warned(item, LeakageWarning(f"{note} (dspy_selection_leak)"))


def _resolution(item: pytest.Item, gate: Gate, experiment: Experiment, session: DspySession) -> list[str]:
    if session.options.limit is not None:
        return []  # a quick look is not meant to tell much
    from pytest_dspy_ft.gates.power import too_few
    from pytest_dspy_ft.gates.slices import slices_of, slices_too_few

    if gate.by is not None:
        note = slices_too_few(gate, slices_of(experiment, gate))
    else:
        note = too_few(gate, len(set(experiment.dataset.ids(gate.on))))
    return _warned(item, ResolutionWarning(note)) if note else []


def slice_problems(item: pytest.Item, gate: Gate, experiment: Experiment) -> list[str]:
    """What is wrong with what a gate is sliced by, or with the experiment's slice functions on its split."""
    from pytest_dspy_ft.experiment.slices import check_labels

    try:
        for name in dict.fromkeys([*([gate.by] if gate.by else []), *experiment.slices]):
            check_labels(experiment, name, gate.on)
    except DspyFtError as error:
        return [f"{where(item)}: gate `{gate.expression}`: {error}"]
    return []


def _warned(item: pytest.Item, warning: DspyFtWarning, *, everywhere: bool = False) -> list[str]:
    """Warn at the test; the warning as a problem where a filter makes it an error."""
    if not everywhere and worker_input(item.config, "workerid") not in ("", "gw0"):
        return []  # all workers collect the same: one of them says so
    try:
        item.warn(warning)
    except DspyFtWarning as error:
        return [f"{where(item)}: {error}"]
    return []
