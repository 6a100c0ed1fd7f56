"""The diagnosis of a collection of traces in words: for messages, the terminal, the stage's folder and Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pytest_dspy_ft.records.build import BootstrapRecord, FailedTrace
from pytest_dspy_ft.text import grouped

_FEW_SCORES = 6
_OUTCOMES = {"rejected": "rejected", "unparsed": "unreadable", "raised": "raised"}


def counts(record: BootstrapRecord) -> str:
    """The outcomes of the traces, counted in one line."""
    return (
        f"{record.kept} kept ({record.rate:.0%}), {record.rejected} answered below the bar ({bar(record.accept)}), "
        f"{record.unparsed} could not be read, {record.raised} raised"
    )


def kept_of_attempted(record: BootstrapRecord) -> str:
    """How many traces were kept, and what became of the others: ``9 of 12 traces kept (75%), 3 rejected``."""
    share = f" ({record.rate:.0%})" if record.attempted else ""
    others = {"rejected": record.rejected, "unparsed": record.unparsed, "raised": record.raised}
    kept = f"{grouped(record.kept)} of {grouped(record.attempted)} traces kept{share}"
    return ", ".join([kept, *(f"{grouped(n)} {what}" for what, n in others.items() if n)])


def diagnosis_lines(record: BootstrapRecord, *, examples: int = 1) -> list[str]:
    """The diagnosis, line by line: where it failed, scores, examples, remedies. What became of how many, it leaves out.

    Args:
        record: The collection.
        examples: How many failed traces of each outcome to show.
    """
    lines = [*_predictor_lines(record), *_score_lines(record)]
    shown = [
        one
        for outcome in _OUTCOMES
        for one in [example for example in record.examples if example.outcome == outcome][:examples]
    ]
    lines += [f"for example, {_example(one)}" for one in shown]
    if record.remedies:
        lines.append("what helps:")
        lines += [
            f"  {n}. {r.advice}. {r.evidence[:1].upper()}{r.evidence[1:]}" for n, r in enumerate(record.remedies, 1)
        ]
    return lines


def refusal(record: BootstrapRecord, stage: str) -> str:
    """Why a stage is not trained, and what would help: the message of its failure."""
    first = (
        f"stage {stage!r}: {record.kept} of {record.attempted} traces by {record.teacher!r} are good enough to train "
        f"on; at least {record.minimum} are needed (min_traces=), so nothing was trained"
    )
    return "\n  ".join([first, counts(record), *diagnosis_lines(record)])


def report(records: Sequence[BootstrapRecord], stage: str) -> str:
    """The diagnoses of all collections of a stage, as the text in its folder."""
    blocks = []
    for number, record in enumerate(records, 1):
        of = f", collection {number} of {len(records)}" if len(records) > 1 else ""
        first = f"stage {stage!r}{of}: {record.kept} of {record.attempted} traces by {record.teacher!r} were kept"
        blocks.append("\n  ".join([first, counts(record), *diagnosis_lines(record, examples=len(record.examples))]))
    return "\n\n".join(blocks) + "\n"


def bar(accept: float | None) -> str:
    """The score that a trace had to reach, in words."""
    return "a score above 0" if accept is None else f"a score of at least {accept:g}"


def _predictor_lines(record: BootstrapRecord) -> list[str]:
    if len(record.predictors) < 2:
        return []
    lines = []
    for part in record.predictors:
        failed = [f"{n} {what}" for n, what in ((part.unparsed, "unreadable"), (part.raised, "raised")) if n]
        lines.append(
            f"predictor {part.predictor}: {', '.join([f'{part.calls} calls answered', *failed])}, {part.rows} rows"
        )
    return lines


def _score_lines(record: BootstrapRecord) -> list[str]:
    """The scores that occur, and what other thresholds would have kept."""
    found = Counter(record.scores)
    if not found:
        return []
    if len(found) <= _FEW_SCORES:
        shown = ", ".join(f"{score:g} x {n}" for score, n in sorted(found.items()))
    else:
        shown = ", ".join(f"{i / 10:g} to {(i + 1) / 10:g} x {n}" for i, n in enumerate(record.histogram) if n)
    lines = [f"scores: {shown}"]
    if any(0.0 < score < 1.0 for score in found):
        kept = ", ".join(f"{value:g} would keep {n}" for value, n in record.thresholds)
        lines.append(f"accept={kept}")
    return lines


def _example(example: FailedTrace) -> str:
    where = f" in {example.predictor}" if example.predictor else ""
    score = "" if example.score is None else f" (score {example.score:g})"
    parts = [
        ", ".join(f"{name}: {text}" for name, text in example.inputs.items()),
        f"expected {', '.join(f'{name}: {text}' for name, text in example.expected.items()) or 'nothing'}",
        f"answered {example.reply}" if example.reply else "",
        example.error if example.outcome == "raised" else "",
    ]
    return f"{_OUTCOMES[example.outcome]}{where}{score}: {' | '.join(filter(None, parts))}"
