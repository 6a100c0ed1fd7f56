"""``--dspy-compare``: the comparison with a baseline as a test item of its own, one for each experiment.

The item stands beside the first test that uses the experiment, so that ``-k``, ``--lf``, node ids and
``--collect-only`` know it. It runs after all other tests and holds what *they* measured against the file: it builds
and measures nothing. Under pytest-xdist only the controller knows what all workers measured, so it is judged there.

What an LM elsewhere answers is measured anew by those tests, as the model may have changed behind its name: a store
held against a file that was saved from it would show nothing, ever. ``--dspy-compare-stored`` leaves that out.

Where it is all that was chosen of its experiment (``-k``, a node id, ``--lf`` after it failed), nobody else measures.
Then it asks the ladder itself for what the file holds, within ``--dspy-stage``, as a gate would.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pytest

from pytest_dspy_ft.errors import RecordError
from pytest_dspy_ft.plugin.collected import collected_tests
from pytest_dspy_ft.plugin.compat import empty_test, failed_last_time, is_worker, skip_test
from pytest_dspy_ft.plugin.experiments import EXPERIMENT, declared
from pytest_dspy_ft.plugin.failures import plain_errors, plain_failure
from pytest_dspy_ft.plugin.markers import ITEM_EXPERIMENT
from pytest_dspy_ft.plugin.session import session_of

if TYPE_CHECKING:
    from pytest_dspy_ft.experiment.experiment import Experiment
    from pytest_dspy_ft.gates.regression import OtherComparisons
    from pytest_dspy_ft.records.base import Split
    from pytest_dspy_ft.records.baseline import Baseline, SavedExperiment
    from pytest_dspy_ft.records.comparison import ComparisonRecord
    from pytest_dspy_ft.records.evaluation import StageResult
    from pytest_dspy_ft.records.run import ExperimentRecord

NAME = "dspy_compare"

_COMPARED: pytest.StashKey[ComparedBaseline] = pytest.StashKey()


class Finding(NamedTuple):
    """The outcome of a comparison."""

    outcome: Literal["passed", "failed", "skipped"]
    text: str
    """Why it failed or was skipped; else in short what was found."""

    @property
    def user_property(self) -> tuple[str, str]:
        """The finding in a line, for JUnit's file."""
        return NAME, self.text.splitlines()[0]


