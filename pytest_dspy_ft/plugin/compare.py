"""``--dspy-compare``: the comparison with a baseline as a test item of its own, one for each experiment.

The item stands beside the first test that uses the experiment, so that ``-k``, ``--lf``, node ids and
``--collect-only`` know it. It runs after all other tests and holds what *they* measured against the file: it builds
and measures nothing. Under pytest-xdist only the controller knows what all workers measured, so it is judged there.

Where it is all that was chosen of its experiment (``-k``, a node id, ``--lf`` after it failed), nobody else measures.
Then it asks the ladder itself for what the file holds, within ``--dspy-stage``, as a gate would.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pytest

from pytest_dspy_ft.plugin.experiments import EXPERIMENT, declared
from pytest_dspy_ft.plugin.markers import ITEM_EXPERIMENT
from pytest_dspy_ft.plugin.session import DspySession, is_worker, session_of

if TYPE_CHECKING:
    from pytest_dspy_ft.experiment.experiment import Experiment
    from pytest_dspy_ft.records.base import Split
    from pytest_dspy_ft.records.baseline import SavedExperiment
    from pytest_dspy_ft.records.evaluation import StageResult
    from pytest_dspy_ft.records.run import ExperimentRecord

NAME = "dspy_compare"
OPTION = "--dspy-compare"


class Finding(NamedTuple):
    """What became of a comparison."""

    outcome: Literal["passed", "failed", "skipped"]
    text: str
    """Why it failed or was skipped; else in short what was found."""


class Comparison(pytest.Function):
    """Holds one experiment's results against the baseline."""

    experiment_name: str
    alone = False
    """Whether no other chosen test measures what it needs."""

    def iter_markers_with_node(self, name: str | None = None) -> Iterator[Any]:
        """None: the marks of the module it stands in are not about it."""
        return iter(())

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """Where it stands: in the file of the first test that uses the experiment."""
        return self.path, 0, self.name

    def runtest(self) -> None:
        """Compare."""
        session = session_of(self.config)
        record = _measured(session, self) if self.alone else session.experiment_record(self.experiment_name)
        finding = judge(session, self.experiment_name, record)
        self.user_properties.append((NAME, finding.text.splitlines()[0]))
        if finding.outcome == "skipped":
            raise pytest.skip.Exception(finding.text, _use_item_location=True)
        if finding.outcome == "failed":
            pytest.fail(finding.text, pytrace=False)


def add_items(collector: pytest.Collector, report: pytest.CollectReport) -> None:
    """Add the comparison of every experiment that is first used here."""
    session = session_of(collector.config)
    if session.baseline is None:
        return
    for item in list(report.result or ()):
        if not isinstance(item, pytest.Function) or EXPERIMENT not in item.fixturenames:
            continue
        found = declared(collector.session, item)
        experiment = None if found is None else found.experiment
        name = getattr(experiment, "name", None)
        if experiment is None or name is None or name in session.comparison_items:
            continue
        comparison = _comparison(item, experiment)
        session.comparison_items[experiment.name] = comparison.nodeid
        report.result = [*report.result, comparison]


def _comparison(item: Any, experiment: Experiment) -> Comparison:
    names = (EXPERIMENT,)
    info = dataclasses.replace(item._fixtureinfo, argnames=names, initialnames=names, names_closure=list(names))
    name = f"{NAME}[{' '.join(experiment.name.split())}]"
    comparison: Any = Comparison.from_parent(
        item.parent,
        name=name,
        callobj=lambda: None,
        fixtureinfo=info,
        callspec=getattr(item, "callspec", None),
    )
    comparison.experiment_name = experiment.name
    # From pytest 9.2 on an id knows its brackets apart: --lf compares it with the id it reads from text.
    parse = getattr(type(getattr(comparison, "_id", None)), "parse", None)
    if parse is not None:
        comparison._id = parse(f"{item.parent.nodeid}::{name}")
    return comparison  # type: ignore[no-any-return]


def place(session: pytest.Session) -> None:
    """Let the comparisons run last: here, or in the controller of the workers that measure."""
    chosen = [item for item in session.items if isinstance(item, Comparison)]
    if not chosen:
        return
    others = [item for item in session.items if not isinstance(item, Comparison)]
    measured = {e.name for item in others if (e := item.stash.get(ITEM_EXPERIMENT, None)) is not None}
    failed = _failed_last_time(session.config)
    for item in chosen:
        item.alone = item.experiment_name not in measured or item.nodeid in failed
    if is_worker(session.config):
        apart = [item for item in chosen if not item.alone]
        session_of(session.config).survey.apart = [(i.nodeid, i.location, i.experiment_name) for i in apart]
        chosen = [item for item in chosen if item.alone]
    session.items[:] = [*others, *chosen]


def _failed_last_time(config: pytest.Config) -> set[str]:
    cache = getattr(config, "cache", None)
    if not config.getoption("lf", False) or cache is None:
        return set()
    return set(cache.get("cache/lastfailed", {}))


