"""What one pytest session knows: its options, its experiments and their ladders, and what became of them.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_dspy_ft.plugin.collected import Survey
from pytest_dspy_ft.plugin.options import Options

if TYPE_CHECKING:
    import dspy

    from pytest_dspy_ft.experiment.experiment import Experiment
    from pytest_dspy_ft.gates.gate import Gate
    from pytest_dspy_ft.gates.holm import Holm
    from pytest_dspy_ft.ladder.ladder import Ladder
    from pytest_dspy_ft.lms.budget import Budget
    from pytest_dspy_ft.lms.serving import Serving
    from pytest_dspy_ft.progress import Progress
    from pytest_dspy_ft.records.baseline import Baseline
    from pytest_dspy_ft.records.build import BuildRecord
    from pytest_dspy_ft.records.comparison import ComparisonRecord
    from pytest_dspy_ft.records.evaluation import StageResult
    from pytest_dspy_ft.records.plan import Plan
    from pytest_dspy_ft.records.run import ExperimentRecord, RunRecord

SESSION: pytest.StashKey[DspySession] = pytest.StashKey()


def session_of(config: pytest.Config) -> DspySession:
    """The session's state."""
    return config.stash[SESSION]


class DspySession:
    """The state of one pytest session, in one process.

    Args:
        options: What the user asked for.
        identity: Equal in all processes of one session.
        progress: Where progress is shown.
        one_of_many: Whether other processes work on the same session.
    """

    def __init__(self, options: Options, identity: str, progress: Progress, *, one_of_many: bool = False) -> None:
        self.options = options
        self.identity = identity
        self.progress = progress
        self.started = time.monotonic()
        self._open = contextlib.ExitStack()
        self._begun = False
        self._serving: Serving | None = None
        self.allowed: dict[str, frozenset[str]] = {}
        """The stages within reach, by experiment."""
        self.incomplete: list[str] = []
        self.one_of_many = one_of_many
        self.plans: list[Plan] = []
        """What the session would do, where that is all that was asked for."""
        self.cautions: dict[str, list[str]] = {}
        """What was found wrong at collection, by experiment: it goes into the record."""
        self.trials: dict[tuple[str, Gate], Experiment] = {}
        """The gates that this session judges at a confidence."""
        self._holm: Holm[tuple[str, Gate]] | None = None
        self.searched: dict[str, str] = {}
        """What the search for near-duplicates found, by the dataset's fingerprint."""
        self.refusal = ""
        """Why an xdist worker cannot run its tests; elsewhere that is a usage error."""
        self._shared_budget: Budget | None = None
        self.survey = Survey()
        """What the collection of tests tells of the session."""
        self.baseline: Baseline | None = None
        """What ``--dspy-compare`` holds this session against."""
        self.replaced: Baseline | None = None
        """What ``--dspy-save-baseline`` would replace."""
        self.comparison_items: dict[str, str] = {}
        """Node ids of the comparisons, by experiment."""
        self.collection_errors: list[str] = []
        self.saved = ""
        """What became of ``--dspy-save-baseline``."""
        self.save_refused = False
        self._comparisons: dict[str, ComparisonRecord] = {}
        self._lms: dict[str, Any] = {}
        self._ladders: dict[str, Ladder] = {}
        self._declared: dict[str, str] = {}
        self._sources: dict[str, Experiment] = {}
        self._sent: dict[str, set[str]] = {}
        self._collected: dict[str, ExperimentRecord] = {}

    @property
    def in_use(self) -> bool:
        """Whether this session has anything to do with us."""
        return bool(self._ladders or self._collected)

    # --- LMs and ladders ---------------------------------------------------------------------------------------------

    def lm(self, option: str) -> dspy.LM:
        """The LM that an option names; one object for each name.

        Raises:
            pytest.UsageError: If the name stands for no LM, or what it needs is not installed.
        """
        from pytest_dspy_ft.errors import LMError
        from pytest_dspy_ft.lms.resolve import resolve_lm

        self.begin()
        name = self.options.lm if option == "--dspy-lm" else self.options.teacher_lm
        if name not in self._lms:
            try:
                self._lms[name] = resolve_lm(name, runnable=not self.options.frozen)
            except LMError as error:
                raise pytest.UsageError(f"{option}={name}: {error}") from None
        return self._lms[name]

    def ladder(self, experiment: Experiment) -> Ladder:
        """The ladder of an experiment; a fixture that makes its experiment anew for each test gets the same one.

        Raises:
            ExperimentError: If another experiment of the same name has one already.
        """
        from pytest_dspy_ft.errors import ExperimentError
        from pytest_dspy_ft.ladder.ladder import Ladder

        self.begin()
        name = experiment.name
        if name not in self._ladders:
            self._declared[name] = _declaration(experiment)
            self._ladders[name] = Ladder(
                experiment,
                self.options.store,
                frozen=self.options.frozen,
                rebuild=self.options.rebuild,
                limit=self.options.limit,
                num_threads=self.options.num_threads,
                prices=self.options.prices,
                repeats=self.options.repeats,
                max_errors=self.options.max_errors,
                progress=self.progress,
                session=self.identity,
                job_timeout=self.options.job_timeout,
                serving=self._server(),
                budget=self._budget(),
            )
            self._sources[name] = experiment
            for text in self.cautions.get(name, ()):
                self._ladders[name].caution(text)
        elif self._sources[name] is not experiment and self._declared[name] != _declaration(experiment):
            raise ExperimentError(f"two different experiments are named {name!r}; rename one of them")
        return self._ladders[name]

    def _budget(self) -> Budget | None:
        """The session's budget, one for all experiments and all processes."""
        recordings = self.options.recordings
        if self.options.max_cost is None or (recordings is not None and recordings.mode == "none"):
            return None  # what is only replayed costs nothing, whatever it did cost
        if self._shared_budget is None:
            from pytest_dspy_ft.lms.budget import Budget, FileLedger

            shared = self.options.store / "work" / f"spend-{self.identity}.json"
            ledger = FileLedger(shared) if self.one_of_many else None
            self._shared_budget = Budget(self.options.max_cost, self.options.prices, ledger)
        return self._shared_budget

    def _server(self) -> Serving | None:
        """The server that answers for local models in evaluations, one for all experiments."""
        if self.options.serve and self._serving is None:
            from pytest_dspy_ft.lms.serving import Serving

            self._serving = Serving(self.options.serve)
        return self._serving

    def begin(self) -> None:
        """From now on keep keys out of logs, and let recordings answer LM calls, or keep them, where that was asked."""
        if self._begun:
            return
        self._begun = True
        from pytest_dspy_ft.redaction import redacted_logs

        self._open.enter_context(redacted_logs())
        asked = self.options.recordings
        if asked is None:
            return
        from pytest_dspy_ft.lms.calls import recorded_by
        from pytest_dspy_ft.lms.recording.folder import RecordingFolder
        from pytest_dspy_ft.lms.recording.recorder import Recorder

        folder = RecordingFolder(asked.folder, self.identity)
        if asked.mode == "none":  # litellm would ask the network for its price list, and wait for it
            os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        self._open.enter_context(recorded_by(Recorder(folder, asked.mode, asked.lms)))

    def close(self, *, merge: bool) -> None:
        """Let go of what the session held.

        Args:
            merge: Bring what all processes of the session recorded into the files; in the process that ends last.
        """
        if self._serving is not None:
            self._serving.close()
        self._open.close()
        asked = self.options.recordings
        if merge and asked is not None and asked.mode != "none" and (asked.folder / ".work").is_dir():
            from pytest_dspy_ft.lms.recording.folder import RecordingFolder

            RecordingFolder(asked.folder, self.identity).merge()

    def reach(self, experiments: Sequence[Experiment]) -> None:
        """Work out which stages ``--dspy-stage`` lets this session use, and check ``--dspy-rebuild``.

        Raises:
            pytest.UsageError: If an option names something that no experiment has.
        """
        from pytest_dspy_ft.errors import ExperimentError
        from pytest_dspy_ft.experiment.experiment import reachable

        try:
            self.allowed = reachable(experiments, self.options.stages)
        except ExperimentError as error:
            raise pytest.UsageError(f"--dspy-stage: {error}") from None
        known = {name for experiment in experiments for name in experiment.stages}
        for word in self.options.rebuild:
            if word != "all" and word not in known:
                raise pytest.UsageError(
                    f"--dspy-rebuild: no stage {word!r}; choices are all, {', '.join(sorted(known))}"
                )

    def require(self, experiment: Experiment, stages: Iterable[str]) -> None:
        """Skip the running test where it needs a stage that this session may not use."""
        allowed = self.allowed.get(experiment.name)
        if allowed is None:  # an experiment that was not there at collection: judge it by itself
            from pytest_dspy_ft.experiment.experiment import reachable

            selection = [word for word in self.options.stages if _known_to(experiment, word)]
            allowed = reachable([experiment], selection)[experiment.name]
        for stage in stages:
            if stage in allowed or stage not in experiment.stages:
                continue
            reason = out_of_reach(experiment, stage)
            if experiment.name in self._ladders:
                self._ladders[experiment.name].skip(stage, reason)
            raise pytest.skip.Exception(f"stage {stage!r} {reason}", _use_item_location=True)

    def gates_in_reach(self, experiment: Experiment, gates: list[Gate]) -> list[Gate]:
        """The gates that this session will judge: those for the experiment's LM whose stages it may use."""
        allowed = self.allowed.get(experiment.name, frozenset())
        return [gate for gate in gates if gate.applies_to(experiment.lm.model) and gate.stages <= allowed]

    def try_gate(self, experiment: Experiment, gate: Gate) -> None:
        """Count a gate that will be judged at a confidence; the same gate in two tests is one."""
        if gate.confidence is not None and gate.score_stages:
            self.trials[experiment.name, gate] = experiment

    def say_how_many(self) -> None:
        """Note how many gates are judged by interval, and what that means for the session as a whole."""
        count = len(self.trials)
        if count < 2:
            return
        if self.options.correction == "holm":
            text = (
                f"{count} gates were tried at a confidence; each is judged at one corrected for that by Holm's method"
            )
        else:
            risk = min(sum(1 - (gate.confidence or 0) for _, gate in self.trials), 1)
            text = (
                f"{count} gates were tried at a confidence, each by itself: the chance that any of them errs is up to "
                f"{risk:.0%} (dspy_correction = holm corrects for it)"
            )
        for experiment in self.trials.values():
            self.caution(experiment, text)

    def divisor(self, experiment: Experiment, gate: Gate) -> int:
        """What a gate's allowed error is divided by, for how many gates the session judges."""
        if self.options.correction != "holm":
            return 1
        if self._holm is None:
            from pytest_dspy_ft.gates.holm import Holm

            self._holm = Holm(list(self.trials), self._decided)
        return self._holm.divisor((experiment.name, gate))

    def _decided(self, trial: tuple[str, Gate], divisor: int) -> bool:
        """Whether a gate is decided at a corrected confidence; one that cannot be judged is not."""
        from pytest_dspy_ft.errors import DspyFtError

        try:
            ends = self.ladder(self.trials[trial]).weigh(trial[1], divisor).interval
        except DspyFtError:
            return False  # its own test says why
        return ends is not None and not ends[0] < 0 <= ends[1]

    def caution(self, experiment: Experiment, text: str) -> None:
        """Note something that readers of an experiment's figures should know."""
        known = self.cautions.setdefault(experiment.name, [])
        if text not in known:
            known.append(text)
        if experiment.name in self._ladders:
            self._ladders[experiment.name].caution(text)

    # --- records, from the process that made them to the one that shows them ------------------------------------------

    def drain(self) -> str | None:
        """What happened since the last call, as JSON; None when nothing did."""
        news = []
        for ladder in self._ladders.values():
            record = ladder.record()
            sent = self._sent.setdefault(record.name, set())
            fresh: dict[str, list[Any]] = {
                "stages": [s for s in record.stages if _unsent(sent, s.model_dump_json())],
                "results": [r for r in record.results if _unsent(sent, f"{r.stage}/{r.on}/{r.key}")],
                "verdicts": [v for v in record.verdicts if _unsent(sent, f"{v.test}/{v.model_dump_json()}")],
            }
            stopped = bool(record.stopped) and _unsent(sent, f"stopped/{record.stopped}")
            comparison = self._comparisons.get(record.name)
            compared = comparison is not None and _unsent(sent, "comparison")
            if any(fresh.values()) or _unsent(sent, "experiment") or stopped or compared:
                update: dict[str, Any] = {k: tuple(v) for k, v in fresh.items()}
                if compared:
                    update["comparison"] = comparison
                if self.options.reports:
                    update |= _for_reading(ladder, record, sent)
                elif self.options.compare or self.options.save_baseline:
                    update["examples"] = _contents(ladder, record, sent)
                news.append(record.model_copy(update=update).model_dump(mode="json"))
        return json.dumps(news) if news else None

    def collect(self, news: str) -> None:
        """Add what :meth:`drain` gave, here or in another process."""
        from pytest_dspy_ft.records.run import ExperimentRecord

        for content in json.loads(news):
            fresh = ExperimentRecord.model_validate(content)
            known = self._collected.get(fresh.name)
            self._collected[fresh.name] = fresh if known is None else _merged(known, fresh)

    def keep_comparison(self, experiment: str, comparison: ComparisonRecord) -> None:
        """Note how an experiment stands against the baseline."""
        self._comparisons[experiment] = comparison
        if (known := self._collected.get(experiment)) is not None:
            self._collected[experiment] = known.model_copy(update={"comparison": comparison})

    @property
    def compared(self) -> frozenset[str]:
        """The experiments that were held against the baseline, as far as is known here."""
        known = (name for name, record in self._collected.items() if record.comparison is not None)
        return frozenset([*self._comparisons, *known])

    def experiment_record(self, name: str) -> ExperimentRecord | None:
        """What is known here of an experiment, as far as it was collected."""
        return self._collected.get(name)

    def record(self) -> RunRecord:
        """The whole session, as far as it was collected."""
        from importlib.metadata import version

        from pytest_dspy_ft.records.run import RunRecord

        return RunRecord(
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            experiments=tuple(self._collected.values()),
            incomplete=(*self.incomplete, *dict.fromkeys(e.stopped for e in self._collected.values() if e.stopped)),
            seconds=time.monotonic() - self.started,
            versions={name: version(name) for name in ("pytest-dspy-ft", "dspy", "pytest")},
        )


