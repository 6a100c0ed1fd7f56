"""The ``dspy_experiment`` fixtures, declared at collection through pytest's own set-up.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import contextlib
import inspect
import os
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest

import pytest_dspy_ft
from pytest_dspy_ft.errors import DspyFtError
from pytest_dspy_ft.lms.resolve import placeholder
from pytest_dspy_ft.plugin.compat import (
    empty_test,
    fixture_definitions,
    parameter_index,
    requesting_item,
    set_up_and_torn_down,
)
from pytest_dspy_ft.plugin.markers import ITEM_EXPERIMENT, where
from pytest_dspy_ft.plugin.progress import progress_of

if TYPE_CHECKING:
    from pytest_dspy_ft.experiment.experiment import Experiment

EXPERIMENT = "dspy_experiment"

DECLARED: pytest.StashKey[dict[object, Declaration]] = pytest.StashKey()


class NoExperimentError(Exception):
    """No fixture ``dspy_experiment`` was defined where a test needs one."""


class Declaration(NamedTuple):
    """The outcome of running one ``dspy_experiment`` fixture."""

    experiment: Experiment | None
    problems: tuple[str, ...]
    place: str
    folder: str
    """The folder, or the file, whose tests can use it; ``.`` for the root and for plugins."""


@contextlib.contextmanager
def lm_for_declaring(fixturedef: Any, request: pytest.FixtureRequest) -> Iterator[None]:
    """An LM for optimizers that refuse to be made without one; a stage puts its own LM in its place.

    Args:
        fixturedef: The fixture that is being set up: an experiment's, or one that may be there for an experiment's.
        request: Its request.
    """
    import dspy

    if dspy.settings.lm is not None:
        yield
        return
    experiments = fixturedef.argname == EXPERIMENT
    lm = request.getfixturevalue("dspy_lm") if experiments and "dspy_lm" in fixturedef.argnames else placeholder()
    with dspy.context(lm=lm):
        yield


def declares(fixturedef: Any, request: pytest.FixtureRequest) -> bool:
    """True for an experiment's fixture, and for a fixture that is set up since an experiment's names it."""
    if fixturedef.argname == EXPERIMENT:
        return True
    if inspect.isgeneratorfunction(fixturedef.func):
        return False  # a dspy.context that it yields within would end with our block
    item, seen, todo = requesting_item(request), set(), [EXPERIMENT]
    while todo:
        if (name := todo.pop()) not in seen:
            seen.add(name)
            todo += [needed for found in fixture_definitions(item, name)[-1:] for needed in found.argnames]
    return fixturedef.argname in seen


def declared(session: pytest.Session, item: pytest.Item) -> Declaration | None:
    """The declaration of an item's experiment fixture; None where it has none. Each fixture and parameter runs once."""
    definitions = fixture_definitions(item, EXPERIMENT)
    if not definitions:
        return None
    definition = definitions[-1]
    known = session.stash.setdefault(DECLARED, {})
    identity = (definition, parameter_index(item, EXPERIMENT))
    if identity not in known:
        problems: list[str] = []
        experiment = _declare(session, item, definition, problems)
        folder = str(definition.baseid).split("::")[0] or "."
        known[identity] = Declaration(experiment, tuple(problems), _place(definition, session.config), folder)
    return known[identity]


def declared_experiments(
    session: pytest.Session, items: Sequence[pytest.Item], problems: list[str]
) -> tuple[list[Experiment], dict[str, str]]:
    """Declare the experiments behind the items, each once, and note on every item which is its.

    Returns:
        The experiments, and by experiment the folder (or file) whose tests can use it. What is wrong with them is
        added to the problems.
    """
    by_name: dict[str, tuple[Experiment, str]] = {}
    folders: dict[str, str] = {}
    for item in items:
        found = declared(session, item)
        if found is None:
            continue
        problems.extend(found.problems)
        experiment = found.experiment
        if experiment is None:
            continue
        item.stash[ITEM_EXPERIMENT] = experiment
        first, place = by_name.setdefault(experiment.name, (experiment, found.place))
        if first is not experiment:
            problems.append(
                f"two experiments are named {experiment.name!r}: {place} and {found.place}; rename one of them"
            )
        folders[experiment.name] = found.folder
    return [experiment for experiment, _ in by_name.values()], folders


