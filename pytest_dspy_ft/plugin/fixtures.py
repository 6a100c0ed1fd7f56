"""The fixtures. All can be overridden; ``dspy_experiment`` has to be.

Fixtures derived from the experiment are function-scoped look-ups in what the session has built: a session-scoped one
would hand the first folder's program to every other folder.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from pytest_dspy_ft.plugin.experiments import NoExperimentError
from pytest_dspy_ft.plugin.failures import plain_errors
from pytest_dspy_ft.plugin.runtest import record_score
from pytest_dspy_ft.plugin.session import session_of

if TYPE_CHECKING:
    import dspy

    from pytest_dspy_ft.experiment.experiment import Experiment
    from pytest_dspy_ft.ladder.ladder import Ladder
    from pytest_dspy_ft.records.evaluation import StageResult


@pytest.fixture(scope="session")
def dspy_lm(request: pytest.FixtureRequest) -> dspy.LM:
    """The LM that ``--dspy-lm`` names; by default the embedded one."""
    return session_of(request.config).lm("--dspy-lm")


@pytest.fixture(scope="session")
def dspy_teacher_lm(request: pytest.FixtureRequest) -> dspy.LM:
    """The LM that ``--dspy-teacher-lm`` names; by default the one of ``--dspy-lm``."""
    return session_of(request.config).lm("--dspy-teacher-lm")


@pytest.fixture(scope="session")
def dspy_experiment() -> Experiment:
    """Your experiment: define a fixture of this name, in any scope, that returns a ``pytest_dspy_ft.Experiment``."""
    __tracebackhide__ = True
    raise NoExperimentError(
        "no experiment here: define a fixture dspy_experiment in a conftest.py that returns "
        "pytest_dspy_ft.Experiment(name, program=..., dataset=..., metric=..., lm=..., stages=[...])"
    )


@pytest.fixture
def dspy_ladder(request: pytest.FixtureRequest, dspy_experiment: Experiment) -> Ladder:
    """The session's ladder of the experiment: everything that the other fixtures look up."""
    with plain_errors():
        return session_of(request.config).ladder(dspy_experiment)


@pytest.fixture
def dspy_trainset(dspy_ladder: Ladder) -> list[dspy.Example]:
    """The train split: copies, the test's own."""
    return dspy_ladder.experiment.dataset.train


@pytest.fixture
def dspy_devset(dspy_ladder: Ladder) -> list[dspy.Example]:
    """The dev split: copies, the test's own."""
    return dspy_ladder.experiment.dataset.dev


@pytest.fixture
def dspy_testset(dspy_ladder: Ladder) -> list[dspy.Example]:
    """The test split: copies, the test's own."""
    return dspy_ladder.experiment.dataset.test


@pytest.fixture
def dspy_program(request: pytest.FixtureRequest, dspy_ladder: Ladder) -> Callable[[str], dspy.Module]:
    """``dspy_program(stage)``: a copy of a stage's program, built or loaded. Skips where the stage is out of reach."""

    def program(stage: str) -> Any:
        session_of(request.config).require(dspy_ladder.experiment, [stage])
        with plain_errors():
            return dspy_ladder.program(stage)

    return program


@pytest.fixture
def dspy_evaluate(request: pytest.FixtureRequest, dspy_ladder: Ladder) -> Callable[..., StageResult]:
    """``dspy_evaluate(stage_or_program, on="dev")``: measure a stage, or any program, with the experiment's metric."""

    def evaluate(stage_or_program: str | dspy.Module, on: str = "dev") -> StageResult:
        if isinstance(stage_or_program, str):
            session_of(request.config).require(dspy_ladder.experiment, [stage_or_program])
        with plain_errors():
            result = dspy_ladder.evaluate(stage_or_program, on)  # type: ignore[arg-type]
        record_score(request.node, result)
        return result

    return evaluate


@pytest.fixture
def dspy_baseline(dspy_program: Callable[[str], dspy.Module]) -> dspy.Module:
    """The program as written."""
    return dspy_program("baseline")


@pytest.fixture
def dspy_prompt_optimized(dspy_program: Callable[[str], dspy.Module]) -> dspy.Module:
    """The program of the stage ``prompt_optimized``."""
    return dspy_program("prompt_optimized")


@pytest.fixture
def dspy_finetuned(dspy_program: Callable[[str], dspy.Module]) -> dspy.Module:
    """The program of the stage ``finetuned``."""
    return dspy_program("finetuned")


@pytest.fixture
def dspy_better_together(dspy_program: Callable[[str], dspy.Module]) -> dspy.Module:
    """The program of the stage ``better_together``."""
    return dspy_program("better_together")
