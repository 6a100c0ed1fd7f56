"""Two sessions' results of one experiment, held against each other example by example.

Pairs are formed by example id. Only examples that both sessions hold, with the same inputs and the same labels, are
compared; new, removed and changed ones are listed. Copies of one example are one. The claim is "no loss", and what
could not be measured counts against it: as right then, as wrong now. What a further metric says of a stage is compared
like a stage of its own, ``f1(finetuned)``. `pytest_dspy_ft.gates.losses` judges each stage.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pytest_dspy_ft.gates.holm import Holm
from pytest_dspy_ft.gates.losses import PairedScores
from pytest_dspy_ft.records.base import SPLITS, Split
from pytest_dspy_ft.records.baseline import SavedExample, SavedExperiment
from pytest_dspy_ft.records.comparison import ComparisonRecord, ExampleChanges, StageComparison
from pytest_dspy_ft.records.pairing import by_copy

CONFIDENCE = 0.95

_Pairs = Sequence[tuple[SavedExample, SavedExample]]


class OtherComparisons(NamedTuple):
    """The comparisons that a session makes beside one experiment's: all of them together may err as often as one."""

    judged: Sequence[PairedScores] = ()
    """Those whose results are known."""
    waiting: int = 0
    """How many are not known yet; they count as undecided."""


def compare(
    then: SavedExperiment,
    now: SavedExperiment,
    *,
    file: str,
    created: str = "",
    confidence: float = CONFIDENCE,
    reasons: Mapping[str, str] | None = None,
    limit: int | None = None,
    others: OtherComparisons = OtherComparisons(),  # noqa: B008 - it is immutable
) -> ComparisonRecord:
    """Hold an experiment's results against earlier ones.

    Args:
        then: The earlier results.
        now: The results of today (``records.baseline.saved_experiment`` makes them from a record).
        file: What the earlier results are called in reports: the baseline file, as the user named it.
        created: When they were saved.
        confidence: Of all the session's comparisons together, in (0, 1).
        reasons: By stage, why today's session did not measure it, where that is known.
        limit: The ``--dspy-limit`` of today's session.
        others: The session's other comparisons.
    """
    refused = ""
    if then.metric != now.metric:
        refused = (
            f"the metric is not the one that {file} was measured with (fingerprint {then.metric}, now {now.metric}): "
            "scores of two metrics cannot be compared; save the baseline anew with --dspy-save-baseline"
        )
    pairs = {on: _pair_examples(then, now, on) for on in SPLITS}
    own = {} if refused else _paired_scores(then, now, {on: kept for on, (kept, _) in pairs.items()})
    family: list[PairedScores | int] = [*own.values(), *others.judged, *range(others.waiting)]
    holm = Holm(family, lambda one, divisor: isinstance(one, PairedScores) and one.is_decided(confidence, divisor))
    stages = [
        _compare_stage(_Place(then, now, stage, on), pairs[on][0], own, holm, confidence, reasons or {})
        for on in SPLITS
        for stage in _stages_on(then, now, on)
    ]
    both = [on for on in SPLITS if then.examples.get(on) and now.examples.get(on)]
    return ComparisonRecord(
        file=file,
        created=created,
        confidence=confidence,
        comparisons=max(len(family), 1),
        refused=refused,
        notes=(*_notes(then, now, limit), *_moved_examples(changes for _, changes in pairs.values())),
        stages=tuple(stages),
        examples=tuple(pairs[on][1] for on in both),
    )


def comparable(then: SavedExperiment, now: SavedExperiment) -> list[PairedScores]:
    """What a comparison of two sessions' results judges: each stage on each split that both hold enough of."""
    if then.metric != now.metric:
        return []
    return list(_paired_scores(then, now, {on: _pair_examples(then, now, on)[0] for on in SPLITS}).values())


class _Place(NamedTuple):
    """One stage on one split, then and now."""

    then: SavedExperiment
    now: SavedExperiment
    stage: str
    on: Split

    def needed(self) -> tuple[int, int]:
        """How many different examples must be left, and how many there were."""
        rows = self.then.examples.get(self.on, ())
        count = len({row.id for row in rows if self.stage in row.scores})
        return (count + 1) // 2, count


def _paired_scores(
    then: SavedExperiment, now: SavedExperiment, kept: Mapping[Split, _Pairs]
) -> dict[tuple[str, Split], PairedScores]:
    """The scores of each stage on each split that both hold, where at least half of the earlier examples are left."""
    found = {}
    for on in SPLITS:
        for stage in _stages_on(then, now, on):
            by_id = _scores_by_id(kept[on], stage, error_then=1.0)
            if by_id and _same_metric(then, now, stage, on) and len(by_id) >= _Place(then, now, stage, on).needed()[0]:
                found[stage, on] = PairedScores.of_examples(f"{now.name}/{stage}/{on}", by_id)
    return found


def _same_metric(then: SavedExperiment, now: SavedExperiment, stage: str, on: Split) -> bool:
    """False for what a further metric says of a stage where that metric is another one now."""
    before, after = then.evaluation(stage, on), now.evaluation(stage, on)
    return before is None or after is None or before.metric_key == after.metric_key


