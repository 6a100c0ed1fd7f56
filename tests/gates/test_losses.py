"""What a comparison claims: no more than its examples can tell, whatever else the session compares."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pytest_dspy_ft.gates.losses import PairedScores
from pytest_dspy_ft.gates.regression import OtherComparisons, comparable, compare
from pytest_dspy_ft.records.baseline import SavedExperiment, saved_experiment
from pytest_dspy_ft.records.comparison import ComparisonRecord, StageComparison
from pytest_dspy_ft.report.changes import headline, render_comparison, verdict_words
from pytest_dspy_ft.statistics.sign_flips import chance_of_loss
from tests.gates.test_regression import record, result


def scores(before: Sequence[float], after: Sequence[float], name: str = "x") -> PairedScores:
    ids = tuple(map(str, range(len(before))))
    return PairedScores(name, ids, tuple(map(float, before)), tuple(map(float, after)))


def saved(scores: Any, ids: Any = None, **fields: Any) -> SavedExperiment:
    return saved_experiment(record(result("a", scores, ids), **fields))


@pytest.mark.parametrize(
    "differences", [[1, -1, -1, -1], [0.5, -0.25, -1, 0], [-1] * 6, [1] * 3, [0.2, -0.2, 0.4, -0.8, -0.6]]
)
def test_sign_flips_are_counted_exactly(differences: list[float]) -> None:
    moved = [d for d in differences if d]
    sums = [
        sum(s * abs(d) for s, d in zip(signs, moved, strict=True))
        for signs in itertools.product((1, -1), repeat=len(moved))
    ]
    expected = sum(total <= sum(moved) + 1e-9 for total in sums) / len(sums)
    assert chance_of_loss(differences) == pytest.approx(expected)


def test_nothing_changed_is_certain() -> None:
    assert chance_of_loss([0.0, 0.0]) == 1.0
    assert chance_of_loss([]) == 1.0


@pytest.mark.parametrize("graded", [False, True], ids=["0/1", "graded"])
@pytest.mark.parametrize("divisor", [1, 30])
def test_the_smallest_loss_is_where_the_verdict_turns(graded: bool, divisor: int) -> None:
    drawn = random.Random(1)
    values = [0.0, 0.25, 0.5, 0.75, 1.0] if graded else [0.0, 1.0]
    before = [drawn.choice(values) for _ in range(60)] + [1.0] * 40
    found = scores(before, before).judge(0.95, divisor)
    assert found.change == "no_loss_seen"
    assert found.smallest_loss is not None
    for broken in range(100):
        after = [0.0] * broken + before[::-1][broken:]
        one = scores(before[::-1], after)
        if one.is_decided(0.95, divisor):
            break
    assert one.mean_before - one.mean_after == pytest.approx(found.smallest_loss, abs=0.011)


@pytest.mark.parametrize(
    ("n", "divisor", "change"),
    [(3, 1, "blind"), (5, 1, "blind"), (6, 1, "no_loss_seen"), (6, 2, "blind"), (7, 2, "no_loss_seen")],
)
def test_too_few_to_see_anything_is_said(n: int, divisor: int, change: str) -> None:
    found = scores([1] * n, [1] * n).judge(0.95, divisor)
    assert found.change == change
    assert (found.smallest_loss is None) == (change == "blind")
    all_lost = scores([1] * n, [0] * n).judge(0.95, divisor)
    assert (all_lost.change == "blind") == (change == "blind"), "what is said of the worst is so"


def test_words_do_not_hide_what_could_not_be_seen() -> None:
    stage = StageComparison(stage="a", on="dev", status="compared", n=100, change="no_loss_seen", smallest_loss=0.12)
    assert verdict_words(stage) == "no loss seen (12.0 points or more would have been)"
    blind = stage.model_copy(update={"change": "blind", "smallest_loss": None, "n": 3})
    assert verdict_words(blind) == "no loss could have been seen in 3 examples"
    other = stage.model_copy(update={"smallest_loss": 0.2})
    found = ComparisonRecord(file="f", confidence=0.95, stages=(stage, other, blind))
    assert headline(found) == (
        "compared with f: 2 no loss seen (12.0 to 20.0 points or more would have been), "
        "1 too small for any loss to be seen"
    )


def test_a_record_of_before_is_read() -> None:
    stage = StageComparison.model_validate({"stage": "a", "on": "dev", "status": "compared", "change": "level"})
    assert verdict_words(stage) == "no loss seen"


@pytest.mark.parametrize(("left", "passed"), [(100, True), (50, True), (49, False), (3, False), (0, False)])
def test_less_than_half_of_the_examples_is_no_comparison(left: int, passed: bool) -> None:
    then = saved("1" * 100, [f"{i:03}" for i in range(100)])
    now = saved("1" * 100, [f"{i:03}" for i in range(100 - left, 200 - left)])
    found = compare(then, now, file="f")
    assert found.passed == passed
    if not passed:
        [stage] = found.stages
        assert stage.status == "too_few"
        assert stage.reason.startswith(f"{left} of the baseline's 100 examples are left; at least half (50) are needed")
        assert "1 with TOO FEW EXAMPLES" in headline(found)


def test_copies_of_an_example_are_one() -> None:
    ids = ["copied"] * 40 + list("abcdefghij")
    found = compare(saved("1" * 50, ids), saved("0" * 40 + "1" * 10, ids), file="f").stages[0]
    assert (found.n, found.broke, found.change) == (11, ("copied",), "no_loss_seen")
    few = compare(saved("1" * 50, ids), saved("1" * 40, ["copied"] * 40), file="f")
    assert [stage.status for stage in few.stages] == ["too_few"], "1 of 11 different examples"


@pytest.mark.parametrize(
    ("then", "now", "change"),
    [
        ("e" * 20 + "1" * 80, "0" * 20 + "1" * 80, "regressed"),
        ("1" * 100, "e" * 20 + "1" * 80, "regressed"),
        ("e" * 20 + "1" * 80, "e" * 20 + "1" * 80, "regressed"),
        ("e" * 20 + "1" * 80, "1" * 100, "no_loss_seen"),
        ("u" * 20 + "1" * 80, "0" * 20 + "1" * 80, "no_loss_seen"),
    ],
)
def test_what_could_not_be_measured_counts_against_the_claim(then: str, now: str, change: str) -> None:
    found = compare(saved(then), saved(now), file="f")
    assert found.stages[0].change == change
    shown = " ".join(render_comparison(record(result("a", now)).model_copy(update={"comparison": found}), width=400))
    assert ("could not be measured then" in shown) == ("e" in then + now)


def test_a_loss_is_judged_among_all_comparisons_of_the_session() -> None:
    then, now = saved("1" * 100), saved("0" * 6 + "1" * 94)
    alone = compare(then, now, file="f")
    assert (alone.stages[0].change, alone.comparisons) == ("regressed", 1)
    [own] = comparable(then, now)
    others = [scores([1] * 50, [1] * 50, str(number)) for number in range(20)]
    among = compare(then, now, file="f", others=OtherComparisons(others, waiting=9))
    assert (among.stages[0].change, among.stages[0].tried, among.comparisons) == ("no_loss_seen", 30, 30)
    low, high = among.stages[0].interval or (0, 0)
    assert low < -0.06 < 0 <= high
    lines = render_comparison(record(result("a", "1" * 100)).model_copy(update={"comparison": among}), width=200)
    assert "30 comparisons in this session" in " ".join(lines)
    assert own.name == "e/a/dev"


def test_clear_losses_make_room_for_others() -> None:
    """Holm's: what is clear at a thirtieth no longer counts for the rest."""
    then, now = saved("1" * 100), saved("0" * 6 + "1" * 94)
    lost = [scores([1] * 50, [0] * 50, str(number)) for number in range(29)]
    assert compare(then, now, file="f", others=OtherComparisons(lost)).stages[0].change == "regressed"


@pytest.mark.parametrize("graded", [False, True], ids=["0/1", "graded"])
def test_sessions_in_which_nothing_changed_pass(graded: bool) -> None:
    """Ten comparisons of 50 examples: of 100 sessions, two or three may fail; judged one by one, 20 do."""
    generator = np.random.default_rng(0)
    failed = one_by_one = 0
    for _ in range(100):
        session = []
        for number in range(10):
            rate = generator.beta(4, 1, 50)
            both = [
                generator.binomial(4, rate) / 4 if graded else (generator.random(50) < rate) * 1.0 for _ in range(2)
            ]
            session.append(scores(*both, name=str(number)))
        lost = [one.mean_after < one.mean_before and one.is_decided(0.95, 10) for one in session]
        failed += any(lost)
        one_by_one += any(one.mean_after < one.mean_before and one.is_decided(0.95, 1) for one in session)
    assert failed <= 6
    assert graded or one_by_one > 10, "the correction is what keeps them"


def test_what_failed_then_and_now_did_not_break() -> None:
    found = compare(saved("e1111"), saved("e1110"), file="f").stages[0]
    assert (found.broke, found.fixed, found.before, found.after) == (("4",), (), 1.0, 0.6)
