"""One stage as it was built: its traces, trainings, prompts and losses."""

from __future__ import annotations

from typing import Literal

from pydantic import JsonValue

from pytest_dspy_ft.records.base import Kind, Record
from pytest_dspy_ft.records.usage import Usage

RemedyName = Literal[
    "stronger_teacher", "relaxed_metric", "smaller_subtasks", "more_data", "readable_replies", "mend_failures", "labels"
]

LOW_BOOTSTRAP_RATE = 0.5
"""Under this share of kept traces, a collection is diagnosed in the terminal too."""


class PredictorTraces(Record):
    """One predictor's part in a collection of traces."""

    predictor: str
    calls: int = 0
    """Its calls that gave a readable answer, in all traces; a loop makes several in one trace."""
    rows: int = 0
    """Training rows that its calls in kept traces gave."""
    unparsed: int = 0
    """Traces that ended here because its reply could not be read."""
    raised: int = 0
    """Traces that ended here because the call raised."""


class FailedTrace(Record):
    """A trace that was not kept, as an example. Texts are shortened, each on one line without control characters."""

    id: str
    """The train example's stable id."""
    outcome: Literal["rejected", "unparsed", "raised"]
    score: float | None = None
    predictor: str | None = None
    """Where it failed, as far as that can be told: a score is that of the whole program."""
    inputs: dict[str, str] = {}
    expected: dict[str, str] = {}
    """The labels of the example."""
    reply: str = ""
    """What the program answered; for an unreadable reply, the LM's own text."""
    error: str = ""


class Remedy(Record):
    """One thing that would help a collection that keeps too few traces, with the evidence for it."""

    name: RemedyName
    advice: str
    evidence: str
    """The observation behind it, in numbers of this collection."""
    traces: int = 0
    """How many of the traces that were not kept speak for it."""


class BootstrapRecord(Record):
    """How the traces for a fine-tuning were collected, failures included."""

    teacher: str
    """Stage whose program gave the answers."""
    accept: float | None
    """What a trace's score had to reach; None: anything above 0, as DSPy does."""
    minimum: int = 10
    """Fewer kept traces than this are not trained on."""
    kept: int
    rejected: int
    """Answered and scored, but below ``accept``."""
    unparsed: int
    raised: int
    scores: tuple[float, ...] = ()
    """Scores of the traces that were scored."""
    rows: dict[str, int] = {}
    """Training rows by predictor."""
    failures: tuple[str, ...] = ()
    """A few of the failures, in words."""
    predictors: tuple[PredictorTraces, ...] = ()
    """By predictor, in the program's order."""
    examples: tuple[FailedTrace, ...] = ()
    """A few of the traces that were not kept, of each outcome."""
    remedies: tuple[Remedy, ...] = ()
    """What would help, the best-supported first; empty where all is well."""

    @property
    def attempted(self) -> int:
        """How many train examples were tried."""
        return self.kept + self.rejected + self.unparsed + self.raised

    @property
    def rate(self) -> float:
        """Share of the tried examples whose trace was kept."""
        return self.kept / self.attempted if self.attempted else 0.0

    @property
    def low(self) -> bool:
        """True where so few were kept that somebody should look: under half, or under the minimum."""
        return self.kept < self.minimum or self.rate < LOW_BOOTSTRAP_RATE

    @property
    def histogram(self) -> tuple[int, ...]:
        """Scores counted in ten bins: [0, 0.1), [0.1, 0.2) and so on to [0.9, 1]."""
        counts = [0] * 10
        for score in self.scores:
            counts[min(int(score * 10 + 1e-9), 9)] += 1
        return tuple(counts)

    @property
    def thresholds(self) -> tuple[tuple[float, int], ...]:
        """(accept, traces it would keep): at every score that occurs above 0, or in tenths where those are many."""
        occurring = sorted({score for score in self.scores if score > 0.0})
        values = occurring if len(occurring) <= 10 else [tenth / 10 for tenth in range(1, 11)]
        return tuple((value, self.kept_at(value)) for value in values)

    def kept_at(self, accept: float | None) -> int:
        """How many traces another ``accept`` would have kept."""
        return sum(score > 0.0 if accept is None else score >= accept for score in self.scores)


