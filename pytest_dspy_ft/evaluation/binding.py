"""Whose LM answers a program: predictors keep the LMs that were set on them, a stage's LM is bound around calls.

So ``dspy.context(lm=...)`` inside ``forward``, ``teacher_settings`` of an optimizer and the temperatures of
``dspy.BestOfN`` mean what they mean where ``dspy.configure(lm=...)`` was called: a predictor's own LM comes first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dspy

from pytest_dspy_ft.lms.cache import KeptResponses, responses_decided, responses_from
from pytest_dspy_ft.lms.calls import passing
from pytest_dspy_ft.lms.threads import carried_into_threads

_INSIDE = "dspy_ft_inside"
"""DSPy's setting with the identities of the bound programs that are being called."""


def predictor_lms(program: Any, lm: Any) -> dict[str, Any]:
    """The LM that each predictor of a program asks, by its name, where an LM is bound around the call."""
    return {name: lm if predictor.lm is None else predictor.lm for name, predictor in program.named_predictors()}


@contextlib.contextmanager
def without_lm(program: Any, lm: Any) -> Iterator[None]:
    """Take an LM off a program's predictors for the block: bound around calls, it answers them all the same."""
    holders = [predictor for predictor in program.predictors() if lm is not None and predictor.lm is lm]
    for predictor in holders:
        predictor.lm = None
    try:
        yield
    finally:
        for predictor in holders:
            predictor.lm = lm


def put_lm(program: Any, lm: Any) -> Any:
    """Put an LM on those predictors of a program that have none of their own.

    Returns:
        The program.
    """
    for predictor in program.predictors():
        if predictor.lm is None:
            predictor.lm = lm
    return program


@dataclass(frozen=True)
class Binding:
    """What a handed-out program brings along, whatever DSPy is configured to where it is called."""

    lm: Any
    adapter: Any
    cache: KeptResponses | None = None
    calling: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext

    @contextlib.contextmanager
    def entered(self, program: Any) -> Iterator[None]:
        """The block in which a call of the program finds it all; inside such a call nothing is bound anew."""
        inside = dspy.settings.get(_INSIDE, ())
        if id(program) in inside:
            yield
            return
        with contextlib.ExitStack() as stack:
            stack.enter_context(dspy.context(lm=self.lm, adapter=self.adapter, **{_INSIDE: (*inside, id(program))}))
            if self.cache is not None and not responses_decided():  # an evaluation measures, whatever it is given
                stack.enter_context(responses_from(self.cache))
            stack.enter_context(self.calling())
            stack.enter_context(passing())
            stack.enter_context(carried_into_threads())
            yield


def bound_program(program: Any, binding: Binding) -> Any:
    """Make a program bring its LM, adapter and cache along, however it is called.

    Returns:
        The program: its class is another one now, which is named and reads like the one that was written.
    """
    written = type(program)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with binding.entered(self):
            return written.__call__(self, *args, **kwargs)

    async def acall(self: Any, *args: Any, **kwargs: Any) -> Any:
        with binding.entered(self):
            return await written.acall(self, *args, **kwargs)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        with binding.entered(self):
            return written.forward(self, *args, **kwargs)

    async def aforward(self: Any, *args: Any, **kwargs: Any) -> Any:
        with binding.entered(self):
            return await written.aforward(self, *args, **kwargs)

    def get_lm(self: Any) -> Any:
        asked = {id(lm): lm for lm in predictor_lms(self, binding.lm).values()}
        return next(iter(asked.values())) if len(asked) == 1 else written.get_lm(self)

    ways: Mapping[str, Any] = {
        "__call__": call,
        "acall": acall,
        "forward": forward,
        "aforward": aforward,
        "get_lm": get_lm,
    }
    names = {name: getattr(written, name) for name in ("__module__", "__qualname__", "__doc__")}
    # The marks let the program's fingerprint stay that of the program as written, and an evaluation find its LM.
    marks = {"__dspy_ft_written__": written, "__dspy_ft_binding__": binding}
    metaclass: Any = type(written)
    has = {name: way for name, way in ways.items() if hasattr(written, name)}
    program.__class__ = metaclass(written.__name__, (written,), {**names, **has, **marks})
    return program


def unbound_program(program: Any, lm: Any) -> tuple[Any, Any]:
    """A program as it was before it was bound, so that what surrounds its calls decides again.

    Args:
        program: A program, which may be bound or hold bound ones; it is changed.
        lm: The LM for a program that is not bound.

    Returns:
        The program and the LM it is to run on. Bound programs inside it have their LM on their predictors then.
    """
    binding = getattr(type(program), "__dspy_ft_binding__", None)
    for _, module in program.named_sub_modules():
        inner = getattr(type(module), "__dspy_ft_binding__", None)
        if inner is None:
            continue
        module.__class__ = type(module).__dspy_ft_written__
        if module is not program:
            put_lm(module, inner.lm)
    return program, lm if binding is None else binding.lm
