"""What a stage's declaration can name: the classes, functions and LMs that its program, data and optimizer reach.

A kept stage names classes, functions and LMs; they are looked up here, and nothing is ever imported because a file of
the store says so.
"""

from __future__ import annotations

import collections
import functools
import inspect
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, get_args, get_origin

import dspy

from pytest_dspy_ft.fingerprint.origin import is_user_code, is_user_module
from pytest_dspy_ft.fingerprint.source import names_in

_PLAIN: Final = frozenset({str, int, float, bool, bytes, complex, type(None)})

_RUN_STATE: Final = frozenset({"history", "traces"})
"""Attributes in which DSPy's objects remember calls: they declare nothing, and grow with every call."""

DSPY_MODULES: Final = (dspy.Predict, dspy.ChainOfThought)
"""DSPy's modules that consist of nothing but their attributes."""


class Known:
    """Classes, functions and LMs by name, as far as objects and the user's code behind them lead to them.

    Args:
        roots: The objects to start from, the most important first.
    """

    def __init__(self, roots: Iterable[Any]) -> None:
        self._roots = list(roots)
        self._lms: list[Any] = []
        self._classes: dict[str, type] = {}
        self._functions: dict[str, Any] = {}
        self._seen: set[int] = set()
        self._alive: list[Any] = []  # an id counts only while its object lives

    @property
    def lms(self) -> list[Any]:
        """Every LM that was found, in the order of the roots."""
        self.look()
        return self._lms

    def look(self) -> None:
        """Follow the roots now. It is done when something is asked for; before an optimizer runs, it must be done."""
        waiting = collections.deque(self._roots)
        self._roots = []
        while waiting:
            value = waiting.popleft()
            if type(value) in _PLAIN or id(value) in self._seen:
                continue
            self._seen.add(id(value))
            self._alive.append(value)
            waiting.extend(item for item in self._look(value) if type(item) not in _PLAIN)

    def name_of_class(self, cls: type) -> str | None:
        """The name that :meth:`class_named` knows a class by; None for a class that nothing declared leads to."""
        name = full_name(cls)
        return name if self.class_named(name) is cls else None

    def class_named(self, name: str) -> type | None:
        """The class of a name; None where nothing declared leads to one."""
        self.look()
        return self._classes.get(name) or _public(name)

    def name_of_function(self, function: Any) -> str | None:
        """The name that :meth:`function_named` knows a function by; None where nothing declared leads to it."""
        name = full_name(function)
        return name if self.function_named(name) is function else None

    def function_named(self, name: str) -> Any:
        """The function of a name; None where nothing declared leads to one."""
        self.look()
        found = self._functions.get(name)
        if found is None and name.startswith("dspy."):
            found = getattr(dspy, name.rpartition(".")[2], None)
        return found if isinstance(found, types.FunctionType) else None

    def _look(self, value: Any) -> Iterator[Any]:
        if isinstance(value, dspy.BaseLM):
            self._lms.append(value)
        if isinstance(value, type):
            yield from self._look_at_class(value)
        elif isinstance(value, types.FunctionType):
            self._functions.setdefault(full_name(value), value)
            yield from _behind(value)
        elif isinstance(value, functools.partial):
            yield from (value.func, value.args, value.keywords)
        elif isinstance(value, types.MethodType):
            yield from (value.__func__, value.__self__)
        elif get_origin(value) is not None:
            yield from get_args(value)
        elif isinstance(value, (Mapping, list, tuple, set, frozenset)):
            yield type(value)
            yield from (*value.keys(), *value.values()) if isinstance(value, Mapping) else value
        elif not isinstance(value, types.ModuleType):
            yield type(value)
            kind = type(value).__module__
            if is_user_code(type(value)) or kind.startswith(("dspy.", "pytest_dspy_ft.")):
                state = getattr(value, "__dict__", {})
                yield from [part for name, part in list(state.items()) if name not in _RUN_STATE]

    def _look_at_class(self, cls: Any) -> Iterator[Any]:
        self._classes.setdefault(full_name(cls), cls)
        if issubclass(cls, dspy.Signature):
            yield from (field.annotation for field in cls.fields.values())
        if not is_user_code(cls):
            return
        yield from cls.__bases__
        fields = getattr(cls, "model_fields", {})
        yield from (field.annotation for field in fields.values())
        yield from inspect.get_annotations(cls).values()
        for member in list(vars(cls).values()):
            function = getattr(member, "__func__", getattr(member, "fget", member))
            if isinstance(function, (types.FunctionType, type, dspy.BaseLM)):
                yield function


def full_name(value: Any) -> str:
    """Module and qualified name of a class or function."""
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"


def _public(name: str) -> type | None:
    """A class that DSPy exports (``dspy.Image``), by the name of the class itself."""
    if not name.startswith("dspy."):
        return None
    found = getattr(dspy, name.rpartition(".")[2], None)
    return found if isinstance(found, type) and full_name(found) == name else None


def _behind(function: types.FunctionType) -> Iterator[Any]:
    """What a function of the user's refers to: closure, defaults, annotations, and globals that its code names."""
    wrapped = getattr(function, "__wrapped__", None)
    if wrapped is not None:
        yield wrapped
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a name that is not bound yet
            continue
    if not is_user_code(function):
        return
    yield from (function.__defaults__ or (), function.__kwdefaults__ or {})
    yield from inspect.get_annotations(function).values()
    names = names_in(function.__code__)
    for name in sorted(names & function.__globals__.keys()):
        value = function.__globals__[name]
        if isinstance(value, types.ModuleType):
            if is_user_module(value):
                yield from (vars(value)[attribute] for attribute in sorted(names & vars(value).keys()))
        else:
            yield value
