"""The pytest plugin: hooks only. What they do lives in the modules beside this one, the work in the core.

Nothing heavy is imported before a test asks for it. PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Generator
from typing import Any

import pytest

from pytest_dspy_ft.plugin import (
    collected,
    collection,
    compare,
    failures,
    history,
    last_session,
    markers,
    options,
    plan,
    reports,
    required,
    rescore,
    runtest,
    terminal,
    unknown_names,
    whole,
)
from pytest_dspy_ft.plugin.compat import is_worker, start_no_worker, worker_input
from pytest_dspy_ft.plugin.experiments import declares, lm_for_declaring, refuse_declaration
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
from pytest_dspy_ft.plugin.importing import ImportWatch
from pytest_dspy_ft.plugin.progress import progress_of
from pytest_dspy_ft.plugin.redaction import redact_report, redact_warning
from pytest_dspy_ft.plugin.session import SESSION, DspySession, session_of


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register options and ini names."""
    options.add_options(parser)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Generator[None, object, object]:
    """Say what a conftest.py declares wrongly, and which option a misspelt one means, which pytest cannot know.

    Before output is captured, DSPy's being imported is watched for: it takes seconds, in which nothing else is said.
    """
    ImportWatch.begin(early_config, progress_of(early_config))
    try:
        outcome = yield
    except Exception as error:
        refuse_declaration(error, early_config)
        raise
    unknown_names.refuse_unknown_options(parser, args, [entry.option for entry in options.TABLE if entry.option])
    return outcome


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, object, object]:
    """A plan is made in this process, by no worker, and so are scores of stored outputs."""
    if config.getoption("--dspy-plan") or config.getoption("--dspy-rescore"):
        start_no_worker(config)
    return (yield)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register markers and the session's state, once the terminal reporter is there."""
    for line in markers.HELP:
        config.addinivalue_line("markers", line)
    asked = options.read_options(config)
    identity = worker_input(config, "testrunuid") or uuid.uuid4().hex
    session = DspySession(asked, identity, progress_of(config), one_of_many=is_worker(config))
    config.stash[SESSION] = session
    config.pluginmanager.register(session, "dspy_ft_session")
    compare.read_compared(config)
    if is_worker(config):
        return
    complete = whole.WholeSession(config)
    config.pluginmanager.register(complete, "dspy_ft_whole")
    if asked.save_baseline is not None:
        from pytest_dspy_ft.plugin.baseline import BaselineSaver

        config.pluginmanager.register(BaselineSaver(config, asked.save_baseline, complete), "dspy_ft_baseline")
    reports.check_writable(asked.reports)
    once = failures.FailuresOnce(config)
    config.pluginmanager.register(once, "dspy_ft_failures")
    config.pluginmanager.register(terminal.Reporter(config, once), "dspy_ft_reporter")
    config.pluginmanager.register(history.HistoryKeeper(config, complete), "dspy_ft_history")
    gates = required.RequiredGates(config, once)
    config.pluginmanager.register(gates, "dspy_ft_required")
    config.pluginmanager.register(last_session.LastSession(config, complete, gates), "dspy_ft_last_session")
    if config.pluginmanager.hasplugin("xdist"):
        from pytest_dspy_ft.plugin.xdist import XdistHooks

        config.pluginmanager.register(XdistHooks(config), "dspy_ft_xdist")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Let go of what the session held, and bring its recordings into their files."""
    if (session := config.stash.get(SESSION, None)) is not None:
        session.close(merge=not is_worker(config))
    ImportWatch.end(config)
    progress_of(config).close()


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: Any, name: str, obj: object) -> None:
    """Give tests with our markers the experiment, so that a parametrized one multiplies them."""
    collection.request_experiment(collector, name, obj)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, pytest.CollectReport, Any]:
    """Add the comparisons with a baseline; innermost, so that ``--lf`` knows them among the rest."""
    report = yield
    failures.shorten_collection(collector, report)
    collection.request_experiments(report.result or ())
    compare.add_comparisons(collector, report)
    redact_report(report)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Check every marker, also those of tests that are about to be deselected."""
    collection.read_markers(session.config, items)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Check stage names against the experiments, and let comparisons come last; before xdist looks at the tests."""
    collection.check_experiments(session)
    compare.place_comparisons(session)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """With ``--dspy-plan``, say what would be done instead of doing it; with ``--dspy-rescore``, score."""
    asked = session_of(session.config).options
    if not asked.instead or session.config.option.collectonly:
        return None
    if asked.plan:
        plan.make_plans(session)
    else:
        rescore.score_all(session)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any, request: pytest.FixtureRequest) -> Generator[None, object, object]:
    """Let optimizers that want a configured LM (MIPROv2) be made in ``dspy_experiment`` and in fixtures it names."""
    __tracebackhide__ = True
    if not declares(fixturedef, request):
        return (yield)
    with lm_for_declaring(fixturedef, request):
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests whose stages are out of this session's reach."""
    runtest.skip_out_of_reach(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Judge the test's gates, run its body, and judge the gates that this one added."""
    __tracebackhide__ = True
    runtest.judge_gates(item)
    outcome = yield
    runtest.judge_gates(item)
    return outcome


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Refuse gates that come when their test is over."""
    __tracebackhide__ = True
    outcome = yield
    runtest.refuse_late_gates(item)
    return outcome


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Send along what failed, and what the test built and measured; keep keys to ourselves."""
    with failures.ending_at_users_line(item.config, call):
        report = yield
    failures.attach_failure(item, call, report)
    redact_report(report)
    session = session_of(item.config)
    if (packed := session.records.pack(session.ladders)) is not None:
        setattr(report, terminal.RECORDS, packed)  # a string: xdist carries nothing richer
    required.attach_gates(item, report)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_warning_recorded(warning_message: warnings.WarningMessage) -> None:
    """Keep keys out of the summary of warnings; before xdist and the terminal take them up."""
    redact_warning(warning_message)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let an xdist worker tell what it collected."""
    collected.send_collected(session.config)
