"""What code could run: the user's functions that a declaration leads to, followed without running anything."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_dspy_ft.fingerprint.origin import is_user_code, is_user_file
from pytest_dspy_ft.fingerprint.source import references

_MOST = 20_000
"""Objects that are looked at before the search ends: it is for code, which stands near the top, not for data."""

_PLAIN = (str, bytes, int, float, bool, type(None), complex)

_DATA = frozenset({"history", "traces", "demos"})
"""Attributes of DSPy's objects that hold data, never code."""


@dataclass
class CallGraph:
    """The user's functions that some objects lead to."""

    functions: dict[int, types.FunctionType] = field(default_factory=dict)
    """By the identity of their code."""

    @property
    def codes(self) -> list[types.CodeType]:
        """Their code objects."""
        return [function.__code__ for function in self.functions.values()]


def reachable(roots: Iterable[Any]) -> CallGraph:
    """The user's functions that are reached from objects: by attributes, closures, names and imports in their bodies.

    Args:
        roots: Programs, metrics, optimizers, adapters: anything.
    """
    graph = CallGraph()
    kept: dict[int, Any] = {}  # objects stay alive while their identity says that they were seen
    waiting = list(roots)
    while waiting and len(kept) < _MOST:
        value = waiting.pop()
        if isinstance(value, _PLAIN) or id(value) in kept:
            continue
        kept[id(value)] = value
        if isinstance(value, types.FunctionType) and is_user_file(value.__code__.co_filename):
            graph.functions[id(value.__code__)] = value
        waiting.extend(_next(value))
    return graph


def _next(value: Any) -> Iterator[Any]:
    """What an object leads to directly."""
    if isinstance(value, types.ModuleType):
        return
    if isinstance(value, types.FunctionType):
        yield from _of_function(value)
    elif isinstance(value, type):
        if is_user_code(value):
            yield from vars(value).values()
            yield from value.__bases__
    elif isinstance(value, types.MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, Mapping):
        yield from list(value.values())
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from value
    elif isinstance(value, (staticmethod, classmethod)):
        yield value.__func__
    elif isinstance(value, property):
        yield from (value.fget, value.fset)
    else:
        yield from _of_object(value)


def _of_function(function: types.FunctionType) -> Iterator[Any]:
    yield getattr(function, "__wrapped__", None)
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not bound yet
            continue
    if is_user_code(function):
        yield from references(function.__code__, function.__globals__).values()


def _of_object(value: Any) -> Iterator[Any]:
    """An object's class and attributes, where it is one of the user's, or one that holds the user's code."""
    state = getattr(value, "__dict__", None)
    wrapped = state.get("__wrapped__") if isinstance(state, dict) else None
    if wrapped is not None:
        yield wrapped
        return
    kind = type(value)
    holds = kind.__module__.partition(".")[0] in ("dspy", "types", "functools")
    if is_user_code(kind):
        yield kind
    elif not holds:
        return
    if isinstance(state, dict):
        yield from (part for name, part in list(state.items()) if name not in _DATA)
    for cls in kind.__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            descriptor = cls.__dict__.get(slot)
            if isinstance(descriptor, types.MemberDescriptorType):
                try:
                    yield descriptor.__get__(value, kind)
                except AttributeError:  # not set
                    continue