def _for_reading(ladder: Ladder, record: ExperimentRecord, sent: set[str]) -> dict[str, Any]:
    """What reports show beside the figures: examples, prompts, demos and losses, each sent once."""
    stages = [s.stage for s in record.stages if s.digest and _unsent(sent, f"details/{s.stage}/{s.digest}")]
    return {
        "details": tuple(details for stage in stages if (details := ladder.details(stage))),
        "examples": _contents(ladder, record, sent),
    }


def _contents(ladder: Ladder, record: ExperimentRecord, sent: set[str]) -> dict[str, Any]:
    """The examples of the splits that were measured on, each sent once."""
    splits = [on for on in {r.on: None for r in record.results} if _unsent(sent, f"examples/{on}")]
    return {identity: content for on in splits for identity, content in ladder.contents(on).items()}


def out_of_reach(experiment: Experiment, stage: str) -> str:
    """Why a stage is not used in this session, and what would run it."""
    kind = experiment.stages[stage].work
    return f"needs --dspy-stage={kind if kind != 'baseline' else stage}"


def _known_to(experiment: Experiment, word: str) -> bool:
    from pytest_dspy_ft.records.base import KINDS

    return word == "all" or word in KINDS or word in experiment.stages


def _declaration(experiment: Experiment) -> str:
    """What an experiment declares, so that two of one name can be told apart."""
    from pytest_dspy_ft.fingerprint import fingerprint, lm_identity

    return fingerprint(
        [
            experiment.program,
            experiment.dataset.fingerprint(),
            experiment.metric,
            lm_identity(experiment.lm),
            experiment.adapter,
            experiment.seed,
            list(experiment.stages.values()),
        ]
    )


