"""The records: what was measured, built and judged, as data that can be written down and read again.

Records are frozen pydantic models without behaviour beyond arithmetic on their own fields. They import neither pytest
nor dspy, so a saved run can be read anywhere. ``SCHEMA_VERSION`` is the version of all of them together.

Words: a *call* is one call of the program (one example), however many LM calls it takes; shares and scores are
fractions in [0, 1]; costs are US dollars; times are seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cached_property
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

SCHEMA_VERSION = 1

Split = Literal["train", "dev", "test"]
Outcome = Literal["scored", "unparsed", "error"]
Kind = Literal["baseline", "prompt", "finetune", "better_together"]
Fault = Literal["provider", "program", "metric"]
VerdictName = Literal["PASS", "FAIL", "UNDECIDED"]
RemedyName = Literal[
    "stronger_teacher", "relaxed_metric", "smaller_subtasks", "more_data", "readable_replies", "mend_failures", "labels"
]

KINDS: tuple[Kind, ...] = ("baseline", "prompt", "finetune", "better_together")
SPLITS: tuple[Split, ...] = ("train", "dev", "test")

LOW_BOOTSTRAP_RATE = 0.5
"""Under this share of kept traces, a collection is diagnosed in the terminal too."""


class Record(BaseModel):
    """Base of all records: immutable, and an unknown field is an error rather than a silent loss."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelUsage(Record):
    """One model's share of some work."""

    input_tokens: int = 0
    """All of them, those that the provider still had included."""
    cached_tokens: int = 0
    """Input tokens that the provider still had, and charges less for."""
    output_tokens: int = 0
    listed: float | None = 0.0
    """US dollars at list prices; None where there is none."""

    def __add__(self, other: ModelUsage) -> ModelUsage:
        listed = None if self.listed is None or other.listed is None else self.listed + other.listed
        return ModelUsage(
            input_tokens=self.input_tokens + other.input_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            listed=listed,
        )


class Usage(Record):
    """What some work cost at the LM, counted where the calls are made."""

    lm_calls: int = 0
    """Calls that the LM answered, readable or not; answers from a response cache included."""
    cached_calls: int = 0
    """Those of ``lm_calls`` that a response cache answered: they used no tokens."""
    replayed_calls: int = 0
    """Those of ``lm_calls`` that a recording answered: their tokens, cost and seconds are those of the recording."""
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = 0.0
    """US dollars; None where a price is not known."""
    seconds: float = 0.0
    """How long the calls took, summed: for an example, the call of the program (concurrent calls overlap)."""
    models: dict[str, ModelUsage] = {}
    """By model, as DSPy names it: what a cost is made of, so that other prices can be put on it later."""

    @property
    def tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        cost = None if self.cost is None or other.cost is None else self.cost + other.cost
        return Usage(
            lm_calls=self.lm_calls + other.lm_calls,
            cached_calls=self.cached_calls + other.cached_calls,
            replayed_calls=self.replayed_calls + other.replayed_calls,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cost=cost,
            seconds=self.seconds + other.seconds,
            models={
                name: self.models.get(name, ModelUsage()) + other.models.get(name, ModelUsage())
                for name in self.models | other.models
            },
        )


class ExampleResult(Record):
    """One example, evaluated once, or several times where repeats were asked for."""

    id: str
    """The example's stable id: a hash of its content."""
    score: float = Field(ge=0.0, le=1.0)
    outcome: Outcome = "scored"
    """``unparsed``: the adapter could not read the reply (a wrong answer). ``error``: the measurement failed."""
    prediction: dict[str, JsonValue] | None = None
    error: str | None = None
    fault: Fault | None = None
    """Of an ``error``: what failed. The provider's failures were retried before they were counted."""
    usage: Usage = Usage()
    """Of all repeats together."""
    repeat: int | None = None
    """Which repeat this is, from 0; None for the example as a whole."""
    repeats: tuple[ExampleResult, ...] = ()
    """The repeats one by one, where there are several: ``score`` is the mean of theirs, ``outcome`` the worst."""

    @property
    def call_id(self) -> str:
        """What tells this call of the program from all others: the example's id, and which repeat it is."""
        return self.id if self.repeat is None else f"{self.id}#{self.repeat}"

    @property
    def each(self) -> tuple[ExampleResult, ...]:
        """Every call of the program on this example: its repeats, or itself."""
        return self.repeats or (self,)