class TrainingRecord(Record):
    """One fine-tuning job, as its provider reported it."""

    model: str
    """The model it resulted in."""
    predictors: tuple[str, ...]
    rows: int
    steps: int | None = None
    train_loss: float | None = None
    validation_loss: float | None = None
    seconds: float = 0.0
    job: str | None = None
    """Its id at the service that ran it, or its name with a launcher; None for a training in the session's process."""
    trained_tokens: int | None = None
    """As the service counted them, each epoch anew: what it charges for."""
    cost: float | None = None
    """US dollars for those tokens; None on this machine and where no price is known."""
    resumed: bool = False
    """Whether an earlier session had ordered it, so that this one paid nothing for it."""
    launcher: str | None = None
    """Who trained a model of this machine for the session; None for the session itself, or a service."""
    processes: int | None = None
    """In how many processes a launcher trained it; None where it was to find out by itself."""


class CandidateRecord(Record):
    """One of the programs that an optimizer of several steps made on its way."""

    strategy: str
    """The steps that led to it, such as ``p -> w``; empty for the program it started from."""
    score: float | None
    """On the optimizer's validation set, in [0, 1], as DSPy rounds it; None where it had no such set."""


class StrategyRecord(Record):
    """Which of its candidates an optimizer of several steps (``dspy.BetterTogether``) gave back."""

    won: str
    """The steps that led to the program it gave back; empty: none of them, it is the program it started from."""
    score: float | None
    """Of that program on the validation set. It was chosen by this score: expect less on held-out examples."""
    trained: bool
    """Whether that program runs on weights trained here."""
    candidates: tuple[CandidateRecord, ...]
    """All candidates, in the order in which they were made."""


class BuildRecord(Record):
    """One stage of one experiment in this session: built, loaded, failed or out of reach."""

    experiment: str
    stage: str
    kind: Kind
    key: str
    status: Literal["built", "loaded", "failed", "skipped"]
    lm: str = ""
    """The LM that answers: for a fine-tuned stage, the model that training gave."""
    digest: str = ""
    """Content hash of what was built: stages below are stale when it changes."""
    reason: str = ""
    """Why it was built (what changed), why it failed, or which option would run it."""
    usage: Usage = Usage()
    """What building it spent on LM calls (training and the metric's own calls excluded)."""
    judge: Usage = Usage()
    """What the metric's LM calls spent while it was built."""
    seconds: float = 0.0
    bootstrap: BootstrapRecord | None = None
    """How the traces for its training were collected; of several collections, the last. Also where it failed."""
    earlier_bootstraps: tuple[BootstrapRecord, ...] = ()
    """The collections before that: an optimizer that combines steps may train more than once."""
    training: tuple[TrainingRecord, ...] = ()
    strategy: StrategyRecord | None = None
    """For an optimizer of several steps: which of its programs won."""
    unseen: tuple[str, ...] = ()
    """What it may rest on beside what is compared before it is believed again, in words."""

    @property
    def bootstraps(self) -> tuple[BootstrapRecord, ...]:
        """All collections of traces, in their order."""
        return (*self.earlier_bootstraps, *([self.bootstrap] if self.bootstrap else []))


class FieldRecord(Record):
    """One field of a predictor's signature, as the prompt describes it."""

    name: str
    prefix: str = ""
    description: str = ""


class PredictorRecord(Record):
    """The prompt of one predictor of a built stage."""

    name: str
    instructions: str = ""
    fields: tuple[FieldRecord, ...] = ()
    """Inputs first, in the order of the prompt."""
    demos: tuple[dict[str, JsonValue], ...] = ()


class LossPoint(Record):
    """One step of a training."""

    step: int
    epoch: float = 0.0
    loss: float | None = None
    validation_loss: float | None = None
    """None at steps that were not validated."""


class LossCurve(Record):
    """The losses of one training, step by step."""

    name: str
    """Folder of the trained weights, below the build's ``adapters``."""
    points: tuple[LossPoint, ...]


class StageDetails(Record):
    """The prompts and losses of a built stage, for people to read. Records hold it where a report was asked for."""

    stage: str
    digest: str
    """Content hash of the build it was read from."""
    predictors: tuple[PredictorRecord, ...] = ()
    curves: tuple[LossCurve, ...] = ()
