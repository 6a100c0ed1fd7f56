"""The pytest plugin: hooks only. What they do lives in the modules beside this one, the work in the core.

Nothing heavy is imported before a test asks for it. PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import uuid
from collections.abc import Generator
from typing import Any

import pytest

from pytest_dspy_ft.plugin import baseline as saving
from pytest_dspy_ft.plugin import collection, markers, options, secrecy, terminal, xdist
from pytest_dspy_ft.plugin import compare as comparisons
from pytest_dspy_ft.plugin import plan as preview
from pytest_dspy_ft.plugin import runtest as gating
from pytest_dspy_ft.plugin.experiments import lm_for_declaring
from pytest_dspy_ft.plugin.fixtures import (
    dspy_baseline,
    dspy_better_together,
    dspy_devset,
    dspy_evaluate,
    dspy_experiment,
    dspy_finetuned,
    dspy_ladder,
    dspy_lm,
    dspy_program,
    dspy_prompt_optimized,
    dspy_teacher_lm,
    dspy_testset,
    dspy_trainset,
)
from pytest_dspy_ft.plugin.session import SESSION, DspySession, is_worker, session_of


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register options and ini names."""
    options.add_options(parser)


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, object, object]:
    """A plan is made in this process, by no worker."""
    if config.getoption("--dspy-plan"):
        xdist.stay_in_this_process(config)
    return (yield)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register markers and the session's state, once the terminal reporter is there."""
    for line in markers.HELP:
        config.addinivalue_line("markers", line)
    identity = xdist.session_identity(config) or uuid.uuid4().hex
    many = is_worker(config)
    config.stash[SESSION] = DspySession(
        options.read_options(config), identity, terminal.progress(config), one_of_many=many
    )
    saving.check_files(config.stash[SESSION])
    if many:
        return
    options.check_writable(config.stash[SESSION].options.reports)
    config.pluginmanager.register(terminal.Reporter(config), "dspy_ft_reporter")
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(xdist.XdistHooks(config), "dspy_ft_xdist")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Let go of what the session held, and bring its recordings into their files."""
    if (session := config.stash.get(SESSION, None)) is not None:
        session.close(merge=not is_worker(config))


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: Any, name: str, obj: object) -> None:
    """Give tests with our markers the experiment, so that a parametrized one multiplies them."""
    collection.request_experiment(collector, name, obj)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, pytest.CollectReport, Any]:
    """Add the comparisons with a baseline; innermost, so that ``--lf`` knows them among the rest."""
    report = yield
    comparisons.add_items(collector, report)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Check every marker, also those of tests that are about to be deselected."""
    collection.read_markers(session.config, items)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Check stage names against the experiments, and let comparisons come last; before xdist looks at the tests."""
    collection.check_experiments(session)
    comparisons.place(session)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """With ``--dspy-plan``, say what would be done instead of doing it."""
    if not session_of(session.config).options.plan or session.config.option.collectonly:
        return None
    preview.make_plans(session)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any, request: pytest.FixtureRequest) -> Generator[None, object, object]:
    """Let optimizers that want a configured LM (MIPROv2) be made inside ``dspy_experiment``."""
    if fixturedef.argname != "dspy_experiment":
        return (yield)
    with lm_for_declaring(fixturedef, request):
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests whose stages are out of this session's reach."""
    gating.skip_out_of_reach(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Judge the test's gates, then run its body."""
    gating.judge_gates(item)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Send along what the test built and measured, and keep keys to ourselves."""
    report = yield
    secrecy.hide_keys(report)
    news = session_of(item.config).drain()
    if news is not None:
        setattr(report, terminal.NEWS, news)  # a string: xdist carries nothing richer
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let an xdist worker tell what it collected."""
    xdist.send_survey(session.config)
