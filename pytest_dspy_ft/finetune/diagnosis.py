"""Why a collection of traces kept what it kept: counts, failed traces, and the remedies that have evidence."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pytest_dspy_ft.errors import DspyFtError
from pytest_dspy_ft.evaluation.score import prediction_json
from pytest_dspy_ft.experiment.example_id import describe, example_id
from pytest_dspy_ft.finetune.rows import Row
from pytest_dspy_ft.finetune.traces import Trace, is_kept
from pytest_dspy_ft.records.build import BootstrapRecord, FailedTrace, PredictorTraces, Remedy
from pytest_dspy_ft.text import excerpt, visible

MAX_EXAMPLES = 3
"""Failed traces of each outcome that a record holds; the stage's folder holds them all."""
MAX_TEXT = 300
MAX_FAILURES = 5
LABELS = "labels"
"""What stands for the teacher where the labels teach."""

_NEAR = 0.5
"""A rejected answer is near the label when it holds at least this share of the label's words."""

Fate = Literal["kept", "rejected", "unparsed", "raised"]


def fate(trace: Trace, accept: float | None) -> Fate:
    """What became of a trace in the end."""
    if trace.failure is not None:
        return "unparsed" if trace.unparsed else "raised"
    return "kept" if is_kept(trace, accept) else "rejected"


def diagnose(
    traces: Sequence[Trace],
    rows: Sequence[tuple[str, Row]],
    student: Any,
    *,
    teacher: str,
    accept: float | None,
    minimum: int,
) -> BootstrapRecord:
    """What a collection came to, and what would make it better.

    Args:
        traces: All of them, failures included.
        rows: The training rows of those that were kept, by predictor.
        student: The program that is to be trained.
        teacher: Name of the stage that answered, or ``labels``.
        accept: What a trace's score had to reach; None: anything above 0.
        minimum: How many must be kept.
    """
    fates = [fate(trace, accept) for trace in traces]
    failures = [t.failure for t in traces if t.failure is not None]
    names = [name for name, _ in student.named_predictors()]
    rows_of = Counter(name for name, _ in rows)
    record = BootstrapRecord(
        teacher=teacher,
        accept=accept,
        minimum=minimum,
        kept=fates.count("kept"),
        rejected=fates.count("rejected"),
        unparsed=fates.count("unparsed"),
        raised=fates.count("raised"),
        scores=tuple(t.score for t in traces if t.score is not None),
        rows={name: rows_of[name] for name in dict.fromkeys(name for name, _ in rows)},
        failures=tuple(excerpt_text(f) for f in dict.fromkeys(failures))[:MAX_FAILURES],
        predictors=tuple(
            PredictorTraces(
                predictor=name,
                calls=sum(step.predictor == name for t in traces for step in t.steps),
                rows=rows_of[name],
                unparsed=sum(t.failed_in == name and t.unparsed for t in traces),
                raised=sum(t.failed_in == name and not t.unparsed for t in traces),
            )
            for name in names
        ),
        examples=_examples(traces, fates),
    )
    if not record.low:
        return record
    return record.model_copy(update={"remedies": _remedies(traces, fates, record, student)})


def trace_json(trace: Trace, accept: float | None) -> dict[str, Any]:
    """A trace with all it holds, as JSON: what was paid for, to be read again."""
    content = _content(trace.example)
    steps = [
        {
            "predictor": s.predictor,
            "inputs": prediction_json(_Fields(s.inputs)),
            "outputs": prediction_json(_Fields(s.outputs)),
        }
        for s in trace.steps
    ]
    return {
        "id": _identity(trace.example),
        "outcome": fate(trace, accept),
        "score": trace.score,
        **content,
        "answer": None if trace.answer is None else prediction_json(_Fields(trace.answer)),
        "failure": trace.failure,
        "failed_in": trace.failed_in,
        "reply": trace.reply,
        "steps": steps,
    }


def excerpt_text(text: str) -> str:
    """A text on one line, shortened, without what drives a terminal."""
    line = visible(text.replace("\n", "\\n"))
    return line if len(line) <= MAX_TEXT else f"{line[: MAX_TEXT - 30]} ... {line[-25:]}"


# --- Evidence --------------------------------------------------------------------------------------------------------


class _Fields:
    """Fields as ``prediction_json`` takes them."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields

    def toDict(self) -> Mapping[str, Any]:  # noqa: N802 - dspy's name
        return self._fields


def _content(example: Any) -> dict[str, dict[str, Any]]:
    """Inputs and labels of an example as JSON; one that came past the dataset's checks may hold anything."""
    try:
        return dict(describe(example))
    except DspyFtError:
        return {"inputs": prediction_json(_Fields(example.toDict())), "expected": {}}


