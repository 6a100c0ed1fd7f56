"""The tests that a session collected: what they will measure, and what of the project it leaves out.

Taken in each process that collects; pytest-xdist's workers send it to the controller, which collects nothing.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from pytest_dspy_ft.plugin.compat import is_worker, received_from, send_to_controller

_KEY = "dspy_ft_collected"


@dataclass
class CollectedTests:
    """The session's tests, once they are collected."""

    folders: dict[str, str] = field(default_factory=dict)
    """By experiment, the folder (or file) whose tests can use it, relative to the root."""
    out_of_reach: dict[str, dict[str, str]] = field(default_factory=dict)
    """By experiment, the stages that ``--dspy-stage`` does not reach, and what would."""
    needed_out_of_reach: dict[str, list[str]] = field(default_factory=dict)
    """By experiment, those of them that a chosen test needs."""
    to_measure: dict[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    """By experiment, the stages and splits that the gates of the chosen tests measure."""
    deselected: list[str] = field(default_factory=list)
    """Node ids of tests that may measure an experiment, were collected, and were not chosen."""
    gates: Mapping[str, Sequence[Sequence[Any]]] = field(default_factory=dict)
    """By node id of a chosen test, its gates, as :class:`~pytest_dspy_ft.plugin.required.GateState` has them."""
    comparisons: list[Sequence[Any]] = field(default_factory=list)
    """Comparisons with a baseline that xdist's controller judges: node id, location, experiment."""
    compared: Mapping[str, int] = field(default_factory=dict)
    """By experiment that is compared with a baseline, how many evaluations that may be."""
    commit: str = ""
    """The commit that the project stood at; empty where there is none."""
    dirty: bool | None = None
    """Whether tracked files differed from it; None where that is not known."""


_COLLECTED: pytest.StashKey[CollectedTests] = pytest.StashKey()


def collected_tests(config: pytest.Config) -> CollectedTests:
    """The session's tests, as far as they are known in this process."""
    return config.stash.setdefault(_COLLECTED, CollectedTests())


def send_collected(config: pytest.Config) -> None:
    """Where this is a worker, let the controller know what was collected."""
    if is_worker(config):
        send_to_controller(config, _KEY, json.dumps(vars(collected_tests(config))))


def receive_collected(config: pytest.Config, node: Any) -> None:
    """In the controller: take over what a worker collected."""
    sent = received_from(node, _KEY)
    if sent is not None:  # a crashed worker sends nothing
        config.stash[_COLLECTED] = CollectedTests(**json.loads(sent))