def _unsent(sent: set[str], mark: str) -> bool:
    if mark in sent:
        return False
    sent.add(mark)
    return True


_IMPORTANCE = ("skipped", "loaded", "failed", "built")


def _merged(known: ExperimentRecord, fresh: ExperimentRecord) -> ExperimentRecord:
    """Two processes' records of one experiment, each stage and evaluation once."""
    stages: dict[str, BuildRecord] = {}
    for stage in (*known.stages, *fresh.stages):
        other = stages.get(stage.stage)
        if other is None or _IMPORTANCE.index(stage.status) > _IMPORTANCE.index(other.status):
            stages[stage.stage] = stage
    results: dict[tuple[str, str], StageResult] = {}
    for result in (*known.results, *fresh.results):
        other_result = results.get((result.stage, result.on))
        if other_result is None or (other_result.loaded and not result.loaded):
            results[result.stage, result.on] = result
    return known.model_copy(
        update={
            "stages": tuple(stages[name] for name in known.order if name in stages),
            "results": tuple(results.values()),
            "verdicts": (*known.verdicts, *fresh.verdicts),
            "stopped": fresh.stopped or known.stopped,
            "cautions": tuple(dict.fromkeys((*known.cautions, *fresh.cautions))),
            "examples": known.examples | fresh.examples,
            "comparison": fresh.comparison or known.comparison,
            "details": tuple({d.stage: d for d in (*known.details, *fresh.details)}.values()),
        }
    )


def is_worker(config: pytest.Config) -> bool:
    """Whether this process is a worker that reports to a controller."""
    return hasattr(config, "workerinput")
