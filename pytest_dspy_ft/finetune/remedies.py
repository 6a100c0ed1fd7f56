"""What would help a collection that keeps too few traces: the remedies that have evidence in its own numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pytest_dspy_ft.finetune.trace_content import is_partly_right, label_overlap, text_excerpt
from pytest_dspy_ft.finetune.traces import Trace, TraceOutcome
from pytest_dspy_ft.records.build import BootstrapRecord, Remedy

LABELS = "labels"
"""What stands for the teacher where the labels teach."""
NEAR_THE_LABEL = 0.5
"""A rejected answer is near the label when it holds at least this share of the label's words."""


def remedies_for(
    record: BootstrapRecord, traces: Sequence[Trace], outcomes: Sequence[TraceOutcome], student: Any
) -> tuple[Remedy, ...]:
    """Remedies for a collection, each with its evidence: first what speaks for most of the traces not kept.

    Args:
        record: The collection.
        traces: All of them, failures included.
        outcomes: What became of each.
        student: The program that is to be trained.
    """
    rejected = [trace for trace, outcome in zip(traces, outcomes, strict=True) if outcome == "rejected"]
    found = [*_for_failures(traces, record), *_for_rejected(rejected, record), *_for_structure(rejected, record)]
    found.sort(key=lambda remedy: -remedy.traces)
    if record.teacher != LABELS:
        found += _for_labels(traces, outcomes, student)
    few = record.attempted < 2 * record.minimum
    data = _more_data(record, few)
    return (*data, *found) if few else (*found, *data)


def _for_failures(traces: Sequence[Trace], record: BootstrapRecord) -> Iterator[Remedy]:
    """Remedies for replies that could not be read and for calls that raised."""
    if record.unparsed:
        yield Remedy(
            name="readable_replies",
            advice="a teacher that keeps the format of the reply: teacher= a stage with demos in its prompt, "
            "or one on a larger LM",
            evidence=f"{record.unparsed} of {record.attempted} replies could not be read"
            f"{_where(record, 'unparsed')}; no metric or threshold can keep these",
            traces=record.unparsed,
        )
    if record.raised:
        raised = Counter(t.failure for t in traces if t.failure is not None and not t.unparsed)
        commonest, times = raised.most_common(1)[0]
        yield Remedy(
            name="mend_failures",
            advice="mend what raised: these are failures of the program, the LM or the metric, not bad answers",
            evidence=f"{record.raised} of {record.attempted} traces raised{_where(record, 'raised')}; "
            f"{times} of them: {text_excerpt(commonest or '')}",
            traces=record.raised,
        )


def _where(record: BootstrapRecord, outcome: Literal["unparsed", "raised"]) -> str:
    """The predictors in which it happened, where there are several."""
    if len(record.predictors) < 2:
        return ""
    parts = [f"{getattr(p, outcome)} in {p.predictor}" for p in record.predictors if getattr(p, outcome)]
    return f" ({', '.join(parts)})" if parts else ""


def _for_rejected(rejected: Sequence[Trace], record: BootstrapRecord) -> Iterator[Remedy]:
    """Remedies for answers below the bar: another bar for those that came near it, another teacher for the rest."""
    n = len(rejected)
    if n and record.teacher == LABELS:
        yield Remedy(
            name="labels",
            advice="make labels and metric agree: the labels are the teacher, and the metric turns them down",
            evidence=f"{n} of {record.attempted} labels score below the bar",
            traces=n,
        )
        return
    scored = sum((trace.score or 0.0) > 0.0 for trace in rejected)
    near = sum((trace.score or 0.0) > 0.0 or label_overlap(trace) >= NEAR_THE_LABEL for trace in rejected)
    advice, evidence = [], []
    if scored:
        lower = [value for value, _ in record.thresholds if record.accept is not None and value < record.accept]
        advice.append("a lower accept=")
        keeps = ", ".join(f"accept={v:g} would keep {record.kept_at(v)}" for v in reversed(lower[-3:]))
        evidence.append(f"{scored} of the {n} rejected score above 0: {keeps}")
    if near > scored:
        advice.append("a more lenient metric= in the optimizer (evaluations keep the experiment's)")
        evidence.append(
            f"{near - scored} of the {n} rejected score 0 although they hold at least half of the label's words"
        )
    if near:
        yield Remedy(name="relaxed_metric", advice=", or ".join(advice), evidence="; ".join(evidence), traces=near)
    if far := n - near:
        yield Remedy(
            name="stronger_teacher",
            advice="a stronger teacher (teacher=): a stage on a larger LM, or a prompt-optimized one",
            evidence=f"{far} of the {n} rejected score 0 and hold less than half of the label's words",
            traces=far,
        )


def _for_structure(rejected: Sequence[Trace], record: BootstrapRecord) -> Iterator[Remedy]:
    """Sub-tasks, where some parts of the task work and others do not."""
    failures = {p.predictor: p.unparsed + p.raised for p in record.predictors}
    worst = max(failures, key=lambda name: failures[name], default="")
    if traces := sum(map(is_partly_right, rejected)):
        evidence = f"{traces} of the {len(rejected)} rejected have some labelled fields right and others wrong"
    elif len(failures) > 1 and failures[worst] > sum(failures.values()) / 2:
        evidence = f"{failures[worst]} of the {sum(failures.values())} failed calls are {worst}'s"
        # Below the remedy for the failures themselves, which are the same traces.
        traces = min(failures[worst], record.unparsed + record.raised) - 1
    else:
        return
    advice = "smaller sub-tasks: a predictor of its own for the part that fails, with labels and a metric of its own"
    yield Remedy(name="smaller_subtasks", advice=advice, evidence=evidence, traces=traces)


def _for_labels(traces: Sequence[Trace], outcomes: Sequence[TraceOutcome], student: Any) -> Iterator[Remedy]:
    """Labels as the teacher, where the train examples hold all that every predictor is to learn."""
    signatures = [predictor.signature for _, predictor in student.named_predictors()]
    needed = {field for signature in signatures for field in (*signature.input_fields, *signature.output_fields)}
    not_kept = sum(outcome != "kept" for outcome in outcomes)
    if not_kept and all(field in trace.example for trace in traces for field in needed):
        yield Remedy(
            name="labels",
            advice="LabeledFinetune in place of BootstrapFinetune: train on the labels themselves",
            evidence="every train example holds every output of every predictor",
            traces=not_kept,
        )


def _more_data(record: BootstrapRecord, few: bool) -> Iterator[Remedy]:
    """More examples, as many as it would take at this rate; none where enough traces were kept."""
    if record.kept >= record.minimum or not (record.kept or few):
        return
    evidence = f"there are {'only ' if few else ''}{record.attempted}"
    if record.kept:
        needed = math.ceil(record.minimum * record.attempted / record.kept)
        evidence += f"; at this rate ({record.rate:.0%}) {record.minimum} kept traces take about {needed}"
    yield Remedy(name="more_data", advice="more train examples", evidence=evidence)