def _identity(example: Any) -> str:
    try:
        return example_id(example)
    except DspyFtError:
        return ""


def _examples(traces: Sequence[Trace], fates: Sequence[Fate]) -> tuple[FailedTrace, ...]:
    """A few of the traces that were not kept, of each outcome; of the rejected, those that came nearest first."""
    found = []
    for outcome in ("rejected", "unparsed", "raised"):
        of_it = [trace for trace, one in zip(traces, fates, strict=True) if one == outcome]
        if outcome == "rejected":
            of_it.sort(key=lambda t: (-(t.score or 0.0), -_overlap(t)))
        found += [_failed(trace, outcome) for trace in of_it[:MAX_EXAMPLES]]
    return tuple(found)


def _failed(trace: Trace, outcome: Literal["rejected", "unparsed", "raised"]) -> FailedTrace:
    content = _content(trace.example)
    if trace.answer is not None:
        reply = ", ".join(f"{k}: {_shown(v)}" for k, v in prediction_json(_Fields(trace.answer)).items())
    else:
        reply = trace.reply
    return FailedTrace(
        id=_identity(trace.example),
        outcome=outcome,
        score=trace.score,
        predictor=trace.failed_in,
        inputs={name: _shown(value) for name, value in content["inputs"].items()},
        expected={name: _shown(value) for name, value in content["expected"].items()},
        reply=excerpt_text(reply),
        error=excerpt_text(trace.failure or ""),
    )


def _shown(value: Any) -> str:
    return excerpt_text(value) if isinstance(value, str) else excerpt(value, MAX_TEXT)


def _labels(trace: Trace) -> dict[str, Any]:
    """The labels that the answer has a field for."""
    expected = _content(trace.example)["expected"]
    return {name: value for name, value in expected.items() if trace.answer is not None and name in trace.answer}


def _overlap(trace: Trace) -> float:
    """The share of the label's words that the answer holds, over all labelled fields; 0 where there is no label."""
    wanted: Counter[str] = Counter()
    given: Counter[str] = Counter()
    answer = prediction_json(_Fields(trace.answer or {}))
    for name, value in _labels(trace).items():
        wanted += _words(name, value)
        given += _words(name, answer[name])
    return (wanted & given).total() / wanted.total() if wanted else 0.0


def _words(field: str, value: Any) -> Counter[str]:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return Counter(f"{field}/{word}" for word in re.findall(r"\w+", text.casefold()))


def _partly_right(trace: Trace) -> bool:
    """Whether the answer has some labelled fields right and others wrong."""
    answer = prediction_json(_Fields(trace.answer or {}))
    right = [_words(name, value) == _words(name, answer[name]) for name, value in _labels(trace).items()]
    return any(right) and not all(right)


# --- Remedies --------------------------------------------------------------------------------------------------------


def _remedies(
    traces: Sequence[Trace], fates: Sequence[Fate], record: BootstrapRecord, student: Any
) -> tuple[Remedy, ...]:
    """What would help, each with its evidence: first what speaks for most of the traces that were not kept."""
    rejected = [trace for trace, one in zip(traces, fates, strict=True) if one == "rejected"]
    found = [*_for_failures(traces, record), *_for_rejected(rejected, record), *_for_structure(rejected, record)]
    found.sort(key=lambda remedy: -remedy.traces)
    if record.teacher != LABELS:
        found += _labels_teach(traces, fates, student)
    data = _more_data(record)
    few = record.attempted < 2 * record.minimum
    return tuple([*data, *found] if few else [*found, *data])


def _for_failures(traces: Sequence[Trace], record: BootstrapRecord) -> list[Remedy]:
    """Remedies for replies that could not be read and for calls that raised."""
    found = []
    if record.unparsed:
        found.append(
            Remedy(
                name="readable_replies",
                advice="a teacher that keeps the format of the reply: teacher= a stage with demos in its prompt, "
                "or one on a larger LM",
                evidence=f"{record.unparsed} of {record.attempted} replies could not be read"
                f"{_where(record, 'unparsed')}; no metric or threshold can keep these",
                traces=record.unparsed,
            )
        )
    if record.raised:
        raised = Counter(t.failure for t in traces if t.failure is not None and not t.unparsed)
        commonest, times = raised.most_common(1)[0]
        found.append(
            Remedy(
                name="mend_failures",
                advice="mend what raised: these are failures of the program, the LM or the metric, not bad answers",
                evidence=f"{record.raised} of {record.attempted} traces raised{_where(record, 'raised')}; "
                f"{times} of them: {excerpt_text(commonest or '')}",
                traces=record.raised,
            )
        )
    return found


