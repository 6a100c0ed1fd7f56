"""The rows that every report shows: one for each stage and split, compared with the one below it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pytest_dspy_ft.records.base import SPLITS
from pytest_dspy_ft.records.build import BuildRecord
from pytest_dspy_ft.records.evaluation import StageResult
from pytest_dspy_ft.records.gate import VerdictRecord
from pytest_dspy_ft.records.pairing import flips, paired_scores
from pytest_dspy_ft.records.run import ExperimentRecord, MetricSummary, SummaryRecord
from pytest_dspy_ft.records.usage import Usage
from pytest_dspy_ft.report.slices import lost_slices
from pytest_dspy_ft.statistics.sums import exact_sum
from pytest_dspy_ft.text import first_line, grouped, percent

CONFIDENCE = 0.95


class SummaryRow(NamedTuple):
    """One row: a stage on a split, or what there is to say of a stage without figures."""

    stage: str
    figures: SummaryRecord | None = None
    note: str = ""
    """What there is to say instead of figures."""


def summary_rows(record: ExperimentRecord) -> Iterator[SummaryRow]:
    """All rows of an experiment, lowest stage first, each compared with the nearest below on the same split."""
    builds = {build.stage: build for build in record.stages}
    # Programs that a test had evaluated by itself come last: they are no rung of the ladder, so nothing is below them.
    others = [stage for stage in dict.fromkeys(r.stage for r in record.results) if stage not in record.order]
    previous: dict[str, StageResult] = {}
    for stage in (*record.order, *others):
        build = builds.get(stage)
        results = [result for split in SPLITS if (result := record.result(stage, split))]
        for result in results:
            if result.n:
                before = previous.get(result.on) if stage in record.order else None
                yield SummaryRow(stage, _figures(result, before, build))
                previous[result.on] = result
            else:
                yield SummaryRow(stage, note=f"no examples in {result.on}")
        if build and build.status in ("failed", "skipped"):
            reason = first_line(build.reason).removeprefix(f"stage {stage!r}: ")
            yield SummaryRow(stage, note=f"{build.status}: {reason}" if reason else build.status)
        elif build and not results:
            yield SummaryRow(stage, note=f"{build.status}, not evaluated")


def used_of_planned(figures: SummaryRecord) -> str:
    """How many examples an evaluation used: ``70 of 200`` where it ended early."""
    return grouped(figures.n) if figures.planned is None else f"{grouped(figures.n)} of {grouped(figures.planned)}"


def summary_records(record: ExperimentRecord) -> tuple[SummaryRecord, ...]:
    """The figures of every row, for programs that read the saved record."""
    return tuple(row.figures for row in summary_rows(record) if row.figures is not None)


def _figures(result: StageResult, before: StageResult | None, build: BuildRecord | None) -> SummaryRecord:
    cost = cost_of(build) if build else None
    figures = SummaryRecord(
        stage=result.stage,
        on=result.on,
        n=result.n,
        planned=result.planned,
        score=result.score,
        interval=result.interval,
        unparsed=result.unparsed,
        errors=result.errors,
        cut_off=result.cut_off,
        tokens_per_call=result.tokens,
        cost_per_call=result.cost,
        seconds_per_call=result.latency,
        build_cost=cost,
        build_seconds=build.seconds if build else None,
        metrics={name: _by_metric(result.metric(name)) for name in result.metrics},
    )
    changed = _change(before, result) if before else None
    if before is None or changed is None:
        return figures
    fixed, broke = flips(before, result)
    gain, interval = changed
    comparison = {
        "before": before.stage,
        "difference": gain,
        "difference_interval": interval,
        "fixed": len(fixed),
        "broke": len(broke),
        "points_per_dollar": _per(gain, cost),
        "points_per_minute": _per(gain, build.seconds / 60 if build else None),
    }
    return figures.model_copy(update=comparison)


def _by_metric(seen: StageResult) -> MetricSummary:
    return MetricSummary(score=seen.score, interval=seen.interval, errors=seen.errors)


def metric_names(rows: Iterable[SummaryRecord | None]) -> list[str]:
    """The further metrics of an experiment's rows, each of which gets a column."""
    return list(dict.fromkeys(name for row in rows if row is not None for name in row.metrics))


