"""One session, experiment by experiment."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import JsonValue

from pytest_dspy_ft.records.base import Record, Split
from pytest_dspy_ft.records.build import BuildRecord, StageDetails
from pytest_dspy_ft.records.comparison import ComparisonRecord
from pytest_dspy_ft.records.evaluation import StageResult
from pytest_dspy_ft.records.gate import UnjudgedGate, VerdictRecord
from pytest_dspy_ft.records.output import Reply, shortened_middle
from pytest_dspy_ft.records.slices import SlicingRecord

SCHEMA_VERSION = 2
"""Raised when an earlier version could not read a record. What is added has a default, so that older ones are read."""


class ExampleContent(Record):
    """One example of a split: what goes in, what should come out."""

    inputs: dict[str, JsonValue] = {}
    expected: dict[str, JsonValue] = {}


class MetricSummary(Record):
    """What a further metric says of one row of the summary table."""

    score: float
    interval: tuple[float, float]
    errors: int = 0
    """Calls that it could not measure (they score 0)."""


MOST_READ = 200
"""Examples of an evaluation whose replies a record keeps; the store keeps all."""

_LONGEST_READ = 4_000


def worth_reading(result: StageResult) -> list[str]:
    """The examples of an evaluation whose replies one would want to read: first those that went wrong, by outcome."""
    order = ("unparsed", "error", "scored")
    ranked = sorted(result.examples, key=lambda e: (order.index(e.outcome), not e.cut_off, e.score))
    return list(dict.fromkeys(example.id for example in ranked))[:MOST_READ]


class ExampleReplies(Record):
    """The LM's answers for one example of one evaluation."""

    stage: str
    on: Split
    id: str
    replies: tuple[Reply, ...]

    @classmethod
    def of(cls, result: StageResult, example: str, replies: Iterable[Reply]) -> ExampleReplies:
        """Answers as a record keeps them: long ones without their middle."""
        short = [r.model_copy(update={"text": shortened_middle(r.text, _LONGEST_READ)}) for r in replies]
        return cls(stage=result.stage, on=result.on, id=example, replies=tuple(short))


class SummaryRecord(Record):
    """The figures of one row of the summary table, for programs that read a saved record.

    All of them follow from the rest of the record; they stand here so that no reader has to compute them again.
    """

    stage: str
    on: Split
    n: int
    planned: int | None = None
    """How many examples the split has, where the evaluation ended early; None where it is whole."""
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
    cut_off: int = 0
    """Answers of the LM that a limit on their tokens cut off, readable or not."""
    tokens_per_call: float | None = 0.0
    """None where replies did not say how many tokens they took."""
    cost_per_call: float | None = None
    seconds_per_call: float = 0.0
    build_cost: float | None = None
    """US dollars that building the stage spent, hosted trainings included, in whichever session built it."""
    build_seconds: float | None = None
    points_per_dollar: float | None = None
    """Percentage points gained over the stage before, for each dollar of building; None where building was free."""
    points_per_minute: float | None = None
    metrics: dict[str, MetricSummary] = {}
    """What the experiment's further metrics say, by name."""


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
    slices: tuple[SlicingRecord, ...] = ()
    """Which examples of the measured splits are in which slice: by what gates and the experiment ask for, by labels."""
    verdicts: tuple[VerdictRecord, ...] = ()
    cautions: tuple[str, ...] = ()
    """What to know before believing the figures: leakage, doubtful measurements, uncorrected gates."""
    metric: str = ""
    """Fingerprint of the metric: scores of two metrics cannot be compared."""
    tested_programs: int = 0
    """How many different programs were ever measured on the whole test split, as far as the store remembers."""
    examples: dict[str, ExampleContent] = {}
    """The evaluated examples by id, where a report or a baseline needs them."""
    comparison: ComparisonRecord | None = None
    """How this session stands against the baseline of ``--dspy-compare``."""
    replies: tuple[ExampleReplies, ...] = ()
    """What the LM answered, for the examples worth reading, where a report was asked for."""
    details: tuple[StageDetails, ...] = ()
    """Prompts, demos and losses of the stages, where a report was asked for."""
    summary: tuple[SummaryRecord, ...] = ()
    """Filled in when the record is saved."""

    def result(self, stage: str, on: Split) -> StageResult | None:
        """The evaluation of one stage on one split, if there was one."""
        return next((r for r in self.results if r.stage == stage and r.on == on), None)

    def seen(self, name: str, on: Split) -> StageResult | None:
        """The evaluation of a stage on a split, or as a further metric sees it: ``finetuned``, ``f1(finetuned)``."""
        metric, _, rest = name.rpartition("(")
        result = self.result(rest.removesuffix(")"), on)
        if result is None or not metric:
            return result
        return result.metric(metric) if metric in result.metrics else None


class RunRecord(Record):
    """One session."""

    schema_version: int = SCHEMA_VERSION
    created: str
    """ISO 8601, UTC."""
    commit: str = ""
    """The commit of the project that was checked out as the tests were collected; empty where there is none."""
    dirty: bool | None = None
    """Whether tracked files differed from it; None where that is not known."""
    experiments: tuple[ExperimentRecord, ...] = ()
    incomplete: tuple[str, ...] = ()
    """Why the record is not the whole story (a crashed worker, an interrupted session); empty when it is."""
    partial: tuple[str, ...] = ()
    """What the session left out of all that the project's tests judge and measure, and why; empty for a whole one."""
    unjudged: tuple[UnjudgedGate, ...] = ()
    """The gates of its tests that it did not judge."""
    seconds: float = 0.0
    versions: dict[str, str] = {}
    environment: dict[str, str] = {}
    """Versions of Python, and of what runs models on this machine, where it is installed."""
    checksum: str = ""
    """Of all the rest, in a file; what a hand or damage changed does not match it."""