def report_apart(config: pytest.Config, pytest_session: pytest.Session) -> None:
    """In xdist's controller: judge what the workers left to it, and report each like any test."""
    session = session_of(config)
    apart = session.survey.apart
    pytest_session.testscollected += len(apart)
    for nodeid, location, experiment in apart:
        config.hook.pytest_runtest_logstart(nodeid=nodeid, location=location)
        started, clock = time.time(), time.perf_counter()
        finding = judge(session, experiment, session.experiment_record(experiment))
        longrepr: Any = {
            "passed": None,
            "failed": finding.text,
            "skipped": (location[0], 0, f"Skipped: {finding.text}"),
        }[finding.outcome]
        for when in ("setup", "call", "teardown"):
            report = pytest.TestReport(
                nodeid=nodeid,
                location=location,
                keywords={NAME: 1},
                outcome=finding.outcome if when == "call" else "passed",
                longrepr=longrepr if when == "call" else None,
                when=when,
                duration=time.perf_counter() - clock if when == "call" else 0.0,
                start=started,
                stop=time.time(),
                user_properties=[(NAME, finding.text.splitlines()[0])],
            )
            config.hook.pytest_runtest_logreport(report=report)
        config.hook.pytest_runtest_logfinish(nodeid=nodeid, location=location)


def judge(session: DspySession, name: str, record: ExperimentRecord | None) -> Finding:
    """Hold what was measured of an experiment against the baseline.

    Args:
        session: The session, whose comparison of the experiment this becomes.
        name: The experiment.
        record: What was measured of it; None if nothing was.
    """
    from pytest_dspy_ft.gates.regression import CONFIDENCE, compare
    from pytest_dspy_ft.records.baseline import saved_experiment
    from pytest_dspy_ft.report.changes import explain_comparison, headline

    baseline, file = session.baseline, session.options.compare_as
    if baseline is None:
        raise RuntimeError("there is no baseline to compare with")
    then = baseline.experiment(name)
    if then is None:
        known = ", ".join(e.name for e in baseline.experiments) or "none"
        return Finding("skipped", f"{file} holds no experiment {name!r} (it holds {known}): nothing to compare with")
    if record is None or not record.results:
        return Finding("skipped", f"nothing of experiment {name!r} was measured in this session")
    comparison = compare(
        then,
        saved_experiment(record),
        file=file,
        created=baseline.created,
        confidence=session.options.confidence or CONFIDENCE,
        reasons=_reasons(session, record, then),
        limit=record.limit,
    )
    session.keep_comparison(name, comparison)
    record = record.model_copy(update={"comparison": comparison})
    if not comparison.passed:
        return Finding("failed", explain_comparison(record, _earlier(session, name)))
    if not comparison.compared:
        return Finding("skipped", f"nothing that {file} holds of experiment {name!r} was measured in this session")
    return Finding("passed", headline(comparison))


def unmet(session: DspySession) -> list[str]:
    """What the baseline holds and this session did not compare, experiment by experiment."""
    if session.baseline is None:
        return []
    file = session.options.compare_as
    return [
        f"{file} also holds experiment {experiment.name!r}, which was not compared in this session"
        for experiment in session.baseline.experiments
        if experiment.name not in session.compared
    ]


def _reasons(session: DspySession, record: ExperimentRecord, then: SavedExperiment) -> dict[str, str]:
    """Why stages were not measured, as far as that is known."""
    gone = {e.stage: "the experiment has no such stage any more" for e in then.evaluations}
    states = {b.stage: b.reason for b in record.stages if b.status == "skipped"}
    states |= {b.stage: f"failed: {b.reason}" for b in record.stages if b.status == "failed"}
    beyond = session.survey.beyond.get(record.name, {})
    return {**{stage: why for stage, why in gone.items() if stage not in record.order}, **beyond, **states}


def _earlier(session: DspySession, name: str) -> dict[tuple[str, Split], StageResult]:
    """The results that the baseline was saved from, where the store still has them: with them come the predictions."""
    from pytest_dspy_ft.records.baseline import still_holds
    from pytest_dspy_ft.store.store import Store

    then = None if session.baseline is None else session.baseline.experiment(name)
    if then is None:
        return {}
    store = Store(session.options.store)
    found = {(e.stage, e.on): store.load_evaluation(name, e.stage, e.on, e.key) for e in then.evaluations}
    return {place: result for place, result in found.items() if result is not None and still_holds(then, result)}


def _measured(session: DspySession, item: Comparison) -> ExperimentRecord:
    """All that the baseline holds of an experiment and ``--dspy-stage`` reaches, built and measured where need be."""
    from pytest_dspy_ft.errors import DspyFtError

    experiment: Experiment = item.funcargs[EXPERIMENT]  # type: ignore[assignment]
    then = None if session.baseline is None else session.baseline.experiment(experiment.name)
    allowed = session.allowed.get(experiment.name, frozenset())
    try:
        ladder = session.ladder(experiment)
        for evaluation in then.evaluations if then is not None else ():
            if evaluation.stage in allowed and experiment.dataset.split(evaluation.on):
                ladder.evaluate(evaluation.stage, evaluation.on)
    except DspyFtError as error:
        pytest.fail(str(error), pytrace=False)
    record = ladder.record()
    splits = dict.fromkeys(result.on for result in record.results)
    examples = {identity: content for on in splits for identity, content in ladder.contents(on).items()}
    return record.model_copy(update={"examples": examples})
