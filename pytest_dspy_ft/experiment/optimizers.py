"""Optimizers of our own, beside DSPy's."""

from __future__ import annotations

from typing import Any

import dspy


class LabeledFinetune(dspy.BootstrapFinetune):  # type: ignore[misc]
    """``dspy.BootstrapFinetune`` with the labels as the teacher: trains on the gold outputs of the train examples.

    What to use when the examples hold every output of the program's predictors and no program at hand is good enough
    to teach: a prompted model that is wrong in a systematic way (always one class, say) leaves only that class in its
    accepted traces, while labels cover all of them.

    Every predictor's output fields must be in the examples; a ``ChainOfThought`` has a ``reasoning`` that labels rarely
    hold, so use it with ``Predict``. Gold outputs are scored by the metric like any trace: those it rejects are counted
    and left out. Takes the arguments of ``dspy.BootstrapFinetune``.

    It runs as the optimizer of a :class:`~pytest_dspy_ft.Stage`, which knows the LM, the store and the progress.
    """

    __dspy_ft_name__ = "pytest_dspy_ft.optimizers.LabeledFinetune"  # in the keys of stages, wherever the class lies

    def compile(self, student: Any, trainset: list[Any], teacher: Any = None) -> Any:
        """Refuse to run outside a stage, where DSPy would bootstrap instead.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            "LabeledFinetune runs as the optimizer of a stage: pytest_dspy_ft.Stage(name, LabeledFinetune(...))"
        )