class StageResult(Record):
    """One stage (or ad-hoc program) evaluated on one split. All examples of the split are in ``examples``."""

    experiment: str
    stage: str
    on: Split
    lm: str
    key: str
    """What this evaluation is filed under in the store."""
    examples: tuple[ExampleResult, ...]
    wall_seconds: float = 0.0
    session: str = ""
    """The session that measured it."""
    build: str = ""
    """Content hash of the build that was measured; empty for a program that is no stage."""
    loaded: bool = False
    """True when it came from the store instead of being measured in this session."""

    @property
    def n(self) -> int:
        """How many examples: the denominator of every share below."""
        return len(self.examples)

    @cached_property
    def exact_score(self) -> Fraction:
        """The mean score over all examples as an exact rational, so that ``1/3 >= 1/3`` holds."""
        return sum((Fraction(e.score) for e in self.examples), Fraction(0)) / max(self.n, 1)

    @property
    def score(self) -> float:
        """The mean score over all examples, in [0, 1]."""
        return float(self.exact_score)

    @property
    def scores(self) -> list[float]:
        """The score of every example, in the order of the split."""
        return [e.score for e in self.examples]

    @property
    def binary(self) -> bool:
        """Whether every score is exactly 0 or 1."""
        return all(e.score in (0.0, 1.0) for e in self.examples)

    @property
    def repeats(self) -> int:
        """How many times each example was evaluated."""
        return max((len(e.each) for e in self.examples), default=1)

    @property
    def calls(self) -> int:
        """How many times the program was called: examples times repeats."""
        return sum(len(e.each) for e in self.examples)

    @property
    def errors(self) -> int:
        """How many calls could not be measured (they score 0)."""
        return sum(call.outcome == "error" for e in self.examples for call in e.each)

    @property
    def unparsed(self) -> int:
        """How many replies the adapter could not read (they score 0)."""
        return sum(call.outcome == "unparsed" for e in self.examples for call in e.each)

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the score: Wilson's for 0/1 scores, bootstrap otherwise."""
        from pytest_dspy_ft.statistics import score_interval

        return score_interval(self.scores)

    @cached_property
    def usage(self) -> Usage:
        """The sum over all examples."""
        return sum((e.usage for e in self.examples), Usage())

    @property
    def tokens(self) -> float:
        """Tokens per call, input and output together."""
        return self.usage.tokens / max(self.calls, 1)

    @property
    def cost(self) -> float | None:
        """US dollars per call; None where a price is not known."""
        return None if self.usage.cost is None else self.usage.cost / max(self.calls, 1)

    @property
    def latency(self) -> float:
        """Seconds that a call of the program takes, with as many at once as the evaluation makes."""
        return self.usage.seconds / max(self.calls, 1)


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
    """What would help a collection that keeps too few traces, with the evidence for it."""

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
        """Whether so few were kept that somebody should look: under half, or under the minimum."""
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
    """Its id at the service that ran it; None for a training on this machine."""
    trained_tokens: int | None = None
    """As the service counted them, each epoch anew: what it charges for."""
    cost: float | None = None
    """US dollars for those tokens; None on this machine and where no price is known."""
    resumed: bool = False
    """Whether an earlier session had ordered it, so that this one paid nothing for it."""


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
    """What building it spent on LM calls (training excluded)."""
    seconds: float = 0.0
    bootstrap: BootstrapRecord | None = None
    """How the traces for its training were collected; of several collections, the last. Also where it failed."""
    earlier_bootstraps: tuple[BootstrapRecord, ...] = ()
    """The collections before that: an optimizer that combines steps may train more than once."""
    training: tuple[TrainingRecord, ...] = ()
    strategy: StrategyRecord | None = None
    """For an optimizer of several steps: which of its programs won."""

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
    """What one predictor of a built stage is prompted with."""

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
    """What a built stage consists of, for people to read. Records hold it where a report was asked for."""

    stage: str
    digest: str
    """Content hash of the build it was read from."""
    predictors: tuple[PredictorRecord, ...] = ()
    curves: tuple[LossCurve, ...] = ()


