"""Optimizers: what they mark and copy, and the step of MIPROv2 that proposes instructions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dspy

from pytest_dspy_ft.insides.needs import needed, there

with needed("to run a stage's optimizer"):
    from dspy.teleprompt.teleprompt import Teleprompter

with needed("to tell what MIPROv2 will take, and to keep it from dying on a proposal that it cannot read"):
    from dspy.teleprompt.mipro_optimizer_v2 import AUTO_RUN_SETTINGS, MIN_MINIBATCH_SIZE

    there(dspy.MIPROv2._propose_instructions)

__all__ = ["AUTO_RUN_SETTINGS", "MIN_MINIBATCH_SIZE", "Teleprompter"]


def mark_compiled(program: Any, compiled: bool) -> None:
    """Say that a program was compiled, or was not: optimizers refuse one that says so. `Module._compiled`."""
    program._compiled = compiled


def wrap_proposals(optimizer: Any, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Wrap the step of a ``MIPROv2`` that proposes instructions. `_propose_instructions`.

    It takes the program and more, and returns the candidates for each predictor, by its number.
    """
    optimizer._propose_instructions = wrap(optimizer._propose_instructions)


class _SharedHistory(list[Any]):
    """An LM's calls, which DSPy appends and nobody changes: a deep copy shares them."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _SharedHistory:
        return _SharedHistory(self)


def lighten_history(lm: Any) -> None:
    """Let deep copies of an LM share the calls that it remembers: (up to 10 000, prompts and replies in full).

    DSPy's optimizers copy programs with their LMs again and again; after a large evaluation, that would be most of what
    a build takes.
    """
    if type(getattr(lm, "history", None)) is list:
        lm.history = _SharedHistory(lm.history)
