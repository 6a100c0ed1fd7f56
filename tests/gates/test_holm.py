"""Holm's correction: against its textbook form, in any order of asking."""

from __future__ import annotations

import itertools

import numpy as np

from pytest_dspy_ft.gates.holm import Holm


def textbook(p_values: list[float], error: float) -> set[int]:
    """The hypotheses that Holm's step-down rejects."""
    rejected: set[int] = set()
    for step, index in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[index] > error / (len(p_values) - step):
            break
        rejected.add(int(index))
    return rejected


def test_decides_what_the_textbook_decides_whoever_asks_first() -> None:
    generator = np.random.default_rng(3)
    later = 0
    for _ in range(200):
        p_values = list(generator.random(4) * generator.choice([0.02, 0.05, 0.3]))
        expected = textbook(p_values, 0.05)
        later += len(expected - {i for i, p in enumerate(p_values) if p <= 0.05 / 4})
        for order in itertools.permutations(range(4)):
            holm = Holm(range(4), lambda i, divisor, p=p_values: p[i] <= 0.05 / divisor)
            assert {i for i in order if p_values[i] <= 0.05 / holm.divisor(i)} == expected
    assert later > 20, "Holm decides more than Bonferroni"


def test_a_clear_gate_needs_no_other() -> None:
    asked = []

    def decided(gate: str, divisor: int) -> bool:
        asked.append(gate)
        return True

    assert Holm(["a", "b", "a"], decided).divisor("a") == 2
    assert asked == ["a"]
    assert Holm(["a"], decided).divisor("unknown") == 1
