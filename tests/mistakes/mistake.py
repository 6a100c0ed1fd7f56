"""A deliberate mistake in a small project, and what its first lines have to say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

CONFTEST = """\
import enum
import typing

import dspy
import pydantic
import pytest
from parity import Labels, ParityEngine, examples, right_label, toy_lm
from pytest_dspy_ft import Dataset, Experiment, LabeledFinetune, Stage
{above}

@pytest.fixture(scope="session")
def dspy_experiment({requested}):
    {returned}Experiment(
        "tickets",
        program={program},
        dataset={dataset},
        metric={metric},
        lm={lm},
        stages=[{stages}],
        adapter=dspy.ChatAdapter(use_json_adapter_fallback=False),
        {further}
    )
"""

DECLARED = {
    "above": "",
    "requested": "",
    "returned": "return ",
    "program": "dspy.Predict(Labels)",
    "dataset": "Dataset.from_examples(examples())",
    "metric": "right_label",
    "lm": "toy_lm()",
    "stages": 'Stage("taught", dspy.LabeledFewShot(k=3))',
    "further": "",
}
"""The parts of a project in which nothing is wrong."""

TESTS = """\
import pytest

{above}
@pytest.mark.dspy_gate({gate})
def test_it({requested}):
    {body}
"""

TESTED = {"above": "", "gate": '"baseline >= 40%"', "requested": "", "body": "..."}


@dataclass(frozen=True)
class Mistake:
    """What a user did wrong, and what the first three lines of the error must hold."""

    name: str
    what: tuple[str, ...]
    """Words that say what is wrong."""
    where: tuple[str, ...]
    """Words that say where: a file and its line, an option, a stage, a field."""
    right: tuple[str, ...]
    """Words that say what would be right."""
    declared: Mapping[str, str] = field(default_factory=dict)
    """Parts of the conftest.py that differ from :data:`DECLARED`."""
    tested: Mapping[str, str] = field(default_factory=dict)
    """Parts of the test file that differ from :data:`TESTED`."""
    arguments: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    """Further files of the project, by name; ``conftest.py`` and the test file may be among them."""
    folders: tuple[str, ...] = ()
    """Folders of the project."""
    environment: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    """Packages that are not installed."""
    own_process: bool = False
    """Whether it needs a process of its own: what it loads does not bear being loaded twice."""
    spends: bool = False
    """Whether it can only be seen once an LM was called."""

    def project(self) -> dict[str, str]:
        """The files of the project by name."""
        conftest = CONFTEST.format(**{**DECLARED, **self.declared})
        tests = TESTS.format(**{**TESTED, **self.tested})
        return {"conftest.py": conftest, "test_it.py": tests, **self.files}


TRACEBACKS = (
    "INTERNALERROR",
    "During handling",
    "direct cause",
    "Traceback (most recent call last)",
    "pytest_dspy_ft/",
)
"""What a user must not see: how the package, or pytest, came to say it."""


def first_lines(out: str, err: str) -> list[str]:
    """The first three lines that a user sees of an error.

    They begin with ``ERROR`` where pytest refuses a session, below the heading of a test that failed, or are the first
    lines of a command's error output.
    """
    lines = [line for line in err.splitlines() if line.strip() and "Warning" not in line]
    refusals = [number for number, line in enumerate(lines) if re.match(r"ERROR|error|.*: error:|ImportError", line)]
    if refusals:
        return lines[refusals[0] :][:3]
    shown = [line for line in out.splitlines() if line.strip()]
    headings = [number for number, line in enumerate(shown) if re.match(r"_{4,} .* _{4,}$", line)]
    if headings:
        return shown[headings[0] + 1 :][:3]
    return lines[:3] or shown[:3]