class ExampleContent(Record):
    """One example of a split: what goes in, what should come out."""

    inputs: dict[str, JsonValue] = {}
    expected: dict[str, JsonValue] = {}


class SummaryRecord(Record):
    """The figures of one row of the summary table, for programs that read a saved record.

    All of them follow from the rest of the record; they stand here so that no reader has to compute them again.
    """

    stage: str
    on: Split
    n: int
    score: float
    interval: tuple[float, float]
    before: str | None = None
    """The stage it is compared with: the nearest below with a result on this split."""
    difference: float | None = None
    """Mean difference over the examples that both hold."""
    difference_interval: tuple[float, float] | None = None
    fixed: int | None = None
    broke: int | None = None
    unparsed: int = 0
    errors: int = 0
    tokens_per_call: float = 0.0
    cost_per_call: float | None = None
    seconds_per_call: float = 0.0
    build_cost: float | None = None
    """US dollars that building the stage spent, hosted trainings included, in whichever session built it."""
    build_seconds: float | None = None
    points_per_dollar: float | None = None
    """Percentage points gained over the stage before, for each dollar of building; None where building was free."""
    points_per_minute: float | None = None


class VerdictRecord(Record):
    """A gate and what became of it."""

    experiment: str
    expression: str
    on: Split
    verdict: VerdictName
    passed: bool
    """Whether the test may go on: PASS, or UNDECIDED where the gate allows it."""
    observed: str
    """The observed value, written as people read it: ``88.3%``, ``+33.3 pts``, ``0.41x``."""
    margin: float
    """Left side minus right side (sign turned for ``<=`` and ``<``): at least 0 when the gate holds."""
    interval: tuple[float, float] | None = None
    """Confidence interval of the margin, where a confidence was asked for."""
    confidence: float | None = None
    undecided: Literal["fail", "pass", "warn"] = "fail"
    message: str = ""
    """The whole story for a failure message: both sides, interval, flipped examples, where to look next."""
    test: str = ""
    """Node id of the test that holds the gate."""
    tried: int = 1
    """What the allowed error was divided by for the number of gates; 1 where it was not. In ``confidence`` already."""
    caution: str = ""
    """Why the verdict is worth less than it looks: the split chose the program. Empty where there is no reason."""


class StageComparison(Record):
    """One stage on one split, held against an earlier session's, over the examples that both hold unchanged."""

    stage: str
    on: Split
    status: Literal["compared", "absent", "new"]
    """``absent``: this session did not measure it, or shares no example. ``new``: the earlier session did not."""
    reason: str = ""
    """Why there is nothing to compare."""
    n: int = 0
    """How many examples both hold: the denominator of all that follows."""
    before: float = 0.0
    """The earlier score over these examples."""
    after: float = 0.0
    interval: tuple[float, float] | None = None
    """Confidence interval of ``after - before``, paired by example."""
    change: Literal["regressed", "improved", "level"] | None = None
    """Which way it went beyond noise; None where nothing was compared."""
    fixed: tuple[str, ...] = ()
    """Ids of the examples whose score rose, the largest rise first."""
    broke: tuple[str, ...] = ()
    """Ids of the examples whose score fell, the largest fall first."""
    errors_before: int = 0
    """How many of the ``n`` could not be measured then (they score 0)."""
    errors_after: int = 0
    same_build: bool = False
    """Whether the stage's build is the very one of the earlier session."""


class ExampleChanges(Record):
    """How the examples of one split differ from those of an earlier session."""

    on: Split
    kept: int
    """How many are in both, unchanged."""
    new: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[tuple[str, str], ...] = ()
    """(then, now): ids of examples with the same inputs and other labels."""