def _where(record: BootstrapRecord, outcome: Literal["unparsed", "raised"]) -> str:
    """In which predictors it happened, where there is a choice."""
    if len(record.predictors) < 2:
        return ""
    parts = [f"{getattr(p, outcome)} in {p.predictor}" for p in record.predictors if getattr(p, outcome)]
    return f" ({', '.join(parts)})" if parts else ""


def _for_rejected(rejected: Sequence[Trace], record: BootstrapRecord) -> list[Remedy]:
    """Remedies for answers below the bar: another bar for those that came near it, another teacher for the rest."""
    if not rejected:
        return []
    n = len(rejected)
    if record.teacher == LABELS:
        return [
            Remedy(
                name="labels",
                advice="make labels and metric agree: the labels are the teacher, and the metric turns them down",
                evidence=f"{n} of {record.attempted} labels score below the bar",
                traces=n,
            )
        ]
    scored = sum((trace.score or 0.0) > 0.0 for trace in rejected)
    near = sum((trace.score or 0.0) > 0.0 or _overlap(trace) >= _NEAR for trace in rejected)
    found = []
    if near:
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
        found.append(
            Remedy(name="relaxed_metric", advice=", or ".join(advice), evidence="; ".join(evidence), traces=near)
        )
    if far := n - near:
        found.append(
            Remedy(
                name="stronger_teacher",
                advice="a stronger teacher (teacher=): a stage on a larger LM, or a prompt-optimized one",
                evidence=f"{far} of the {n} rejected score 0 and hold less than half of the label's words",
                traces=far,
            )
        )
    return found


def _for_structure(rejected: Sequence[Trace], record: BootstrapRecord) -> list[Remedy]:
    """Whether the task falls into parts of which some work and others do not."""
    advice = "smaller sub-tasks: a predictor of its own for the part that fails, with labels and a metric of its own"
    if partly := sum(map(_partly_right, rejected)):
        return [
            Remedy(
                name="smaller_subtasks",
                advice=advice,
                evidence=f"{partly} of the {len(rejected)} rejected have some labelled fields right and others wrong",
                traces=partly,
            )
        ]
    failures = {p.predictor: p.unparsed + p.raised for p in record.predictors}
    worst = max(failures, key=lambda name: failures[name], default="")
    if len(failures) > 1 and failures[worst] > sum(failures.values()) / 2:
        return [
            Remedy(
                name="smaller_subtasks",
                advice=advice,
                evidence=f"{failures[worst]} of the {sum(failures.values())} failed calls are {worst}'s",
                # Below the remedy for the failures themselves, which are the same traces.
                traces=min(failures[worst], record.unparsed + record.raised) - 1,
            )
        ]
    return []


def _labels_teach(traces: Sequence[Trace], fates: Sequence[Fate], student: Any) -> list[Remedy]:
    """Whether the train examples hold all that labels need to teach every predictor."""
    wanted = {
        field
        for _, predictor in student.named_predictors()
        for field in (*predictor.signature.input_fields, *predictor.signature.output_fields)
    }
    able = [all(field in trace.example for field in wanted) for trace in traces]
    lost = sum(one != "kept" and able_one for one, able_one in zip(fates, able, strict=True))
    if not all(able) or not lost:
        return []
    return [
        Remedy(
            name="labels",
            advice="LabeledFinetune in place of BootstrapFinetune: train on the labels themselves",
            evidence="every train example holds every output of every predictor",
            traces=lost,
        )
    ]


def _more_data(record: BootstrapRecord) -> list[Remedy]:
    """How many examples it would take at this rate; nothing to say where there are kept traces enough."""
    if record.kept >= record.minimum:
        return []
    few = (
        f"there are only {record.attempted}"
        if record.attempted < 2 * record.minimum
        else f"there are {record.attempted}"
    )
    if record.kept:
        needed = math.ceil(record.minimum * record.attempted / record.kept)
        few += f"; at this rate ({record.rate:.0%}) {record.minimum} kept traces take about {needed}"
    elif record.attempted >= 2 * record.minimum:
        return []
    return [Remedy(name="more_data", advice="more train examples", evidence=few)]