def _scores_by_id(kept: _Pairs, stage: str, *, error_then: float) -> dict[str, list[tuple[float, float]]]:
    """A stage's scores (then, now) by example, each copy's."""
    found: dict[str, list[tuple[float, float]]] = {}
    for old, new in kept:
        if stage in old.scores and stage in new.scores:
            before = error_then if old.scores[stage] == "error" else old.score(stage)
            found.setdefault(new.id, []).append((before, new.score(stage)))
    return found


def _stages_on(then: SavedExperiment, now: SavedExperiment, on: Split) -> list[str]:
    """The stages that either session measured on a split, in the order of today's ladder, then of the earlier one."""
    measured = [e.stage for saved in (now, then) for e in saved.evaluations if e.on == on]
    order = [stage.name for saved in (now, then) for stage in saved.stages]
    return sorted(dict.fromkeys(measured), key=[*order, *measured].index)


def _notes(then: SavedExperiment, now: SavedExperiment, limit: int | None) -> Iterable[str]:
    if then.lm != now.lm:
        yield f"the LM was {then.lm}, now it is {now.lm}: differences are those of the LMs too"
    if limit is not None:
        yield f"this session looked at no more than {limit} examples of each split: the others count as removed"
    if then.seed != now.seed:
        yield f"the seed was {then.seed}, now it is {now.seed}"
    sizes = [(on, then.sizes.get(on, 0), now.sizes.get(on, 0)) for on in SPLITS]
    changed = [f"{on} {before} -> {after}" for on, before, after in sizes if before != after]
    if changed:
        yield f"the splits have other sizes: {', '.join(changed)}"
    for stage in now.stages:
        before = then.stage(stage.name)
        if before is not None and before.lm != stage.lm and (before.lm, stage.lm) != (then.lm, now.lm):
            yield f"{stage.name} ran on {before.lm}, now on {stage.lm}"


def _moved_examples(changes: Iterable[ExampleChanges]) -> Iterable[str]:
    """Examples that left one split and came into another: a file that grew or was shuffled moves them."""
    for target, source in itertools.permutations(changes, 2):
        if moved := len(set(target.new) & set(source.removed)):
            yield f"{moved} of the new examples in {target.on} stood in {source.on} then: were rows added or shuffled?"


def _pair_examples(
    then: SavedExperiment, now: SavedExperiment, on: Split
) -> tuple[list[tuple[SavedExample, SavedExample]], ExampleChanges]:
    """The examples of a split that are in both sessions, and how the others differ."""
    old, new = (by_copy(saved.examples.get(on, ())) for saved in (then, now))
    kept = [(old[key], row) for key, row in new.items() if key in old]
    gone = [row for key, row in old.items() if key not in new]
    by_inputs: dict[str, list[SavedExample]] = {}
    for row in reversed(gone):
        if row.inputs:
            by_inputs.setdefault(row.inputs, []).append(row)
    relabelled: list[tuple[str, str]] = []
    added: list[str] = []
    for row in (row for key, row in new.items() if key not in old):
        if by_inputs.get(row.inputs):
            relabelled.append((by_inputs[row.inputs].pop().id, row.id))
        else:
            added.append(row.id)
    removed = Counter(row.id for row in gone) - Counter(before for before, _ in relabelled)
    return kept, ExampleChanges(
        on=on, kept=len(kept), new=tuple(added), removed=tuple(removed.elements()), changed=tuple(relabelled)
    )


def _compare_stage(
    place: _Place,
    kept: _Pairs,
    known: Mapping[tuple[str, Split], PairedScores],
    holm: Holm[PairedScores | int],
    confidence: float,
    reasons: Mapping[str, str],
) -> StageComparison:
    then, now, stage, on = place
    before, after = then.evaluation(stage, on), now.evaluation(stage, on)
    if after is None:
        reason = reasons.get(stage) or "not measured in this session"
        return StageComparison(stage=stage, on=on, status="absent", reason=reason)
    if before is None:
        return StageComparison(stage=stage, on=on, status="new", reason="not in the baseline")
    if then.metric != now.metric or not _same_metric(then, now, stage, on):
        return StageComparison(stage=stage, on=on, status="absent", reason="measured with another metric")
    scores = known.get((stage, on))
    if scores is None:
        least, count = place.needed()
        left = len({new.id for old, new in kept if stage in old.scores and stage in new.scores})
        reason = (
            f"{left} of the baseline's {count} examples are left; at least half ({least}) are needed to compare: "
            "measure them again, or save the baseline anew"
        )
        return StageComparison(stage=stage, on=on, status="too_few", reason=reason, n=left)
    errors = [{row.id for row in rows if row.scores.get(stage) == "error"} for rows in zip(*kept, strict=True)]
    # What could not be measured counts against the claim, but did not change for that: flips are those of the scores.
    plain = PairedScores.of_examples("", _scores_by_id(kept, stage, error_then=0.0))
    divisor = holm.divisor(scores)
    found = scores.judge(confidence, divisor)
    built_then, built_now = then.stage(stage), now.stage(stage)
    return StageComparison(
        stage=stage,
        on=on,
        status="compared",
        n=len(scores.ids),
        before=scores.mean_before,
        after=scores.mean_after,
        interval=found.interval,
        change=found.change,
        smallest_loss=found.smallest_loss,
        tried=divisor,
        fixed=plain.fixed,
        broke=plain.broke,
        errors_before=len(errors[0]),
        errors_after=len(errors[1]),
        same_build=built_then is not None and built_now is not None and built_then.digest == built_now.digest,
    )
