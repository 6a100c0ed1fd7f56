"""The sign-flip test: how likely paired differences are to sum up as they do where nothing has changed."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

_GRID = 20_000
"""Steps into which the sum of all sizes is divided where these differ."""


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
    sizes = np.abs(values)
    steps = np.ones(len(sizes), dtype=np.int64)
    if not np.allclose(sizes, sizes[0]):
        steps = np.maximum(np.rint(sizes * (_GRID / sizes.sum())), 1).astype(np.int64)
    chance = np.zeros(int(steps.sum()) + 1)
    chance[0], reach = 1.0, 1
    for step in steps:
        half = chance[:reach] * 0.5
        chance[:reach] = half
        chance[step : step + reach] += half
        reach += int(step)
    return min(float(chance[int(steps[values < 0].sum()) :].sum()), 1.0)
