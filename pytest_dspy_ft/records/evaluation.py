"""One stage measured on one split, example by example."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, JsonValue

from pytest_dspy_ft.constants import MODEL_PREFIX
from pytest_dspy_ft.records.base import Record, Split
from pytest_dspy_ft.records.footprint import Footprint
from pytest_dspy_ft.records.in_short import example_line, result_html, result_line
from pytest_dspy_ft.records.packed import Packable, PackedRows
from pytest_dspy_ft.records.sums import Sums
from pytest_dspy_ft.records.usage import Usage
from pytest_dspy_ft.statistics.sums import exact_sum

Outcome = Literal["scored", "unparsed", "error"]

WORST_FIRST: tuple[Outcome, ...] = ("error", "unparsed", "scored")
"""The outcome of an example is the worst of its repeats."""

Fault = Literal["provider", "program", "metric"]


class MetricScore(Record):
    """What a further metric says of one call of the program."""

    score: float = Field(ge=0.0, le=1.0)
    error: str | None = None
    """Why it could not be measured; it scores 0 then."""
    fault: Fault | None = None
    """Of an ``error``: what failed."""
    feedback: str | None = None
    """What the metric said beside its score."""
    judge: Usage | None = None
    """Its LM calls; None where it made none."""


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
    """Of an ``error``: what failed. The provider's failures were retried before they were counted, and only they are
    asked again by a later session. What the provider failed is its fault also where the program caught it."""
    usage: Usage = Usage()
    """Of all repeats together."""
    judge: Usage | None = None
    """The LM calls of the metric, which are no part of ``usage``; None where it made none."""
    feedback: str | None = None
    """What the metric said beside its score."""
    further: dict[str, MetricScore] = {}
    """What the experiment's further metrics say, by name."""
    repeat: int | None = None
    """Which repeat this is, from 0; None for the example as a whole."""
    repeats: tuple[ExampleResult, ...] = ()
    """The repeats one by one, where there are several: ``score`` is the mean of theirs, ``outcome`` the worst."""

    @property
    def cut_off(self) -> int:
        """How many of the LM's answers a limit on their tokens cut off, readable or not; ``usage`` says at which."""
        return self.usage.cut_off

    @property
    def call_id(self) -> str:
        """The id of this call of the program: the example's, and which repeat it is."""
        return self.id if self.repeat is None else f"{self.id}#{self.repeat}"

    @property
    def each(self) -> tuple[ExampleResult, ...]:
        """Every call of the program on this example: its repeats, or itself."""
        return self.repeats or (self,)

    @property
    def asked(self) -> bool:
        """True where there was a prediction that the metrics were asked about."""
        return self.outcome == "scored" or self.fault == "metric"

    def __repr__(self) -> str:
        return example_line(self)

    def with_metrics(self, names: Collection[str]) -> ExampleResult:
        """The example with the scores of these further metrics only."""
        further = {name: said for name, said in self.further.items() if name in names}
        repeats = tuple(repeat.with_metrics(names) for repeat in self.repeats)
        return self.model_copy(update={"further": further, "repeats": repeats})

    def by_metric(self, name: str) -> ExampleResult:
        """The example as a further metric sees it: with that one's score, outcome and feedback as its own.

        Where the program gave nothing to score, that is the outcome by every metric.
        """
        said = self.further.get(name)
        repeats = tuple(repeat.by_metric(name) for repeat in self.repeats)
        if said is None:
            return self
        outcomes = [repeat.outcome for repeat in repeats] or ["scored" if said.error is None else "error"]
        return self.model_copy(
            update={
                "score": said.score,
                "outcome": min(outcomes, key=WORST_FIRST.index),
                "error": said.error,
                "fault": said.fault,
                "feedback": said.feedback,
                "judge": said.judge,
                "further": {},
                "repeats": repeats,
            }
        )


def settled_calls(calls: Iterable[ExampleResult]) -> dict[str, ExampleResult]:
    """The calls of an earlier measurement that stay as they are, by ``call_id``: all but those that a provider failed.

    What the program or the metric raised is a result like any other. Asked again until it succeeds, with an LM that
    samples, it would lift the score from session to session. Where an error does not say whose it was (an earlier
    version left that out), no call stays: all are made anew, good and bad alike.
    """
    known = list(calls)
    if any(call.outcome == "error" and call.fault is None for call in known):
        return {}
    return {call.call_id: call for call in known if not provider_failed(call)}


