"""How sure one can be of a score: counts and arrays in, intervals out.

The methods, chosen by what the data are:

========================================  ===============================================================
one share of 0/1 outcomes, to look at     Wilson's score interval (`wilson_interval`)
one share of 0/1 outcomes, to judge by    Clopper and Pearson's exact interval (`exact_interval`)
difference of two paired 0/1 scores       Tango's score interval (`tango_interval`), to judge by
                                          widened where changes go one way (`judged_difference_interval`)
difference of scores of other examples    Newcombe's hybrid of both intervals (`unpaired_difference_interval`)
graded scores, ratios, ``max()``,         Bayesian bootstrap of the examples, jointly for all columns,
three stages, ...                         widened for small samples and unseen outcomes (`margin_interval`)
costs, tokens, seconds                    the same with a whole unseen outcome, many times as dear: Gaffke's bound
========================================  ===============================================================

A plain percentile bootstrap is not among them. It only knows outcomes it has seen: after ten right answers in ten it
says "100 %, certainly". In simulations with 10 examples its 95 % intervals held the truth in 28 to 89 % of the cases,
those of `margin_interval` in 98 to 100 %. All methods give a true interval to identical scores.

Sources:
    E. B. Wilson (1927), Probable inference, the law of succession, and statistical inference, JASA 22, 209-212.
    C. J. Clopper, E. S. Pearson (1934), The use of confidence or fiducial limits illustrated in the case of the
    binomial, Biometrika 26, 404-413.
    T. Tango (1998), Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design, Statistics in Medicine 17, 891-908.
    D. B. Rubin (1981), The Bayesian bootstrap, Annals of Statistics 9, 130-134.
    N. Gaffke (2005), Three test statistics for a nonparametric one-sided hypothesis on the mean of a nonnegative
    variable, Mathematical Methods of Statistics 14, 451-467; E. Learned-Miller, P. S. Thomas (2019), A new confidence
    interval for the mean of a bounded random variable, arXiv 1905.06208.
    H. Jeffreys (1946), and L. D. Brown, T. T. Cai, A. DasGupta (2001), Interval estimation for a binomial proportion,
    Statistical Science 16, 101-133: half an observation of each outcome as the prior.
    B. Efron (1981), Nonparametric standard errors and confidence intervals, Canadian Journal of Statistics 9,
    139-172: the bias-corrected percentile.
    T. C. Hesterberg (2015), What teachers should know about the bootstrap, The American Statistician 69, 371-386: the
    expanded percentile interval.
"""

from pytest_dspy_ft.moved import moved_names

CONFIDENCES = "a confidence of at least 0.5 and below 1, such as 0.95"
"""The confidences that there are, in words: below 0.5 an interval leaves out more than it holds."""


MIN_UNBOUNDED = 20  # of fewer, a median tells little of what is typical
"""Observations that an interval of costs, token counts or seconds needs at least."""

COSTS_NEED = f"costs, tokens and latency need at least {MIN_UNBOUNDED} different examples to be judged at a confidence"

TAIL_RATIO = 60.0
"""How many times the typical (median) cost an outcome may be that was not seen."""


def is_confidence(value: float) -> bool:
    """True for what an interval may be asked for with."""
    return 0.5 <= value < 1


__getattr__ = moved_names(__name__)
