"""The ``dspy_experiment`` fixtures, declared at collection through pytest's own set-up.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_dspy_ft.plugin.collected import scope_of
from pytest_dspy_ft.plugin.markers import ITEM_EXPERIMENT
from pytest_dspy_ft.plugin.session import session_of

if TYPE_CHECKING:
    from pytest_dspy_ft.experiment.experiment import Experiment

EXPERIMENT = "dspy_experiment"

DECLARED: pytest.StashKey[dict[object, Declaration]] = pytest.StashKey()


class Declaration(NamedTuple):
    """What came of running one ``dspy_experiment`` fixture."""

    experiment: Experiment | None
    problems: tuple[str, ...]
    place: str
    scope: str
    """The folder, or the file, whose tests can use it."""


@contextlib.contextmanager
def lm_for_declaring(fixturedef: Any, request: pytest.FixtureRequest) -> Iterator[None]:
    """An LM for optimizers that refuse to be made without one; a stage puts its own LM in its place."""
    import dspy

    if dspy.settings.lm is not None:
        yield
        return
    names = fixturedef.argnames
    lm = request.getfixturevalue("dspy_lm") if "dspy_lm" in names else dspy.LM("unset/no-lm-is-configured-here")
    with dspy.context(lm=lm):
        yield


def declared(session: pytest.Session, item: pytest.Item) -> Declaration | None:
    """What an item's experiment fixture declares; None where it has none. Each fixture and parameter runs once."""
    definitions = item._fixtureinfo.name2fixturedefs.get(EXPERIMENT)  # type: ignore[attr-defined]
    if not definitions:
        return None
    definition = definitions[-1]
    known = session.stash.setdefault(DECLARED, {})
    identity = (definition, getattr(getattr(item, "callspec", None), "indices", {}).get(EXPERIMENT))
    if identity not in known:
        problems: list[str] = []
        experiment = _declare(session, item, definition, problems)
        known[identity] = Declaration(experiment, tuple(problems), _place(definition), scope_of(definition))
    return known[identity]


def declared_experiments(
    session: pytest.Session, items: Sequence[pytest.Item], problems: list[str]
) -> list[Experiment]:
    """The experiments behind the items, each declared once; noted on every item."""
    by_name: dict[str, Declaration] = {}
    for item in items:
        found = declared(session, item)
        if found is None:
            continue
        problems.extend(found.problems)
        experiment = found.experiment
        if experiment is None:
            continue
        item.stash[ITEM_EXPERIMENT] = experiment
        if not hasattr(experiment, "stages"):
            continue  # something else than an experiment: said for each test
        other = by_name.setdefault(experiment.name, found)
        if other.experiment is not experiment:
            problems.append(
                f"two experiments are named {experiment.name!r}: {other.place} and {found.place}; rename one of them"
            )
        session_of(session.config).survey.scopes[experiment.name] = found.scope
    return [found.experiment for found in by_name.values() if found.experiment is not None]


def _declare(session: pytest.Session, item: Any, definition: Any, problems: list[str]) -> Experiment | None:
    """Run the ``dspy_experiment`` fixture as one test would, through pytest's own set-up, for a test that does nothing.

    None where it skips or fails on its own account: its tests will show that as any fixture's failure is shown.
    """
    from pytest_dspy_ft.errors import DspyFtError

    names = (EXPERIMENT,)
    info = dataclasses.replace(item._fixtureinfo, argnames=names, initialnames=names, names_closure=[EXPERIMENT])
    probe: Any = pytest.Function.from_parent(
        item.parent,
        name=item.name,
        originalname=item.originalname,
        callobj=lambda: None,
        fixtureinfo=info,
        callspec=getattr(item, "callspec", None),
    )
    try:
        session._setupstate.setup(probe)
        return probe.funcargs[EXPERIMENT]  # type: ignore[no-any-return]
    except DspyFtError as error:
        problems.append(f"{_place(definition)}: {error}")
    except pytest.UsageError as error:
        problems.append(str(error))
    except (Exception, pytest.skip.Exception, pytest.fail.Exception):
        pass
    finally:
        session._setupstate.teardown_exact(session)  # type: ignore[arg-type]  # session-scoped fixtures live on
    return None


def _place(definition: Any) -> str:
    function = inspect.unwrap(definition.func)
    code = getattr(function, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else str(definition)