def _change(before: StageResult, after: StageResult) -> tuple[float, tuple[float, float]] | None:
    """The mean difference over the examples that both hold, with its paired interval; None if they share none."""
    from pytest_dspy_ft.statistics.scores import paired_difference_interval

    old, new, ids = paired_scores(before, after)
    if not new:
        return None
    difference = (exact_sum(new) - exact_sum(old)) / len(new)
    return float(difference), paired_difference_interval(old, new, CONFIDENCE, ids=ids)


def spent(record: ExperimentRecord) -> tuple[Usage, float]:
    """US dollars that this session itself spent on an experiment, and its seconds: what it loaded cost it nothing.

    The time is the sum over all work, so work done side by side counts twice.
    """
    tried = [build for build in record.stages if build.status in ("built", "failed")]
    measured = [result for result in record.results if not result.loaded]
    usage = sum([*(build.usage for build in tried), *(result.usage for result in measured)], Usage())
    return usage, sum(build.seconds for build in tried) + sum(result.wall_seconds for result in measured)


def judged(record: ExperimentRecord) -> Usage:
    """What the calls of metrics used in this session: no part of what :func:`spent` gives."""
    tried = [build.judge for build in record.stages if build.status in ("built", "failed")]
    scored = [result.judge for result in record.results if not result.loaded or result.rescored]
    return sum([*tried, *scored], Usage())


def cost_of(build: BuildRecord) -> float | None:
    """US dollars that building a stage cost, hosted trainings included; None where a price is not known."""
    trained = [training.cost for training in build.training if training.job is not None]
    costs = [build.usage.cost, *trained]
    return None if any(cost is None for cost in costs) else sum(cost for cost in costs if cost is not None)


def _per(gain: float, spend: float | None) -> float | None:
    """Percentage points for a unit of what was spent; None where nothing was spent or it is not known."""
    return 100 * gain / spend if spend else None


def split_sizes(record: ExperimentRecord) -> str:
    """The sizes of the splits: ``train 800 / dev 100``."""
    return " / ".join(f"{split} {grouped(record.sizes[split])}" for split in SPLITS if split in record.sizes)


def cautions(record: ExperimentRecord) -> list[str]:
    """Cautions before believing the figures: of gates, of slices that were lost, of the experiment, and of replies."""
    marked = [verdict.caution for verdict in record.verdicts if verdict.caution]
    replies = [caution for result in record.results for caution in _reply_cautions(result)]
    ended = [
        f"`{result.stage}` on {result.on} ended after {used} examples, when all gates that need it were decided; its "
        "score and interval are those of an evaluation that ended for what it showed, and lean that way"
        for result in record.results
        if result.planned is not None and (used := f"{grouped(result.n)} of {grouped(result.planned)}")
    ]
    return _unseen_once(dict.fromkeys((*marked, *lost_slices(record), *record.cautions, *ended, *replies)))


_UNSEEN = "a change is not seen where {}; after one, make it anew: --dspy-rebuild=STAGE"


def unseen_caution(places: Iterable[str]) -> str:
    """The caution that a later session cannot compare what was used in some places."""
    return _UNSEEN.format(", ".join(places))


def _unseen_once(texts: Iterable[str]) -> list[str]:
    """The cautions; those that changes are not seen, which come from each build and evaluation, as one."""
    begin, end = _UNSEEN.split("{}")
    kept: list[str] = []
    places: dict[str, None] = {}
    for text in texts:
        if text.startswith(begin) and text.endswith(end):
            if not places:
                kept.append("")
            places |= dict.fromkeys(text[len(begin) : -len(end)].split(", "))
        else:
            kept.append(text)
    return [text or unseen_caution(places) for text in kept]