def provider_failed(call: ExampleResult) -> bool:
    """True for a call of which a provider failed something: the program, or a metric that asks an LM."""
    return "provider" in (call.fault, *(said.fault for said in call.further.values()))


class StageResult(Record):
    """One stage (or ad-hoc program) evaluated on one split. All examples of the split are in ``examples``."""

    experiment: str
    stage: str
    on: Split
    lm: str
    key: str
    """What this evaluation is filed under in the store."""
    examples: Annotated[Sequence[ExampleResult], Packable(ExampleResult)]
    """A tuple; of an evaluation from the store the same packed, so that each is made when somebody asks for it."""
    wall_seconds: float = 0.0
    session: str = ""
    """The session that measured it."""
    build: str = ""
    """Content hash of the build that was measured; empty for a program that is no stage."""
    unseen: tuple[str, ...] = ()
    """What it may rest on beside what is compared before it is believed again, in words."""
    footprint: Footprint | None = Field(default=None, exclude=True)
    """What it rests on beside its key. The store keeps it; other records are written without it."""
    outputs: str = ""
    """What the outputs that it was made from are filed under in the store; empty where an earlier version kept none."""
    rescored: str = ""
    """Why stored outputs were scored again, without running the program; empty where they were not."""
    judge_lm: str = ""
    """Digest of the LM that was there for the metric, where it asked one and the experiment names none."""
    batched: bool | None = None
    """An LM of this machine answered several of its calls at once, so that their seconds are those of its batches; None
    where nothing was noted of it."""
    metrics: dict[str, str] = {}
    """The experiment's further metrics that have scored it, by name: what the scores of each are filed under."""
    loaded: bool = False
    """True when it came from the store instead of being measured in this session."""
    planned: int | None = None
    """How many examples the split has, where the evaluation ended before all were measured; None where it is whole."""

    def __repr__(self) -> str:
        return result_line(self)

    def _repr_html_(self) -> str:
        return result_html(self)

    def metric(self, name: str) -> StageResult:
        """The evaluation as one of the experiment's further metrics sees it: ``score``, ``interval``, ``errors``, ...

        Raises:
            KeyError: If there is no such metric; the message lists the choices.
        """
        if name not in self.metrics:
            raise KeyError(f"no metric {name!r} has scored {self.stage!r} on {self.on}; {', '.join(self.metrics)} have")
        if name not in self._views:
            examples = tuple(example.by_metric(name) for example in self.examples)
            self._views[name] = self.model_copy(update={"examples": examples, "metrics": {}})
        return self._views[name]

    @cached_property
    def _views(self) -> dict[str, StageResult]:
        return {}

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy, which keeps what was summed up only where the examples stay what they are."""
        copy = super().model_copy(update=update, deep=deep)
        changed = update.keys() & {"examples", "metrics"} if update else frozenset()
        for name in [name for name in copy.__dict__ if name not in type(self).model_fields]:
            if "examples" in changed or (name == "_views" and changed):
                del copy.__dict__[name]
        return copy

    def packed(self, rows: list[Any]) -> Self:
        """The same, its examples packed; what they come to is at hand.

        Args:
            rows: The JSON that the examples were read from.
        """
        known = {name: getattr(self, name) for name in ("ids", "outcomes", "_scores", "_sums")}
        copy = self.model_copy(update={"examples": PackedRows(ExampleResult, rows)})
        copy.__dict__.update(known)
        return copy

    @property
    def n(self) -> int:
        """How many examples: the denominator of every share below."""
        return len(self.examples)

    @property
    def planned_n(self) -> int:
        """How many examples the split has, measured or not."""
        return self.n if self.planned is None else self.planned

    @property
    def stopped(self) -> bool:
        """True where it ended early, since every verdict that needs it was decided."""
        return self.planned is not None

    def part(self, ids: Collection[str]) -> Self:
        """The same with some of its examples only."""
        if all(identity in ids for identity in self.ids):
            return self
        chosen = tuple(example for example in self.examples if example.id in ids)
        return self.model_copy(update={"examples": chosen, "planned": self.planned_n})

    @cached_property
    def exact_score(self) -> Fraction:
        """The mean score over all examples as an exact rational, so that ``1/3 >= 1/3`` holds."""
        return exact_sum(self._scores) / max(self.n, 1)

    @property
    def score(self) -> float:
        """The mean score over all examples, in [0, 1]."""
        return float(self.exact_score)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The id of every example, in the order of the split."""
        return tuple(sys.intern(e.id) for e in self.examples)

    @cached_property
    def outcomes(self) -> tuple[Outcome, ...]:
        """The outcome of every example, in the order of the split."""
        return tuple(e.outcome for e in self.examples)

    @property
    def scores(self) -> list[float]:
        """The score of every example, in the order of the split."""
        return list(self._scores)

    @cached_property
    def _scores(self) -> tuple[float, ...]:
        return tuple(e.score for e in self.examples)

    @cached_property
    def _sums(self) -> Sums:
        return Sums.of(self.examples, provider_failed)

    @cached_property
    def binary(self) -> bool:
        """True where every score is exactly 0 or 1."""
        return set(self._scores) <= {0.0, 1.0}

    @property
    def repeats(self) -> int:
        """How many times each example was evaluated."""
        return max(self._sums.repeats, 1)

    @property
    def calls(self) -> int:
        """How many times the program was called: examples times repeats."""
        return self._sums.calls

    @property
    def errors(self) -> int:
        """How many calls could not be measured (they score 0)."""
        return self._sums.errors

    @property
    def own_errors(self) -> int:
        """How many of the errors are the program's or the metric's own: they stay part of the result."""
        return self._sums.own_errors

    @property
    def may_improve(self) -> bool:
        """True where a provider failed some of it, which it may answer in a later session."""
        return self.errors > self.own_errors or self._sums.provider_failed

    def with_metrics(self, names: Collection[str]) -> StageResult:
        """The evaluation with the scores of these further metrics only."""
        if self.metrics.keys() <= set(names):
            return self
        return self.model_copy(
            update={
                "metrics": {name: key for name, key in self.metrics.items() if name in names},
                "examples": tuple(example.with_metrics(names) for example in self.examples),
            }
        )

    @property
    def unparsed(self) -> int:
        """How many replies the adapter could not read (they score 0)."""
        return self._sums.unparsed

    @property
    def cut_off(self) -> int:
        """How many of the LM's answers a limit on their tokens cut off, readable or not; ``usage`` says at which."""
        return self._sums.cut_off

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the score: Wilson's for 0/1 scores, bootstrap otherwise."""
        from pytest_dspy_ft.statistics.scores import score_interval

        return score_interval(self.scores, ids=self.ids)

    @property
    def usage(self) -> Usage:
        """The sum over all examples."""
        return self._sums.usage

    @property
    def judge(self) -> Usage:
        """The LM calls of the metrics, summed over all examples: no part of ``usage``, ``tokens`` and ``cost``."""
        return self._sums.judge

    @property
    def at_list_prices(self) -> bool:
        """True where no user's own price is in any of its costs."""
        return self._sums.at_list_prices

    @property
    def tokens(self) -> float | None:
        """Tokens per call, input and output together; None where a reply did not say how many it took."""
        return None if self.usage.unmetered_calls else self.usage.tokens / max(self.calls, 1)

    @property
    def cost(self) -> float | None:
        """US dollars per call; None where a price is not known, or what a call used."""
        return None if self.usage.cost is None else self.usage.cost / max(self.calls, 1)

    @property
    def waited(self) -> bool:
        """True where calls waited for each other's batches on this machine: their seconds are not those of a call."""
        local = any(model.startswith(MODEL_PREFIX) for model in (self.lm, *self.usage.models))
        return local if self.batched is None else self.batched

    @property
    def latency(self) -> float:
        """Seconds that a call of the program takes, with as many at once as the evaluation makes."""
        return self.usage.seconds / max(self.calls, 1)