class ComparedBaseline:
    """The baseline that a session is compared with.

    Args:
        config: Of the session.
        baseline: What was saved.
    """

    def __init__(self, config: pytest.Config, baseline: Baseline) -> None:
        self.experiments_with_item: set[str] = set()
        self.chosen: dict[str, int] = {}
        """The experiments whose comparison is made in this session, and how many evaluations each may compare."""
        self.measuring: set[str] = set()
        """Those of them whose comparison measures by itself."""
        self._config = config
        self._session = session_of(config)
        self._baseline = baseline
        self._file = self._session.options.compare_as
        self._session.measure_anew = self.measured_anew
        # Read now: what is measured anew takes their place.
        self._earlier = {saved.name: self._earlier_results(saved) for saved in baseline.experiments}

    def evaluations(self, experiment: Experiment) -> list[tuple[str, Split]]:
        """The stages and splits that the file holds of an experiment and this session may measure."""
        saved = self._baseline.experiment(experiment.name)
        reach = self._session.reach.stages(experiment)
        found = [] if saved is None else [(e.stage, e.on) for e in saved.evaluations]
        return [(stage, on) for stage, on in found if stage in reach and experiment.dataset.sizes[on]]

    def measured_anew(self, experiment: Experiment) -> list[tuple[str, Split]]:
        """Those that are measured anew where an LM elsewhere answers: none where the comparison is refused anyway."""
        from pytest_dspy_ft.fingerprint import fingerprint

        saved = self._baseline.experiment(experiment.name)
        if self._session.options.compare_stored or saved is None or experiment.name not in self.chosen:
            return []
        is_refused = saved.metric != fingerprint(experiment.metric)[: len(saved.metric)]
        return [] if is_refused else self.evaluations(experiment)

    def choose(self, experiment: Experiment) -> str:
        """Count in an experiment whose comparison this session makes.

        Returns:
            Why it cannot be made; empty where it can.
        """
        from pytest_dspy_ft.ladder.drift import not_measurable_anew

        self.chosen[experiment.name] = self._comparisons(experiment)
        options = self._session.options
        if options.plan or not (anew := self.measured_anew(experiment)):
            return ""
        self._session.begin()
        problem = not_measurable_anew(experiment, anew, frozen=options.frozen, served=bool(options.serve))
        return problem and (
            f"--dspy-compare={self._file}: experiment {experiment.name!r}: {problem}; add --dspy-compare-stored to "
            "compare the program on the answers of then"
        )

    def _comparisons(self, experiment: Experiment) -> int:
        """How many comparisons that may be, those by further metrics included."""
        places = self.evaluations(experiment)
        saved = self._baseline.experiment(experiment.name)
        seen = [] if saved is None else [(e.stage, e.on) for e in saved.evaluations if e.metric_key]
        by_metric = {(f"{name}({stage})", on) for stage, on in places for name in experiment.metrics}
        return len(places) + len(by_metric.intersection(seen))

    def judge(self, name: str, record: ExperimentRecord | None) -> Finding:
        """Hold what was measured of an experiment against the baseline, and keep the comparison.

        Args:
            name: The experiment.
            record: What was measured of it; None if nothing was.
        """
        with self._session.progress.passing(f"{name}: comparing with the baseline"):
            return self._judge(name, record)

    def _judge(self, name: str, record: ExperimentRecord | None) -> Finding:
        from pytest_dspy_ft.gates.regression import CONFIDENCE, compare
        from pytest_dspy_ft.records.baseline import saved_experiment
        from pytest_dspy_ft.report.changes import explain_comparison, headline

        saved = self._baseline.experiment(name)
        if saved is None:
            known = ", ".join(e.name for e in self._baseline.experiments) or "none"
            return Finding(
                "skipped", f"{self._file} holds no experiment {name!r} (it holds {known}): nothing to compare with"
            )
        if record is None or not record.results:
            return Finding("skipped", f"nothing of experiment {name!r} was measured in this session")
        comparison = compare(
            saved,
            saved_experiment(record),
            file=self._file,
            created=self._baseline.created,
            confidence=self._session.options.confidence or CONFIDENCE,
            reasons=self._reasons_unmeasured(record, saved),
            limit=record.limit,
            others=self._others(name),
        )
        comparison = comparison.model_copy(update={"notes": (*comparison.notes, *self._origin(record, comparison))})
        self._session.records.keep_comparison(name, comparison)
        if not comparison.passed:
            compared = record.model_copy(update={"comparison": comparison})
            return Finding("failed", explain_comparison(compared, self._earlier[name]))
        if not comparison.compared:
            return Finding(
                "skipped", f"nothing that {self._file} holds of experiment {name!r} was measured in this session"
            )
        if all(stage.change == "blind" for stage in comparison.compared):
            return Finding("skipped", f"{headline(comparison)}: more examples are needed")
        return Finding("passed", headline(comparison))

    def measure(self, experiment: Experiment) -> ExperimentRecord:
        """All that the baseline holds of an experiment and ``--dspy-stage`` reaches, measured where need be."""
        with plain_errors():
            ladder = self._session.ladder(experiment)
            for stage, on in self.evaluations(experiment):
                ladder.evaluate(stage, on)
        record = ladder.record()
        splits = dict.fromkeys(result.on for result in record.results)
        examples = {identity: content for on in splits for identity, content in ladder.contents(on).items()}
        return record.model_copy(update={"examples": examples})

    def not_compared(self) -> list[str]:
        """A line for each experiment that the baseline holds and this session did not compare."""
        return [
            f"{self._file} also holds experiment {experiment.name!r}, which was not compared in this session"
            for experiment in self._baseline.experiments
            if experiment.name not in self._session.records.compared
        ]

    def _others(self, name: str) -> OtherComparisons:
        """The session's other comparisons: those measured by now, and how many there may be besides."""
        from pytest_dspy_ft.gates.regression import OtherComparisons, comparable
        from pytest_dspy_ft.records.baseline import saved_experiment

        judged, waiting = [], 0
        for other in self.chosen:
            record, saved = self._session.records.experiment(other), self._baseline.experiment(other)
            if other == name or saved is None:
                continue
            known = [] if record is None else comparable(saved, saved_experiment(record))
            judged += known
            is_over = other not in self.measuring or other in self._session.records.compared
            if is_worker(self._config) or not is_over:
                waiting += max(self.chosen[other] - len(known), 0)
        return OtherComparisons(judged, waiting)

    def _origin(self, record: ExperimentRecord, comparison: ComparisonRecord) -> Iterator[str]:
        """Which of the compared results were not measured in this session, and why."""
        stored = {(result.stage, result.on) for result in record.results if result.loaded}
        loaded = [f"{stage.stage} on {stage.on}" for stage in comparison.compared if (stage.stage, stage.on) in stored]
        if loaded and self._session.options.compare_stored:
            yield (
                f"not measured in this session but read from the store (--dspy-compare-stored): {', '.join(loaded)}; "
                "what changed behind the name of an LM since is not seen"
            )
        elif loaded:
            yield f"not measured anew, as their LMs answer on this machine: {', '.join(loaded)}"

    def _reasons_unmeasured(self, record: ExperimentRecord, saved: SavedExperiment) -> dict[str, str]:
        """Why stages were not measured, as far as that is known."""
        gone = [evaluation for evaluation in saved.evaluations if evaluation.stage not in record.order]
        reasons = {
            e.stage: f"the experiment has no such {'stage or metric' if e.metric_key else 'stage'} any more"
            for e in gone
        }
        reasons |= collected_tests(self._config).out_of_reach.get(record.name, {})
        reasons |= {build.stage: build.reason for build in record.stages if build.status == "skipped"}
        return reasons | {b.stage: f"failed: {b.reason}" for b in record.stages if b.status == "failed"}

    def _earlier_results(self, saved: SavedExperiment) -> dict[tuple[str, Split], StageResult]:
        """The results that the baseline was saved from, as far as the store has them: they hold the predictions."""
        from pytest_dspy_ft.records.baseline import still_holds
        from pytest_dspy_ft.store.store import Store

        store = Store(self._session.options.store)
        load = partial(store.load_evaluation, saved.name)
        found = {(e.stage, e.on): e.found_in(load) for e in saved.evaluations}
        return {place: result for place, result in found.items() if result is not None and still_holds(saved, result)}