def _reply_cautions(result: StageResult) -> Iterator[str]:
    """What is to be known of the LM's replies in one evaluation: those that were cut off, or without their usage."""
    usage, where = result.usage, f"`{result.stage}` on {result.on}"
    of = f"of {grouped(usage.lm_calls) + (' reply' if usage.lm_calls == 1 else ' replies')}"
    if usage.cut_off:
        limit = "the provider's own limit" if usage.cut_off_at is None else f"{grouped(usage.cut_off_at)} tokens"
        lost = sum(call.outcome == "unparsed" and call.cut_off > 0 for e in result.examples for call in e.each)
        left = f", which left {grouped(lost)} unparsed" if lost else ""
        yield f"{where}: {grouped(usage.cut_off)} {of} cut off at {limit}{left}; max_tokens= of the LM sets it"
    if usage.fallback_calls:
        yield f"{where}: {fallback_words(usage)}"
    if usage.constrained_calls:
        kept = (
            "all replies" if usage.constrained_calls == usage.lm_calls else grouped(usage.constrained_calls) + " " + of
        )
        yield f"{where}: {kept} constrained to a format (response_format)"
    if usage.unmetered_calls:
        yield f"{where}: {grouped(usage.unmetered_calls)} {of} did not say how many tokens they took"


class JudgedGate(NamedTuple):
    """A gate, and in how many tests it came out like this."""

    verdict: VerdictRecord
    tests: int = 1

    @property
    def label(self) -> str:
        """The verdict, with the number of tests where there are several: ``PASS (3 tests)``."""
        return self.verdict.label if self.tests == 1 else f"{self.verdict.label} ({self.tests} tests)"


def judged_gates(verdicts: Iterable[VerdictRecord]) -> list[JudgedGate]:
    """The verdicts, those once that are the same: a gate of several tests, or of a test with parameters."""
    found: dict[tuple[object, ...], JudgedGate] = {}
    for verdict in verdicts:
        key = verdict.title, verdict.on, verdict.confidence, verdict.label, verdict.observed, verdict.stopped
        before = found.get(key)
        if before is None:
            found[key] = JudgedGate(verdict)
        else:
            marked = verdict if verdict.caution and not before.verdict.caution else before.verdict
            found[key] = JudgedGate(marked, before.tests + 1)
    return list(found.values())


def fallback_words(usage: Usage) -> str:
    """What the JSON fallback made of the number of calls."""
    first = max(usage.lm_calls - usage.fallback_calls, 1)
    times = usage.lm_calls / first
    made = "twice the calls" if round(times, 1) == 2 else f"{times:.2g} times the calls"
    return (
        f"the JSON fallback made {made}: {grouped(usage.fallback_calls)} of {grouped(first)} replies could not be read "
        "and were asked for again; ChatAdapter(use_json_adapter_fallback=False) leaves that out"
    )


def strategy(record: ExperimentRecord, build: BuildRecord) -> str:
    """Which steps of a combining optimizer led to the program it gave back, and what it was chosen by; or nothing."""
    if (found := build.strategy) is None:
        return ""
    lost = [candidate for candidate in found.candidates if candidate.strategy != found.won]
    others = [f"{_steps(c.strategy)} {'?' if c.score is None else percent(c.score)}" for c in lost]
    parts = [
        f"{_steps(found.won)} won"
        + ("" if found.score is None else f" with {percent(found.score)} on its validation set")
        + (f" ({', '.join(others)})" if others else "")
    ]
    held_out = [result for split in SPLITS if (result := record.result(build.stage, split)) and result.n]
    parts += [f"{percent(result.score)} on {result.on}" for result in held_out]
    parts.append("on weights trained here" if found.trained else "it runs on UNTRAINED weights")
    return "; ".join(parts)


def _steps(names: str) -> str:
    return names or "none of its steps"