def place_of(session: pytest.Session, experiment: Experiment) -> str:
    """Where an experiment is declared: file and line of its fixture."""
    known = session.stash.get(DECLARED, {}).values()
    return next((found.place for found in known if found.experiment is experiment), EXPERIMENT)


def _declare(session: pytest.Session, item: pytest.Item, definition: Any, problems: list[str]) -> Experiment | None:
    """Run the ``dspy_experiment`` fixture as one test would, through pytest's own set-up, for a test that does nothing.

    None where it skips or fails on its own account: its tests will show that as any fixture's failure is shown.
    """
    probe = empty_test(pytest.Function, item, EXPERIMENT)
    title = f"setting up the experiment of {Path(str(definition.baseid).split('::')[0] or '.')}"
    with progress_of(session.config).passing(title), set_up_and_torn_down(session) as set_up:
        try:
            set_up(probe)
            given = probe.funcargs[EXPERIMENT]
            if problem := not_an_experiment(given):
                problems.append(f"{_place(definition, session.config)}: {problem}")
                return None
            return cast("Experiment", given)
        except NoExperimentError as error:
            problems.append(f"{where(item)}: {error}")
        except DspyFtError as error:
            problems.append(f"{_raised_at(error, session.config) or _place(definition, session.config)}: {error}")
        except pytest.UsageError as error:
            problems.append(str(error))
        except (TypeError, ValueError) as error:
            if _raised_by_dspy(error) and (place := _raised_at(error, session.config)):
                problems.append(f"{place}: {type(error).__name__}: {error}")
        except (Exception, pytest.skip.Exception, pytest.fail.Exception):
            pass
    return None


def not_an_experiment(given: object) -> str:
    """Why what a ``dspy_experiment`` fixture gave is no experiment; empty where it is one."""
    if hasattr(given, "stages") and hasattr(given, "dataset"):
        return ""
    how = "pytest_dspy_ft.Experiment(name, program=..., dataset=..., metric=..., lm=...)"
    if given is None:
        return f"the fixture dspy_experiment gave None: end it with `return {how[15:]}`"
    what = f"the class {given.__name__}" if isinstance(given, type) else f"a {type(given).__name__}"
    return f"the fixture dspy_experiment gave {what}, not an experiment: let it return {how}"


def _raised_at(error: Exception, config: pytest.Config) -> str:
    """The user's own line that an error of ours came out of; empty where there is none."""
    ours = str(Path(pytest_dspy_ft.__file__).parent)
    lines = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [
        f"{_shown(code.co_filename, config)}:{line}"
        for code, line in lines
        if Path(code.co_filename).is_relative_to(config.rootpath) and not code.co_filename.startswith(ours + os.sep)
    ]
    return own[-1] if own else ""


def refuse_declaration(error: Exception, config: pytest.Config) -> None:
    """Say in one line what a conftest.py declares wrongly where it is loaded; leave what is not ours to pytest.

    Raises:
        pytest.UsageError: An error of ours kept it from being loaded.
    """
    cause = getattr(error, "cause", None)  # of pytest's ConftestImportFailure
    if isinstance(cause, DspyFtError):
        raise pytest.UsageError(f"{_raised_at(cause, config) or error}: {cause}") from None


def _raised_by_dspy(error: Exception) -> bool:
    """True for what DSPy's own code refuses, such as a setting of an optimizer."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return str(frames[-1].f_globals.get("__name__", "")).partition(".")[0] == "dspy"


def _shown(file: str, config: pytest.Config) -> str:
    """A file as pytest names it: from where it was started."""
    folder = config.invocation_params.dir
    return str(Path(file).relative_to(folder)) if Path(file).is_relative_to(folder) else file


def _place(definition: Any, config: pytest.Config) -> str:
    function = inspect.unwrap(definition.func)
    code = getattr(function, "__code__", None)
    return f"{_shown(code.co_filename, config)}:{code.co_firstlineno}" if code is not None else str(definition)