def read_compared(config: pytest.Config) -> None:
    """Read the file that ``--dspy-compare`` names, if it names one.

    Raises:
        pytest.UsageError: If it is no baseline that can be read here.
    """
    options = session_of(config).options
    if options.compare is None:
        return  # in every session that has the plugin installed: load nothing for it
    from pytest_dspy_ft.records.baseline import read_baseline

    try:
        config.stash[_COMPARED] = ComparedBaseline(config, read_baseline(options.compare))
    except RecordError as error:
        raise pytest.UsageError(f"--dspy-compare={options.compare_as}: {error}") from None


def compared_baseline(config: pytest.Config) -> ComparedBaseline | None:
    """The baseline that the session is compared with; None without ``--dspy-compare``."""
    return config.stash.get(_COMPARED, None)


class Comparison(pytest.Function):
    """Holds one experiment's results against the baseline."""

    experiment_name: str
    measures_itself = False
    """True where no other chosen test measures what it needs."""

    def iter_markers_with_node(self, name: str | None = None) -> Iterator[Any]:
        """None: the marks of the module it stands in are not about it."""
        return iter(())

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """Where it stands: in the file of the first test that uses the experiment."""
        return self.path, 0, self.name

    def runtest(self) -> None:
        """Compare."""
        baseline = self.config.stash[_COMPARED]
        record = session_of(self.config).records.experiment(self.experiment_name)
        if self.measures_itself:
            record = baseline.measure(self.funcargs[EXPERIMENT])  # type: ignore[arg-type]
        finding = baseline.judge(self.experiment_name, record)
        self.user_properties.append(finding.user_property)
        if finding.outcome == "skipped":
            skip_test(finding.text)
        if finding.outcome == "failed":
            raise plain_failure(finding.text)