class ComparisonRecord(Record):
    """One experiment held against an earlier session's results."""

    file: str
    """The baseline, as the user named it."""
    created: str = ""
    """When the baseline was saved: ISO 8601, UTC."""
    confidence: float
    """Of the intervals: what lies beyond them is a change, what does not is noise."""
    refused: str = ""
    """Why scores cannot be compared at all; empty where they can."""
    notes: tuple[str, ...] = ()
    """What else is not as it was then, such as the LM."""
    stages: tuple[StageComparison, ...] = ()
    examples: tuple[ExampleChanges, ...] = ()

    @property
    def compared(self) -> tuple[StageComparison, ...]:
        """What could be compared."""
        return tuple(s for s in self.stages if s.status == "compared")

    @property
    def regressed(self) -> tuple[StageComparison, ...]:
        """What got worse beyond noise."""
        return tuple(s for s in self.stages if s.change == "regressed")

    @property
    def passed(self) -> bool:
        """Whether nothing regressed and nothing was refused."""
        return not self.refused and not self.regressed


class ExperimentRecord(Record):
    """Everything one session knows of one experiment."""

    name: str
    lm: str
    seed: int = 0
    sizes: dict[Split, int]
    """Number of examples in each split."""
    limit: int | None = None
    order: tuple[str, ...]
    """All stages, lowest first."""
    stopped: str = ""
    """Why the session stopped working on it before it was done (a budget); empty where it did not."""
    stages: tuple[BuildRecord, ...] = ()
    results: tuple[StageResult, ...] = ()
    verdicts: tuple[VerdictRecord, ...] = ()
    cautions: tuple[str, ...] = ()
    """What to know before believing the figures: leakage, doubtful measurements, uncorrected gates."""
    metric: str = ""
    """Fingerprint of the metric: scores of two metrics cannot be compared."""
    examples: dict[str, ExampleContent] = {}
    """The evaluated examples by id, where a report or a baseline needs them."""
    comparison: ComparisonRecord | None = None
    """How this session stands against the baseline of ``--dspy-compare``."""
    details: tuple[StageDetails, ...] = ()
    """Prompts, demos and losses of the stages, where a report was asked for."""
    summary: tuple[SummaryRecord, ...] = ()
    """Filled in when the record is saved."""

    def result(self, stage: str, on: Split) -> StageResult | None:
        """The evaluation of one stage on one split, if there was one."""
        return next((r for r in self.results if r.stage == stage and r.on == on), None)


class RunRecord(Record):
    """One session."""

    schema_version: int = SCHEMA_VERSION
    created: str
    """ISO 8601, UTC."""
    experiments: tuple[ExperimentRecord, ...] = ()
    incomplete: tuple[str, ...] = ()
    """Why the record is not the whole story (a crashed worker, an interrupted session); empty when it is."""
    seconds: float = 0.0
    versions: dict[str, str] = {}


def flips(before: StageResult, after: StageResult) -> tuple[list[str], list[str]]:
    """Ids of the examples that rose and that fell from one result to another, paired by id.

    Returns:
        (fixed, broke): ids whose score went up, and ids whose score went down, in the order of ``after``.
    """
    pairs = list(_paired(before, after))
    fixed = [new.id for old, new in pairs if new.score > old.score]
    broke = [new.id for old, new in pairs if new.score < old.score]
    return fixed, broke


def paired_scores(before: StageResult, after: StageResult) -> tuple[Sequence[float], Sequence[float]]:
    """Scores of the examples that both results hold, in the order of ``after``."""
    pairs = list(_paired(before, after))
    return [old.score for old, _ in pairs], [new.score for _, new in pairs]


def _paired(before: StageResult, after: StageResult) -> Iterator[tuple[ExampleResult, ExampleResult]]:
    """The examples that both results hold, in the order of ``after``; of exact copies, the first with the first."""
    waiting: dict[str, list[ExampleResult]] = {}
    for example in reversed(before.examples):
        waiting.setdefault(example.id, []).append(example)
    for example in after.examples:
        if waiting.get(example.id):
            yield waiting[example.id].pop(), example
