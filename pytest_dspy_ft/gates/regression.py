"""Two sessions' results of one experiment, held against each other example by example.

Pairs are formed by example id. Only examples that both sessions hold, with the same inputs and the same labels, are
compared; new, removed and changed ones are listed. A stage regressed when all of the confidence interval of its paired
difference lies below 0. Examples that could not be measured count as 0 here as everywhere, and are counted.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from pytest_dspy_ft.records.base import SPLITS, Split
from pytest_dspy_ft.records.baseline import SavedExample, SavedExperiment
from pytest_dspy_ft.records.comparison import ComparisonRecord, ExampleChanges, StageComparison
from pytest_dspy_ft.records.pairing import by_copy
from pytest_dspy_ft.statistics.scores import paired_difference_interval

CONFIDENCE = 0.95


def compare(
    then: SavedExperiment,
    now: SavedExperiment,
    *,
    file: str,
    created: str = "",
    confidence: float = CONFIDENCE,
    reasons: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> ComparisonRecord:
    """Hold an experiment's results against earlier ones.

    Args:
        then: The earlier results.
        now: The results of today (``records.baseline.saved_experiment`` makes them from a record).
        file: What the earlier results are called in reports: the baseline file, as the user named it.
        created: When they were saved.
        confidence: Of the intervals, in (0, 1).
        reasons: By stage, why today's session did not measure it, where that is known.
        limit: The ``--dspy-limit`` of today's session.
    """
    refused = ""
    if then.metric != now.metric:
        refused = (
            f"the metric is not the one that {file} was measured with (fingerprint {then.metric}, now {now.metric}): "
            "scores of two metrics cannot be compared; save the baseline anew with --dspy-save-baseline"
        )
    paired = {on: _pair_examples(then, now, on) for on in SPLITS}
    stages = [
        _compare_stage(then, now, stage, on, paired[on][0], confidence, bool(refused), reasons or {})
        for on in SPLITS
        for stage in _stages_on(then, now, on)
    ]
    both = [on for on in SPLITS if then.examples.get(on) and now.examples.get(on)]
    return ComparisonRecord(
        file=file,
        created=created,
        confidence=confidence,
        refused=refused,
        notes=(*_notes(then, now, limit), *_moved_examples(changes for _, changes in paired.values())),
        stages=tuple(stages),
        examples=tuple(paired[on][1] for on in both),
    )


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
    then: SavedExperiment,
    now: SavedExperiment,
    stage: str,
    on: Split,
    kept: Sequence[tuple[SavedExample, SavedExample]],
    confidence: float,
    refused: bool,
    reasons: Mapping[str, str],
) -> StageComparison:
    before, after = then.evaluation(stage, on), now.evaluation(stage, on)
    if after is None:
        reason = reasons.get(stage) or "not measured in this session"
        return StageComparison(stage=stage, on=on, status="absent", reason=reason)
    if before is None:
        return StageComparison(stage=stage, on=on, status="new", reason="not in the baseline")
    pairs = [(old, new) for old, new in kept if stage in old.scores and stage in new.scores]
    if not pairs:
        reason = f"none of its {after.n} examples on {on} is in the baseline"
        return StageComparison(stage=stage, on=on, status="absent", reason=reason)
    if refused:
        return StageComparison(stage=stage, on=on, status="absent", reason="measured with another metric", n=len(pairs))
    old_scores, new_scores = ([row.score(stage) for row in rows] for rows in zip(*pairs, strict=True))
    low, high = paired_difference_interval(old_scores, new_scores, confidence, ids=[new.id for _, new in pairs])
    rises = [(new.score(stage) - old.score(stage), new.id) for old, new in pairs]
    rises.sort(key=lambda rise: -abs(rise[0]))
    built_then, built_now = then.stage(stage), now.stage(stage)
    return StageComparison(
        stage=stage,
        on=on,
        status="compared",
        n=len(pairs),
        before=math.fsum(old_scores) / len(pairs),
        after=math.fsum(new_scores) / len(pairs),
        interval=(low, high),
        change="regressed" if high < 0 else "improved" if low > 0 else "level",
        fixed=tuple(identity for rise, identity in rises if rise > 0),
        broke=tuple(identity for rise, identity in rises if rise < 0),
        errors_before=sum(old.scores[stage] == "error" for old, _ in pairs),
        errors_after=sum(new.scores[stage] == "error" for _, new in pairs),
        same_build=built_then is not None and built_now is not None and built_then.digest == built_now.digest,
    )
