"""What changed, in words: trajectories over the ladder, and how a session stands against a baseline.

Records in, lines of text out: verdicts are read from the records, nothing is printed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from pytest_dspy_ft.records.base import SPLITS, Split
from pytest_dspy_ft.records.comparison import ComparisonRecord, StageComparison
from pytest_dspy_ft.records.evaluation import StageResult
from pytest_dspy_ft.records.pairing import by_copy
from pytest_dspy_ft.records.run import ExperimentRecord
from pytest_dspy_ft.records.trajectories import kind_counts, ladder_results, trajectories
from pytest_dspy_ft.report.examples import show_answer, show_fields
from pytest_dspy_ft.report.styling import Line, Page, Span
from pytest_dspy_ft.report.tables import Column, fitted
from pytest_dspy_ft.text import bracket, one_line, percent, points

MAX_IDS = 8
"""How many ids of new, removed or changed examples a summary lists; records hold them all."""
MAX_EXAMPLES = 5
"""How many broken examples a failure message shows in full."""


def render_trajectories(record: ExperimentRecord, *, width: int = 80, unicode: bool = True) -> list[str]:
    """How many examples went which way up the ladder, for each split on which two stages or more were measured."""
    page = Page(width, unicode)
    lines: list[str] = []
    for on in SPLITS:
        results = ladder_results(record, on)
        if len(results) > 1:
            counts = kind_counts(trajectories(results))
            ways = ", ".join(f"{count} {kind}" for kind, count in counts.items())
            lines += _wrapped(f"examples of {on}, lowest to highest stage: {ways}", page)
    return lines


def render_comparison(record: ExperimentRecord, *, width: int = 80, unicode: bool = True) -> list[Line]:
    """How an experiment stands against its baseline; no lines where it was not compared with one."""
    comparison = record.comparison
    if comparison is None:
        return []
    page = Page(width, unicode)
    lines = _wrapped(headline(comparison), page)
    if comparison.refused:
        lines += _wrapped(f"REFUSED: {comparison.refused}", page)
    if comparison.compared:
        lines += [page.plain(line) for line in _table(comparison, width)]
    others = [s for s in comparison.stages if s.status != "compared"]
    for note in [*map(_not_compared, others), *_notes(comparison)]:
        lines += _wrapped(note, page)
    return [_marked(line) for line in lines]


def _marked(text: str) -> Line:
    """The line, with what regressed or was refused marked as bad."""
    bad = re.finditer(r"\b(?:\d+ )?(?:REGRESSED|REFUSED|TOO FEW EXAMPLES)\b", text)
    spans = [Span(m.start(), m.end(), "bad") for m in bad]
    return Line(text, spans)


def explain_comparison(record: ExperimentRecord, earlier: Mapping[tuple[str, Split], StageResult] | None = None) -> str:
    """The message of a comparison that failed: what regressed, by how much, and the worst examples of it.

    Args:
        record: The experiment, with its comparison and its examples' contents.
        earlier: The earlier session's results, as far as they are still known: a baseline holds no predictions.
    """
    comparison = record.comparison
    if comparison is None:
        return ""
    lines = [headline(comparison)]
    if comparison.refused:
        lines.append(f"  {comparison.refused}")
    for stage in comparison.regressed:
        lines += _regression(record, comparison, stage, (earlier or {}).get((stage.stage, stage.on)))
    lines += [f"  {_not_compared(stage)}" for stage in comparison.too_few]
    lines += [f"  {note}" for note in _notes(comparison)]
    return "\n".join(lines)


def headline(comparison: ComparisonRecord) -> str:
    """The result of a comparison in one line."""
    unharmed = [s for s in comparison.stages if s.change == "no_loss_seen"]
    counts = {
        "REGRESSED": len(comparison.regressed),
        "with TOO FEW EXAMPLES": len(comparison.too_few),
        "improved": sum(s.change == "improved" for s in comparison.stages),
        f"no loss seen{_visible(unharmed)}": len(unharmed),
        "too small for any loss to be seen": sum(s.change == "blind" for s in comparison.stages),
        "absent": sum(s.status == "absent" for s in comparison.stages),
        "new": sum(s.status == "new" for s in comparison.stages),
    }
    found = ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "nothing to compare"
    saved = f" (saved {comparison.created})" if comparison.created else ""
    return f"compared with {comparison.file}{saved}: {found}"


def verdict_words(stage: StageComparison) -> str:
    """What a comparison found of a stage, and where that is no loss, what it could have seen."""
    if stage.change == "regressed":
        return "REGRESSED"
    if stage.change == "no_loss_seen":
        return f"no loss seen{_visible([stage])}"
    if stage.change == "blind":
        return f"no loss could have been seen in {stage.n} examples"
    return stage.change or ""


def _visible(stages: Sequence[StageComparison]) -> str:
    """The smallest losses that would have been seen, in brackets; empty where a record of before does not say."""
    losses = [points(stage.smallest_loss) for stage in stages if stage.smallest_loss is not None]
    if not losses:
        return ""
    low, high = f"{min(losses):.1f}", f"{max(losses):.1f}"
    return f" ({low if low == high else f'{low} to {high}'} points or more would have been)"


def _not_compared(stage: StageComparison) -> str:
    status = "TOO FEW EXAMPLES" if stage.status == "too_few" else stage.status
    return f"{stage.stage} on {stage.on}: {status}: {stage.reason}"


def _table(comparison: ComparisonRecord, width: int) -> list[str]:
    """The compared stages as a table that gives up columns where it is too wide."""
    compared = comparison.compared
    columns = [
        Column("stage", [one_line(s.stage) for s in compared], "left"),
        Column("on", [s.on for s in compared], "left"),
        Column("n", [str(s.n) for s in compared], levels=range(1)),
        Column("then", [percent(s.before) for s in compared]),
        Column("now", [percent(s.after) for s in compared]),
        Column(f"change [{comparison.confidence * 100:g}% CI]", [_change(s) for s in compared], levels=range(2)),
        Column("fixed", [str(len(s.fixed)) for s in compared], levels=range(3)),
        Column("broke", [str(len(s.broke)) for s in compared]),
        Column("", list(map(verdict_words, compared)), "left"),
    ]
    lines, _ = fitted(columns, width, narrowest=3)
    return lines


def _change(stage: StageComparison) -> str:
    change = f"{points(stage.after - stage.before):+.1f}"
    return change if stage.interval is None else f"{change} {bracket(stage.interval, '+')}"


def _notes(comparison: ComparisonRecord) -> Iterator[str]:
    """Notes on everything that is not as it was then: the set-up, the errors, and the examples."""
    yield from comparison.notes
    if comparison.comparisons > 1 and comparison.compared:
        yield (
            f"{comparison.comparisons} comparisons in this session, corrected for that by Holm's method: where nothing "
            f"changed, any of them finds a change in at most {100 * (1 - comparison.confidence):.3g} % of sessions"
        )
    for stage in comparison.compared:
        if stage.errors_before or stage.errors_after:
            yield (
                f"{stage.stage} on {stage.on}: {stage.errors_before} of {stage.n} could not be measured then and "
                f"{stage.errors_after} now: they count against the claim that nothing was lost, as right then and as "
                "wrong now"
            )
        if stage.same_build and stage.broke:
            yield f"{stage.stage} on {stage.on}: the stage is the same as then; its LM answers otherwise"
    for split in comparison.examples:
        kinds: dict[str, Sequence[str]] = {
            "new": split.new,
            "removed": split.removed,
            "changed": [f"{then} -> {now}" for then, now in split.changed],
        }
        if any(kinds.values()):
            counts = ", ".join(f"{len(ids)} {kind}" for kind, ids in kinds.items() if ids)
            yield f"examples of {split.on}: {split.kept} as they were, {counts}; only those as they were are compared"
            yield from (f"{kind}: {_first_ids(ids)}" for kind, ids in kinds.items() if ids)


def _first_ids(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - MAX_IDS} more" if len(ids) > MAX_IDS else ""
    return ", ".join(ids[:MAX_IDS]) + more


def _regression(
    record: ExperimentRecord, comparison: ComparisonRecord, stage: StageComparison, earlier: StageResult | None
) -> Iterator[str]:
    change = f"{points(stage.after - stage.before):+.1f} pts"
    if stage.interval is not None:
        low, high = map(points, stage.interval)
        change += f", {comparison.confidence * 100:g}% interval {low:+.1f} to {high:+.1f}"
    yield (
        f"  {stage.stage} on {stage.on}: {percent(stage.before)} then, {percent(stage.after)} now, of {stage.n} "
        f"examples ({change}); {len(stage.fixed)} fixed, {len(stage.broke)} broke"
    )
    result = record.seen(stage.stage, stage.on)
    today, before = (by_copy(found.examples) if found else {} for found in (result, earlier))
    for identity in stage.broke[:MAX_EXAMPLES]:
        content = record.examples.get(identity)
        yield f"  broke {identity}{f': {show_fields(content.inputs)}' if content else ''}"
        if content and content.expected:
            yield f"    expected {show_fields(content.expected)}"
        for when, results in (("then", before), ("now", today)):
            if (answer := results.get((identity, 0))) is not None:
                yield f"    {when} {show_answer(answer)}"
    if len(stage.broke) > MAX_EXAMPLES:
        yield f"  and {len(stage.broke) - MAX_EXAMPLES} more broke"


def _wrapped(text: str, page: Page) -> list[str]:
    return page.wrapped(page.clean(text), subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)
