"""One experiment in one session: the builder and the evaluator share it, and the rules it holds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import dspy

from pytest_dspy_ft.constants import UPGRADED
from pytest_dspy_ft.errors import BudgetError, BuildError, TooFewTracesError
from pytest_dspy_ft.evaluation.judge import Judge
from pytest_dspy_ft.evaluation.programs import adapter_of
from pytest_dspy_ft.experiment.example_id import DescribedExamples
from pytest_dspy_ft.experiment.experiment import Experiment
from pytest_dspy_ft.experiment.stage import Stage
from pytest_dspy_ft.finetune.hosted.endpoints import Endpoints
from pytest_dspy_ft.fingerprint import digest_json, fingerprint, lm_identity
from pytest_dspy_ft.fingerprint.versions import described_as_of
from pytest_dspy_ft.insides.optimizers import lighten_history
from pytest_dspy_ft.ladder.dspy_versions import FIRST
from pytest_dspy_ft.ladder.library_output import LibraryOutput, logged
from pytest_dspy_ft.ladder.optimizer_traps import with_steps
from pytest_dspy_ft.ladder.settings import LadderSettings
from pytest_dspy_ft.lms.calls import active_recorder, passing
from pytest_dspy_ft.lms.interruption import interruptible
from pytest_dspy_ft.lms.resolve import is_placeholder
from pytest_dspy_ft.lms.usage import SETTING as PRICES
from pytest_dspy_ft.progress import waiting_for
from pytest_dspy_ft.provenance.footprint import CHANGING, Provenance
from pytest_dspy_ft.provenance.state import CREDENTIAL
from pytest_dspy_ft.records.base import Split
from pytest_dspy_ft.records.footprint import Footprint
from pytest_dspy_ft.redaction import remember_secrets_of
from pytest_dspy_ft.report.summary import unseen_caution
from pytest_dspy_ft.store.store import Store


@dataclass(frozen=True)
class Measuring:
    """What an evaluation rests on: what answers, and apart from that what judges the answers."""

    answering: Provenance
    judging: Provenance

    @cached_property
    def whole(self) -> Provenance:
        """Both together."""
        return Provenance.together(self.answering, self.judging)


class LadderContext:
    """One experiment in one session.

    Args:
        experiment: The experiment, with the examples that the session uses.
        store: Where builds and evaluations are kept.
        settings: The session's wishes.

    Attributes:
        rebuild: The stages that this session makes anew, dependents included.
        may_upgrade: It was asked for that stages are built anew which another version of DSPy made.
        cautions: Notes for readers of the figures, in the order in which they were made.
        endpoints: What is started for trained models to answer, and released.
        stopped: The reason why the budget stopped the work; empty where it did not.
    """

    def __init__(self, experiment: Experiment, store: Store, settings: LadderSettings) -> None:
        self.experiment = experiment
        self.store = store
        self.settings = settings
        self._everything = "all" in settings.rebuild
        self.may_upgrade = self._everything or UPGRADED in settings.rebuild
        asked = set(settings.rebuild)
        self.rebuild = frozenset(
            name for name in experiment.stages if self._everything or asked & set(experiment.closure(name))
        )
        self.cautions: dict[str, None] = {}
        self.stopped = ""
        self._lms = declared_lms(experiment)
        for lm in self._lms:
            remember_secrets_of(lm)
            lighten_history(lm)
        self.endpoints = Endpoints(store.root / "endpoints")
        self._looked_for_left = settings.frozen
        self._said_unseen: set[str] = set()
        self._described: dict[Split, DescribedExamples] = {}

    def described_examples(self, on: Split) -> DescribedExamples:
        """Inputs and labels of a split's examples, by id; errors as those of ``Experiment.examples``."""
        if on not in self._described:
            examples = self.experiment.examples(on)
            self._described[on] = DescribedExamples(self.experiment.dataset.ids(on), examples)
        return self._described[on]

    def declared(self) -> dict[str, Any]:
        """The experiment's part of an ``ExperimentRecord``, which the store keeps with each build too."""
        experiment = self.experiment
        return {
            "lm": experiment.lm.model,
            "seed": experiment.seed,
            "sizes": experiment.dataset.sizes,
            "limit": self.settings.limit,
            "order": list(experiment.stages),
        }

    def caution(self, text: str) -> None:
        """Note something that readers of the figures should know; the same text counts once."""
        self.cautions[text] = None

    def begin(self) -> None:
        """Release what a killed session left running; each session looks once, before it works."""
        if not self._looked_for_left and not self.store.read_only:
            self._looked_for_left = True
            self.endpoints.release_left(self._lms)

    # --- who judges --------------------------------------------------------------------------------------------------

    @cached_property
    def judge(self) -> Judge:
        """Whose LM answers the metric, the same for every stage: the experiment's, else the one that is configured."""
        lm = self.experiment.judge_lm
        return Judge(dspy.settings.lm if lm is None and not is_placeholder(dspy.settings.lm) else lm)

    @property
    def judge_digest(self) -> str:
        """Digest of a judge that no key holds, since it is but configured; empty for the experiment's own."""
        lm = None if self.experiment.judge_lm is not None else self.judge.lm
        with described_as_of(FIRST):  # one judge whatever DSPy's version calls its API
            return "" if lm is None else digest_json(lm_identity(lm), length=16)

    def note_adapter(self) -> None:
        """Note an adapter that was configured too late to be the experiment's."""
        now, ours = dspy.settings.adapter, adapter_of(self.experiment)
        if self.experiment.adapter is None and now is not None and fingerprint(now) != fingerprint(ours):
            self.caution(
                f"DSPy is configured with {type(now).__name__} now, and this experiment runs with "
                f"{type(ours).__name__}, as it was when the experiment was declared: name one with "
                "Experiment(..., adapter=...)"
            )

    # --- what counts -------------------------------------------------------------------------------------------------

    def is_own(self, session: str | None) -> bool:
        """True for what a process of this very session has put into the store."""
        return session == self.settings.session

    def rebuilds(self, name: str) -> bool:
        """True for a stage that this session makes anew, and with ``all`` for a program that is no stage."""
        return self._everything or name in self.rebuild

    def must_renew(self, name: str, key: str, session: str | None) -> bool:
        """True where what the store has does not count, since this session makes it anew or records its calls.

        Args:
            name: The stage.
            key: The key of its build or evaluation.
            session: The session that made what the store has.
        """
        return not self.is_own(session) and (self.rebuilds(name) or self.must_record(key))

    def must_record(self, key: str) -> bool:
        """True where a stage or an evaluation in the store does not count, so that its calls are made and recorded."""
        recorder = active_recorder()
        if recorder is None or recorder.offline or self.settings.frozen:
            return False
        return any(map(recorder.covers, self._lms)) and not recorder.is_complete(key)

    def mark_recorded(self, key: str, subject: str) -> None:
        """Note in the recordings that all calls of a stage or an evaluation are in them now, where they are kept."""
        if self.must_record(key) and (recorder := active_recorder()) is not None:
            recorder.mark_complete(key, f"{self.experiment.name}: {subject}")

    # --- what it rests on ---------------------------------------------------------------------------------------------

    def measuring(self, program: Any, lm: Any) -> Measuring:
        """What measuring a program on an LM leads to: both of them with the adapter, and the experiment's metrics."""
        lms = [lm, *(predictor.lm for predictor in program.predictors())]
        answering = [part for each in lms if each is not None for part in _answering(each)]
        metrics = [self.experiment.metric, *self.experiment.metrics.values()]
        return Measuring(Provenance([program, self.experiment.adapter, *answering]), Provenance(metrics))

    def building(self, stage: Stage, lms: Iterable[Any]) -> Provenance:
        """What building a stage on LMs leads to: nothing, where no optimizer runs."""
        if stage.optimizer is None:
            return Provenance([])
        roots = [self.experiment.program, self.experiment.adapter, stage.optimizer, dict(stage.compile_args)]
        return Provenance([*roots, *lms])

    def doubt(self, footprint: Footprint | None, provenance: Provenance) -> str:
        """Why a result of the store is not believed now; empty where it is.

        Args:
            footprint: What it rests on, as it was kept with it; None where an earlier version kept nothing.
            provenance: Of what it is declared with now.
        """
        if footprint is None:
            return "made before what it rests on was kept"
        changed = provenance.changes(footprint)
        return f"changed: {', '.join(changed)}" if changed else ""

    def note_unseen(self, footprint: Footprint) -> None:
        """Say once what a later session cannot compare; what running changes, and keys, are in the record only."""
        kept_quiet = (CHANGING, CREDENTIAL)
        fresh = [what for what in footprint.unseen if not what.endswith(kept_quiet) and what not in self._said_unseen]
        if fresh:
            self._said_unseen.update(fresh)
            self.caution(unseen_caution(fresh))

    def library_output(self, stage: str, work: str) -> LibraryOutput:
        """Takes what DSPy prints and logs while it works on a stage.

        Args:
            stage: The stage, or a program that is none.
            work: What is being done, for the log.
        """
        return LibraryOutput(self.store.log_file(self.experiment.name, stage), work)

    @contextlib.contextmanager
    def logging(self, output: LibraryOutput) -> Iterator[None]:
        """The block in which DSPy works on a stage, and what it says goes to the stage's log.

        Raises:
            BuildError: As it was raised inside, naming the log.
        """
        try:
            with logged(output):
                yield
        except TooFewTracesError:
            raise
        except BuildError as error:
            if output.written:
                error.args = (f"{error}\n  {output.summary}",)
            raise

    # --- other sessions ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def locked(self, what: str, *names: str) -> Iterator[None]:
        """Hold locks of the store; say who else holds one, soon and again while that lasts.

        Args:
            what: What another session does meanwhile, for the message.
            names: The locks.
        """
        with contextlib.ExitStack() as held:
            for name in names:
                with waiting_for(self.settings.progress.task, what) as waiting:
                    held.enter_context(self.store.lock(name, waiting))
            yield

    # --- money -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def paying(self) -> Iterator[None]:
        """LM calls inside cost what the session's prices say; they stop before its spend would pass the limit."""
        with dspy.context(**{PRICES: self.settings.prices}), self.calling():
            yield

    @contextlib.contextmanager
    def calling(self) -> Iterator[None]:
        """LM calls inside take no longer than the session allows, end with Ctrl-C, and stop before its spend's limit.

        Raises:
            BudgetError: If nothing is left for the next call.
        """
        with (
            interruptible() as interruption,
            passing(providers=self.settings.providers, interruption=interruption),
            self.within_budget(),
        ):
            yield

    @contextlib.contextmanager
    def within_budget(self) -> Iterator[None]:
        """LM calls inside stop before the session's spend would pass the limit.

        Raises:
            BudgetError: If nothing is left for the next call.
        """
        if self.settings.budget is None:
            yield
            return
        with self._noting_stop(), self.settings.budget.active():
            yield

    def approve_spend(self, estimate: float | None, purpose: str) -> None:
        """Let a hosted job be paid for.

        Args:
            estimate: US dollars; None where no price is known.
            purpose: What the money is for, in the words of a message.

        Raises:
            BudgetError: If it does not fit into the budget.
        """
        if self.settings.budget is not None:
            with self._noting_stop():
                self.settings.budget.allow(estimate, purpose)

    @contextlib.contextmanager
    def _noting_stop(self) -> Iterator[None]:
        try:
            yield
        except BudgetError as error:
            self.stopped = str(error)
            raise


def _answering(lm: Any) -> list[Any]:
    """The parts of an LM that answer; how it is trained is another matter."""
    return [type(lm), *(part for name, part in vars(lm).items() if name not in ("provider", "train_kwargs", "history"))]


def declared_lms(experiment: Experiment) -> list[Any]:
    """Every LM that building or evaluating a stage of the experiment may call, as far as it is declared."""
    lms = [experiment.lm, experiment.judge_lm, *(stage.lm for stage in experiment.stages.values())]
    lms += [predictor.lm for predictor in experiment.program.predictors()]
    for stage in experiment.stages.values():
        for optimizer in with_steps(stage.optimizer):
            lms += [getattr(optimizer, name, None) for name in ("prompt_model", "task_model", "reflection_lm")]
            lms.append((getattr(optimizer, "teacher_settings", None) or {}).get("lm"))
    return [lm for lm in lms if lm is not None]