def add_comparisons(collector: pytest.Collector, report: pytest.CollectReport) -> None:
    """Add the comparison of every experiment that is first used here."""
    baseline = compared_baseline(collector.config)
    if baseline is None:
        return
    for item in list(report.result or ()):
        if not isinstance(item, pytest.Function) or EXPERIMENT not in item.fixturenames:
            continue
        found = declared(collector.session, item)
        name: str | None = getattr(found and found.experiment, "name", None)
        if name is None or name in baseline.experiments_with_item:
            continue
        comparison = empty_test(Comparison, item, EXPERIMENT, f"{NAME}[{' '.join(name.split())}]")
        comparison.experiment_name = name
        baseline.experiments_with_item.add(name)
        report.result = [*report.result, comparison]


def place_comparisons(session: pytest.Session) -> None:
    """Let the comparisons run last: here, or in the controller of the workers that measure.

    Raises:
        pytest.UsageError: If one would have to measure, and the session may not.
    """
    chosen = [item for item in session.items if isinstance(item, Comparison)]
    if not chosen:
        return
    _choose(session, chosen)
    others = [item for item in session.items if not isinstance(item, Comparison)]
    measured = {e.name for item in others if (e := item.stash.get(ITEM_EXPERIMENT, None)) is not None}
    failed = failed_last_time(session.config)
    for item in chosen:
        item.measures_itself = item.experiment_name not in measured or item.nodeid in failed
        if item.measures_itself:
            session.config.stash[_COMPARED].measuring.add(item.experiment_name)
    if is_worker(session.config):
        collected_tests(session.config).compared = session.config.stash[_COMPARED].chosen
        collected_tests(session.config).comparisons = [
            (item.nodeid, item.location, item.experiment_name) for item in chosen if not item.measures_itself
        ]
        chosen = [item for item in chosen if item.measures_itself]
    session.items[:] = [*others, *chosen]


def _choose(session: pytest.Session, chosen: Sequence[Comparison]) -> None:
    """Count in the experiments whose comparison was chosen."""
    if session.config.option.collectonly:
        return
    baseline, problems = session.config.stash[_COMPARED], []
    for item in chosen:
        found = declared(session, item)
        if found is not None and found.experiment is not None:
            problems.append(baseline.choose(found.experiment))
    if any(problems):
        raise pytest.UsageError("\n".join(filter(None, problems)))


def judge_in_controller(session: pytest.Session) -> None:
    """In xdist's controller: judge the comparisons that the workers left to it, and report each like any test."""
    config, records = session.config, session_of(session.config).records
    comparisons = collected_tests(config).comparisons
    if comparisons:
        config.stash[_COMPARED].chosen = dict(collected_tests(config).compared)
    session.testscollected += len(comparisons)
    for nodeid, (path, line, domain), experiment in comparisons:
        location = (path, line, domain)
        config.hook.pytest_runtest_logstart(nodeid=nodeid, location=location)
        started, clock = time.time(), time.perf_counter()
        finding = config.stash[_COMPARED].judge(experiment, records.experiment(experiment))
        reasons: dict[str, Any] = {"failed": finding.text, "skipped": (path, 0, f"Skipped: {finding.text}")}
        phases: list[tuple[Literal["setup", "call", "teardown"], Any, Any, float]] = [
            ("setup", "passed", None, 0.0),
            ("call", finding.outcome, reasons.get(finding.outcome), time.perf_counter() - clock),
            ("teardown", "passed", None, 0.0),
        ]
        for when, outcome, longrepr, duration in phases:
            report = pytest.TestReport(
                nodeid=nodeid,
                location=location,
                keywords={NAME: 1},
                outcome=outcome,
                longrepr=longrepr,
                when=when,
                duration=duration,
                start=started,
                stop=time.time(),
                user_properties=[finding.user_property],
            )
            config.hook.pytest_runtest_logreport(report=report)
        config.hook.pytest_runtest_logfinish(nodeid=nodeid, location=location)
