"""The sign-flip test: how likely paired differences are to sum up as they do where nothing has changed."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GRID = 20_000
"""Steps into which the sum of all sizes is divided where they have no common measure."""
_DENOMINATORS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 16, 20, 25, 30, 50, 60, 100)


def chance_of_loss(differences: ArrayLike) -> float:
    """The chance that differences of these sizes, each with a sign drawn by a fair coin, sum up as low or lower.

    Where nothing has changed, "then" and "now" of one example may as well be exchanged, whatever the scores are and
    however an LM throws its dice. So the chance is exact for any number of examples and any scores (R. A. Fisher 1935,
    The Design of Experiments, section 21). For 0/1 scores it is the one-sided exact test of McNemar.

    Args:
        differences: Shape (n,): each example's score now minus its score then.

    Returns:
        The one-sided chance in (0, 1]; that of a gain is the chance of loss of the negated differences.
    """
    values = np.asarray(differences, dtype=np.float64)
    values = values[values != 0]
    if not len(values):
        return 1.0
    steps = _steps(np.abs(values))
    chance = np.zeros(int(steps.sum()) + 1)
    chance[0], reach = 1.0, 1
    for step in steps:
        half = chance[:reach] * 0.5
        chance[:reach] = half
        chance[step : step + reach] += half
        reach += int(step)
    return min(float(chance[int(steps[values < 0].sum()) :].sum()), 1.0)


def _steps(sizes: NDArray[np.float64]) -> NDArray[np.int64]:
    """The sizes as whole numbers, exactly where they are multiples of one measure, so that equal sums stay equal."""
    for unit in (float(sizes.min()), 1.0):
        for denominator in _DENOMINATORS:
            steps = sizes * (denominator / unit)
            if steps.sum() > 10 * _GRID:
                break
            if np.allclose(steps, np.rint(steps), rtol=0, atol=1e-6):
                return np.asarray(np.rint(steps), dtype=np.int64)
    return np.asarray(np.maximum(np.rint(sizes * (_GRID / sizes.sum())), 1), dtype=np.int64)
