"""The core of one pytest session: its options, its LMs, and the ladders of its experiments.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any

import pytest

from pytest_dspy_ft.errors import ExperimentError, LMError, TrainingError
from pytest_dspy_ft.plugin.compat import skip_test
from pytest_dspy_ft.plugin.options import Options
from pytest_dspy_ft.plugin.reach import Reach, out_of_reach
from pytest_dspy_ft.plugin.session_records import SessionRecords
from pytest_dspy_ft.plugin.trials import Trials

if TYPE_CHECKING:
    import dspy

    from pytest_dspy_ft.experiment.experiment import Experiment
    from pytest_dspy_ft.finetune.launched.protocol import Launcher
    from pytest_dspy_ft.ladder.ladder import Ladder
    from pytest_dspy_ft.ladder.settings import Stopping
    from pytest_dspy_ft.lms.budget import Budget
    from pytest_dspy_ft.lms.providers import Providers
    from pytest_dspy_ft.lms.serving import Serving
    from pytest_dspy_ft.plugin.progress import SessionProgress
    from pytest_dspy_ft.records.base import Split

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
        one_of_many: True where other processes work on the same session.

    Attributes:
        measure_anew: The evaluations of an experiment that are made anew where an LM may have changed behind its name.
    """

    def __init__(
        self, options: Options, identity: str, progress: SessionProgress, *, one_of_many: bool = False
    ) -> None:
        self.options = options
        self.progress = progress
        self.reach = Reach(options.stages)
        self.records = SessionRecords(options, travels=one_of_many)
        self.trials = Trials(options.correction, self.ladder)
        self.measure_anew: Callable[[Experiment], Collection[tuple[str, Split]]] = lambda experiment: ()
        self._identity = identity
        self._one_of_many = one_of_many
        self._open = contextlib.ExitStack()
        self._begun = False
        self._lms: dict[str, Any] = {}
        self._ladders: dict[str, Ladder] = {}
        self._declared: dict[str, tuple[Experiment, str]] = {}
        self._cautions: dict[str, dict[str, None]] = {}

    @property
    def ladders(self) -> Collection[Ladder]:
        """The ladders that tests of this process have asked for."""
        return self._ladders.values()

    @property
    def in_use(self) -> bool:
        """False for a session that has nothing to do with us."""
        return bool(self._ladders) or not self.records.is_empty

    def pytest_keyboard_interrupt(self) -> None:
        """See that the process ends, whatever threads of its tests still wait for."""
        if self._begun:
            from pytest_dspy_ft.lms.interruption import leave_soon

            leave_soon(pytest.ExitCode.INTERRUPTED, further_signals=not self._one_of_many)

    def lm(self, option: str) -> dspy.LM:
        """The LM that an option names; one object for each name.

        Raises:
            pytest.UsageError: If the name stands for no LM, or what it needs is not installed.
        """
        from pytest_dspy_ft.lms.resolve import is_local_name, resolve_lm

        self.begin()
        name = self.options.lm if option == "--dspy-lm" else self.options.teacher_lm
        if name not in self._lms:
            try:
                runnable = not (self.options.frozen or self.options.rescore)
                constrained = self.options.constrain and is_local_name(name)
                with self.progress.passing(f"finding the LM {name}"):
                    self._lms[name] = resolve_lm(name, runnable=runnable, constrained=constrained)
            except LMError as error:
                raise pytest.UsageError(f"{option}={name}: {error}") from None
        return self._lms[name]

    def ladder(self, experiment: Experiment) -> Ladder:
        """The ladder of an experiment; a fixture that makes its experiment anew for each test gets the same one.

        Raises:
            ExperimentError: If another experiment of the same name has one already.
        """
        self.begin()
        name = experiment.name
        if name not in self._ladders:
            self._declared[name] = experiment, _declaration(experiment)
            with self.progress.passing(f"{name}: opening the store {self.options.store}"):
                self._ladders[name] = self._new_ladder(experiment, read_only=self.options.plan)
            for text in self._cautions.get(name, ()):
                self._ladders[name].caution(text)
        else:
            known, declaration = self._declared[name]
            # What runs on globals and classes leave (counters, caches) is now on both: described today, they are equal.
            if known is not experiment and _declaration(experiment) not in (declaration, _declaration(known)):
                raise ExperimentError(f"two different experiments are named {name!r}; rename one of them")
        return self._ladders[name]

    def looking_ladder(self, experiment: Experiment) -> Ladder:
        """A ladder of an experiment to look into the store with; the session's own is made when a test asks for it."""
        return self._new_ladder(experiment, read_only=True)

    def _new_ladder(self, experiment: Experiment, *, read_only: bool) -> Ladder:
        from pytest_dspy_ft.ladder.ladder import Ladder
        from pytest_dspy_ft.store.store import Store

        return Ladder(
            experiment,
            Store(self.options.store, read_only=read_only),
            frozen=(self.options.frozen or self.options.rescore),
            rescore=self.options.rescore,
            rebuild=self.options.rebuild,
            limit=self.options.limit,
            num_threads=self.options.num_threads,
            prices=self.options.prices,
            repeats=self.options.repeats,
            max_errors=self.options.max_errors,
            progress=self.progress,
            session=self._identity,
            job_timeout=self.options.job_timeout,
            serving=self._serving,
            launcher=self.launcher,
            measure_anew=self.measure_anew(experiment),
            budget=self._budget,
            providers=self._providers,
            stopping=self._stopping(experiment.name),
        )

    def require(self, experiment: Experiment, stages: Iterable[str]) -> None:
        """Skip the running test where it needs a stage that this session may not use."""
        within_reach = self.reach.stages(experiment)
        for stage in stages:
            if stage in within_reach or stage not in experiment.stages:
                continue
            reason = out_of_reach(experiment, stage)
            if experiment.name in self._ladders:
                self._ladders[experiment.name].skip(stage, reason)
            skip_test(f"stage {stage!r} {reason}")

    def caution(self, experiment: Experiment, text: str) -> None:
        """Note something that readers of an experiment's figures should know."""
        self._cautions.setdefault(experiment.name, {})[text] = None
        if experiment.name in self._ladders:
            self._ladders[experiment.name].caution(text)

    def _stopping(self, experiment: str) -> Stopping | None:
        """When evaluations may end early; never, where they are compared with a baseline's example by example."""
        rule = self.options.stop_early
        if rule is None or self.options.compare is not None:
            return None
        from pytest_dspy_ft.ladder.settings import Stopping

        return Stopping(rule, functools.partial(self.trials.gates, experiment), self.trials.largest_divisor)

    @functools.cached_property
    def _budget(self) -> Budget | None:
        """The session's budget, one for all experiments and all processes; None without a limit."""
        recordings = self.options.recordings
        if self.options.max_cost is None or (recordings is not None and recordings.mode == "none"):
            return None  # what is only replayed costs nothing, whatever it did cost
        from pytest_dspy_ft.lms.budget import Budget, FileLedger

        shared = self.options.store / "work" / f"spend-{self._identity}.json"
        ledger = FileLedger(shared) if self._one_of_many else None
        return Budget(self.options.max_cost, self.options.prices, ledger)

    @functools.cached_property
    def _providers(self) -> Providers:
        """What this process knows of the LMs' providers, one for all experiments."""
        from pytest_dspy_ft.lms.providers import PATIENCE, Providers

        patience = self.options.patience
        return Providers(self.options.lm_timeout, PATIENCE if patience is None else patience)

    @functools.cached_property
    def _serving(self) -> Serving | None:
        """The servers that answer for local models in evaluations, the same for all experiments; None without."""
        if not self.options.serve:
            return None
        from pytest_dspy_ft.lms.serving import Serving

        serving = Serving(self.options.serve, timeout=self.options.lm_timeout)
        self._open.callback(serving.close)
        return serving

    @functools.cached_property
    def launcher(self) -> Launcher | None:
        """Who trains models of this machine, one for all experiments; None where this process does."""
        if not self.options.train:
            return None
        from pytest_dspy_ft.finetune.launched.choice import launcher_for

        try:
            return launcher_for(self.options.train)
        except TrainingError as error:
            raise pytest.UsageError(f"--dspy-train={self.options.train}: {error}") from None

    def begin(self) -> None:
        """From now on keep keys out of logs, and let recordings answer LM calls, or keep them, where that was asked."""
        if self._begun:
            return
        self._begun = True
        from pytest_dspy_ft.insides.needs import UnsupportedDspyError, check

        self.launcher  # noqa: B018  what it names is checked before anything is done
        from pytest_dspy_ft.progress import shown_on
        from pytest_dspy_ft.redaction import redacted_logs

        try:
            check()
        except UnsupportedDspyError as error:
            raise pytest.UsageError(str(error)) from None

        self._open.enter_context(shown_on(self.progress))
        self._open.enter_context(redacted_logs())
        asked = self.options.recordings
        if asked is None:
            return
        from pytest_dspy_ft.lms.calls import recorded_by
        from pytest_dspy_ft.lms.recording.folder import RecordingFolder
        from pytest_dspy_ft.lms.recording.recorder import Recorder

        folder = RecordingFolder(asked.folder, self._identity, read_only=self.options.plan)
        if asked.mode == "none":  # litellm would ask the network for its price list, and wait for it
            os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        self._open.enter_context(recorded_by(Recorder(folder, asked.mode, asked.lms)))

    def close(self, *, merge: bool) -> None:
        """Let go of what the session held.

        Args:
            merge: Bring what all processes of the session recorded into the files; in the process that ends last.
        """
        with contextlib.ExitStack() as closing:
            closing.callback(self._open.close)
            for ladder in self._ladders.values():
                closing.callback(ladder.close)
        asked = self.options.recordings
        if (
            merge
            and not self.options.plan
            and asked is not None
            and asked.mode != "none"
            and (asked.folder / ".work").is_dir()
        ):
            from pytest_dspy_ft.lms.recording.folder import RecordingFolder

            with self.progress.passing("bringing the recordings into their files"):
                RecordingFolder(asked.folder, self._identity).merge()


def _declaration(experiment: Experiment) -> str:
    """The fingerprint of all that an experiment declares, so that two of one name can be told apart."""
    from pytest_dspy_ft.fingerprint import fingerprint, lm_identity

    return fingerprint(
        [
            experiment.program,
            experiment.dataset.fingerprint(),
            fingerprint(experiment.metric, with_lms=True),
            lm_identity(experiment.lm),
            experiment.adapter,
            experiment.seed,
            list(experiment.stages.values()),
            experiment.slices,
        ]
    )
