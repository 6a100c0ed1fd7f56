"""Intervals: against published examples, against their definitions, and against simulated truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pytest_dspy_ft.statistics.bootstrap import margin_interval
from pytest_dspy_ft.statistics.quantiles import normal_quantile, student_quantile
from pytest_dspy_ft.statistics.scores import difference_of_intervals, paired_difference_interval, score_interval
from pytest_dspy_ft.statistics.shares import wilson_interval


def pairs(fixed: int, broke: int, n: int) -> tuple[list[float], list[float]]:
    """Paired 0/1 scores with so many discordant pairs; the rest alternate between both wrong and both right."""
    same = [float(i % 2) for i in range(n - fixed - broke)]
    return [0.0] * fixed + [1.0] * broke + same, [1.0] * fixed + [0.0] * broke + same


def first(means: np.ndarray) -> np.ndarray:
    return means[:, 0]


class TestQuantiles:
    def test_normal(self):
        assert normal_quantile(0.95) == pytest.approx(1.959963985)

    @pytest.mark.parametrize(
        ("confidence", "degrees", "expected"),
        [  # the printed tables of Student's t
            (0.95, 1, 12.706),
            (0.95, 2, 4.303),
            (0.95, 9, 2.262),
            (0.95, 30, 2.042),
            (0.99, 5, 4.032),
            (0.90, 120, 1.658),
            (0.95, 100_000, 1.95999),
        ],
    )
    def test_student(self, confidence, degrees, expected):
        assert student_quantile(confidence, degrees) == pytest.approx(expected, abs=6e-4)

    def test_student_against_scipy(self):
        stats = pytest.importorskip("scipy.stats")
        for degrees in (1, 2, 3, 10, 37, 999, 1000, 1001, 5000):
            for confidence in (0.5, 0.95, 0.999):
                expected = stats.t.ppf((1 + confidence) / 2, degrees)
                assert student_quantile(confidence, degrees) == pytest.approx(expected, rel=1e-7)

    @pytest.mark.parametrize("confidence", [0, 1, -0.5, 95, math.nan])
    def test_confidence_out_of_range(self, confidence):
        with pytest.raises(ValueError, match="between 0 and 1"):
            normal_quantile(confidence)

    def test_no_degrees_of_freedom(self):
        with pytest.raises(ValueError, match="degree of freedom"):
            student_quantile(0.95, 0)


class TestWilson:
    @pytest.mark.parametrize(
        ("successes", "n", "low", "high"),
        [
            (8, 10, 0.4902, 0.9433),
            (81, 263, 0.2553, 0.3662),  # Newcombe (1998), table I, method 3
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0000, 0.1611),
            (1, 29, 0.0061, 0.1718),
            (84, 100, 0.756, 0.899),
        ],
    )
    def test_published(self, successes, n, low, high):
        assert wilson_interval(successes, n) == pytest.approx((low, high), abs=6e-4)

    def test_all_right_is_not_certain(self):
        assert wilson_interval(10, 10)[1] == 1.0
        assert 0.70 < wilson_interval(10, 10)[0] < 0.75

    def test_symmetric(self):
        for n in (1, 7, 60):
            for k in range(n + 1):
                low, high = wilson_interval(k, n, 0.9)
                assert (1 - high, 1 - low) == pytest.approx(wilson_interval(n - k, n, 0.9))
                assert 0 <= low <= k / n <= high <= 1

    @pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 5)])
    def test_impossible_counts(self, successes, n):
        with pytest.raises(ValueError, match=r"example|successes"):
            wilson_interval(successes, n)


class TestPaired:
    @pytest.mark.parametrize(
        ("fixed", "broke", "n", "confidence", "low", "high"),
        [
            # airway hyper-responsiveness (Bentur et al. 2009), in Fagerland, Lydersen and Laake (2014)
            (1, 7, 21, 0.95, -0.517, -0.026),
            # R: PropCIs::scoreci.mp(25, 28, 618, 0.90)
            (28, 25, 618, 0.90, -0.0148, 0.0247),
        ],
    )
    def test_published(self, fixed, broke, n, confidence, low, high):
        before, after = pairs(fixed, broke, n)
        assert paired_difference_interval(before, after, confidence) == pytest.approx((low, high), abs=6e-4)

    def test_nothing_changed_is_not_certain(self):
        scores = [1.0, 0.0, 1.0] * 20
        z2 = 1.959963985**2
        assert paired_difference_interval(scores, scores) == pytest.approx((-z2 / (60 + z2), z2 / (60 + z2)))

    def test_agrees_with_mcnemar(self):
        for fixed in range(16):
            for broke in range(16):
                if fixed + broke:
                    low, high = paired_difference_interval(*pairs(fixed, broke, 40))
                    significant = abs(fixed - broke) / math.sqrt(fixed + broke) > 1.959963985
                    assert (low > 0 or high < 0) == significant, (fixed, broke)

    def test_antisymmetric_and_around_the_estimate(self):
        for fixed, broke, n in ((0, 0, 1), (1, 0, 1), (3, 9, 12), (0, 12, 12), (5, 5, 10), (1, 70, 200)):
            before, after = pairs(fixed, broke, n)
            low, high = paired_difference_interval(before, after)
            assert (-high, -low) == pytest.approx(paired_difference_interval(after, before))
            assert -1 <= low <= (fixed - broke) / n <= high <= 1
            assert high - low > 0

    def test_graded(self):
        generator = np.random.default_rng(5)
        before = generator.beta(4, 3, 80)
        after = np.clip(before + generator.normal(0.1, 0.1, 80), 0, 1)
        low, high = paired_difference_interval(before, after)
        assert 0 < low < np.mean(after - before) < high
        unpaired = score_interval(after)[1] - score_interval(after)[0]
        assert high - low < unpaired, "pairing by example must pay"

    def test_graded_without_change_is_not_certain(self):
        scores = [0.25, 0.5, 0.75] * 5
        low, high = paired_difference_interval(scores, scores)
        assert low < -0.03
        assert high > 0.03

    def test_wrong_input(self):
        with pytest.raises(ValueError, match="2 before, 1 after"):
            paired_difference_interval([1, 0], [1])
        with pytest.raises(ValueError, match="at least one"):
            paired_difference_interval([], [])
        with pytest.raises(ValueError, match="between 0 and 1"):
            paired_difference_interval([math.nan], [0.5])


class TestScore:
    def test_binary_is_wilson(self):
        assert score_interval([1.0] * 8 + [0.0] * 2) == wilson_interval(8, 10)

    def test_identical_graded_scores_are_not_certain(self):
        for n in (1, 2, 5, 50):
            low, high = score_interval([0.7] * n)
            assert 0 <= low < 0.7 < high <= 1
            assert high - low > 1 / (n + 2)

    def test_same_seed_same_interval(self):
        scores = np.random.default_rng(0).random(50)
        assert score_interval(scores, seed=3) == score_interval(scores, seed=3)
        assert score_interval(scores, seed=3) != score_interval(scores, seed=4)

    def test_wider_with_confidence_narrower_with_examples(self):
        scores = np.random.default_rng(0).random(50)
        width = np.diff(score_interval(scores, 0.95))
        assert np.diff(score_interval(scores, 0.99)) > width
        assert np.diff(score_interval(np.tile(scores, 4), 0.95)) < 0.6 * width

    def test_close_to_student_when_there_is_enough_data(self):
        scores = np.random.default_rng(0).beta(4, 2, 400)
        half = 1.966 * scores.std(ddof=1) / 20
        assert score_interval(scores) == pytest.approx((scores.mean() - half, scores.mean() + half), abs=0.15 * half)

    @pytest.mark.parametrize("scores", [[], [1.5], [-0.1, 0.5], [math.nan]])
    def test_wrong_input(self, scores):
        with pytest.raises(ValueError, match=r"at least one|between 0 and 1"):
            score_interval(scores)


class TestMargin:
    def test_one_binary_column_is_close_to_jeffreys(self):
        stats = pytest.importorskip("scipy.stats")
        column = np.r_[np.ones(150), np.zeros(50)]
        expected = stats.beta.ppf([0.025, 0.975], 150.5, 50.5)
        assert margin_interval(column[:, None], first) == pytest.approx(tuple(expected), abs=5e-3)

    def test_ratio_of_perfect_scores_is_not_certain(self):
        low, high = margin_interval(np.ones((10, 2)), lambda m: m[:, 0] - 0.93 * m[:, 1])
        assert low < 0 < 0.07 <= high

    def test_level_perfect_stages_are_not_certain(self):
        """Where b and c are both perfect, moving one alone does not move ``max(b, c)``; moving both does."""
        columns = np.ones((30, 3))
        columns[0, 0] = 0.0
        low, high = margin_interval(columns, lambda m: m[:, 0] - np.maximum(m[:, 1], m[:, 2]))
        assert low < -1 / 30 < 0 < high

    def test_many_columns(self):
        columns = np.random.default_rng(0).integers(0, 2, (40, 14)).astype(float)
        low, high = margin_interval(columns, lambda m: m[:, 0] - m[:, 1:].mean(axis=1))
        assert low < columns[:, 0].mean() - columns[:, 1:].mean() < high

    def test_unpaired_noise_cancels(self):
        hard = np.random.default_rng(0).random(200)
        columns = np.column_stack([hard, np.clip(hard + 0.05, 0, 1)])
        low, high = margin_interval(columns, lambda m: m[:, 1] - m[:, 0])
        assert 0.02 < low < high < 0.08

    @pytest.mark.parametrize(("n", "times"), [(20, 11.0), (50, 5.2), (200, 2.1), (500, 1.44), (2500, 1.03)])
    def test_costs_allow_for_what_was_not_seen(self, n, times):
        """Costs that do not differ at all: by so much must a limit be above them."""
        low, high = margin_interval(np.full((n, 1), 0.002), first, shares=[False])
        assert high / 0.002 == pytest.approx(times, rel=0.06)
        assert 0.8 < low / 0.002 <= 1

    def test_what_is_free_is_no_estimate(self):
        assert margin_interval(np.zeros((5, 1)), first, shares=[False]) == (0.0, 0.0)

    @pytest.mark.parametrize("sizes", [[3] * 40, None])
    def test_copies_of_all_change_nothing(self, sizes):
        scores = np.random.default_rng(0).random((40, 1))
        assert margin_interval(scores, first, sizes=sizes) == margin_interval(scores, first)

    def test_a_heavy_example_weighs_as_much_as_it_stands_for(self):
        scores, sizes = np.array([1.0] + [0.0] * 29)[:, None], [30] + [1] * 29
        low, high = margin_interval(scores, first, sizes=sizes)
        assert low < 0.15 < 30 / 59 < 0.8 < high

    def test_undefined_margin_counts_as_both_ends(self):
        ends = margin_interval(np.ones((5, 1)), lambda m: m[:, 0] * np.nan)
        assert ends == (-math.inf, math.inf)

    def test_huge_samples_agree_with_the_exact_way(self):
        generator = np.random.default_rng(0)
        data = generator.random((12_000, 1))
        half = 1.96 * data.std() / math.sqrt(12_000)
        low, high = margin_interval(data, first)
        assert (low, high) == pytest.approx((data.mean() - half, data.mean() + half), abs=0.06 * half)

    def test_skewness_is_kept_where_there_are_many_different_rows(self):
        """3000 graded scores near 1: a few are far below, so the interval reaches further down than up."""
        generator = np.random.default_rng(0)
        scores = 1 - 0.001 * generator.random(3000) - 0.9 * (np.arange(3000) < 6)
        binned = np.array(margin_interval(scores[:, None], first)) - scores.mean()
        single = np.array(margin_interval(scores[:, None], first, resamples=4000)) - scores.mean()
        assert binned == pytest.approx(single, rel=0.06)
        assert -binned[0] > 1.3 * binned[1]

    def test_single_example_without_limits(self):
        with pytest.raises(ValueError, match="at least 20"):
            margin_interval([[0.01]] * 19, first, shares=[False])

    def test_no_examples(self):
        with pytest.raises(ValueError, match="at least one"):
            margin_interval(np.empty((0, 2)), first)

    @pytest.mark.parametrize("levels", [2, 11, 0])
    def test_large_samples_of_any_kind(self, levels):
        generator = np.random.default_rng(0)
        shape = (10_000, 5)
        data = generator.integers(0, levels, shape) / (levels - 1) if levels else generator.random(shape)
        low, high = margin_interval(data, lambda m: m[:, 0] - m[:, 1])
        assert low < (data[:, 0] - data[:, 1]).mean() < high
        assert high - low < 0.06


class TestCoverage:
    """How often a 95 % interval holds the truth. 4 standard errors of the simulation are allowed below 95 %."""

    def test_wilson(self):
        generator = np.random.default_rng(1)
        for p in (0.5, 0.8, 0.95):
            known = {k: wilson_interval(k, 50) for k in range(51)}
            held = [known[k][0] <= p <= known[k][1] for k in generator.binomial(50, p, 4000)]
            assert 0.92 < np.mean(held) < 0.99, p

    @pytest.mark.parametrize(("before", "after", "agree"), [(0.7, 0.8, 0.6), (0.85, 0.9, 0.5), (0.9, 0.9, 0.9)])
    def test_paired_binary(self, before, after, agree):
        """With probability ``agree`` both stages see the same luck, which correlates their scores."""
        generator = np.random.default_rng(2)
        known: dict[tuple[int, int], tuple[float, float]] = {}
        held = 0
        runs = 1500
        for _ in range(runs):
            luck = generator.random((2, 50))
            luck[1] = np.where(generator.random(50) < agree, luck[0], luck[1])
            old, new = (luck[0] < before).astype(float), (luck[1] < after).astype(float)
            key = int((new > old).sum()), int((new < old).sum())
            if key not in known:
                known[key] = paired_difference_interval(old, new)
            low, high = known[key]
            held += low <= after - before <= high
        assert held / runs > 0.95 - 4 * math.sqrt(0.95 * 0.05 / runs)

    @pytest.mark.parametrize("n", [10, 40])
    def test_graded_with_rare_failures(self, n):
        """F1-like scores: most perfect, some partial, few zero. A plain bootstrap holds 83 % at n = 10."""
        generator = np.random.default_rng(3)
        truth = 0.6 + 0.25 * 5 / 8
        held = 0
        runs = 300
        for _ in range(runs):
            kind, partial = generator.random(n), generator.beta(5, 3, n)
            scores = np.where(kind < 0.6, 1.0, np.where(kind < 0.75, 0.0, partial))
            low, high = margin_interval(scores[:, None], first, resamples=2000)
            held += low <= truth <= high
        assert held / runs > 0.95 - 4 * math.sqrt(0.95 * 0.05 / runs)


class TestUnpairedDifference:
    def test_newcombe_1998_table_2(self):
        """Newcombe (1998), Statistics in Medicine 17, 873-890, Table II: method 10."""
        for a, m, b, n, low, high in ((56, 70, 48, 80, 0.0524, 0.3339), (9, 10, 3, 10, 0.1705, 0.8090)):
            before, after = wilson_interval(b, n, 0.95), wilson_interval(a, m, 0.95)
            found = difference_of_intervals((b / n, *before), (a / m, *after))
            assert found == pytest.approx((low, high), abs=5e-5)

    def test_stays_within_what_is_possible(self):
        low, high = difference_of_intervals((0.0, 0.0, 0.9), (1.0, 0.1, 1.0))
        assert -1 <= low <= high <= 1
