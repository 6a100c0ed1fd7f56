"""Deep copies of examples, predictions and what stands in them: what programs, metrics and optimizers are handed."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_dspy_ft.errors import DatasetError
from pytest_dspy_ft.experiment.metrics import filled

if TYPE_CHECKING:
    from dspy import Example

_IMMUTABLE = frozenset({str, int, float, bool, bytes, complex, type(None)})

_is_immutable = _IMMUTABLE.__contains__


def copy_example(example: Example) -> Example:
    """A deep copy of an example: nothing that is done to it, or to what stands in it, reaches the original.

    Raises:
        DatasetError: If one of its values cannot be copied.
    """
    return _copied_example(example, _copy_or_refuse)


def copy_value(value: Any) -> Any:
    """A deep copy of an example, a prediction or another value; what cannot be copied (a lock, a client) is shared."""
    from dspy import Example

    return _copied_example(value, _copy_or_share) if isinstance(value, Example) else _copy_or_share("", value, {})


def copy_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields by name, each deep-copied; what cannot be copied is shared."""
    return _copied_fields(fields, _copy_or_share, {})


def copy_arguments(value: Any) -> Any:
    """What a metric is called with, deep-copied, in lists, tuples and dicts too; modules (in a trace) are shared."""
    from dspy import Module

    if type(value) in (list, tuple):
        return type(value)(copy_arguments(item) for item in value)
    if type(value) is dict:
        return {name: copy_arguments(item) for name, item in value.items()}
    return value if type(value) in _IMMUTABLE or isinstance(value, Module) else copy_value(value)


def on_copies(metric: Any) -> Any:
    """The metric, with copies of all that it is called with: DSPy's optimizers hand out their own."""

    @functools.wraps(metric)
    def measured(*args: Any, **kwargs: Any) -> Any:
        arguments = args if kwargs else filled(metric, args)
        return metric(*copy_arguments(arguments), **copy_arguments(kwargs))

    return measured


_PREDICTIONS = "dspy.primitives.prediction"

_Copier = Callable[[str, Any, dict[int, Any]], Any]
"""Makes a copy of what has a name; the memo lets parts that are shared in the original be shared in the copy."""


def _copied_example(example: Any, copier: _Copier, memo: dict[int, Any] | None = None) -> Any:
    copied = object.__new__(type(example))  # `copy.copy` takes longer than all the rest
    memo = {} if memo is None else memo
    state = vars(copied)
    for name, value in vars(example).items():
        kind = type(value)
        if kind is dict:
            state[name] = _copied_fields(value, copier, memo)
        elif kind is set:
            state[name] = set(value)
        elif isinstance(value, type):
            state[name] = value
        elif kind.__module__ == _PREDICTIONS:  # a prediction's completions: fields too
            state[name] = _copied_example(value, copier, memo)
        else:
            state[name] = _copied(name, value, copier, memo)
    return copied


def _copied_fields(fields: Mapping[str, Any], copier: _Copier, memo: dict[int, Any]) -> dict[str, Any]:
    return {name: _copied(name, value, copier, memo) for name, value in fields.items()}


def _copied(name: str, value: Any, copier: _Copier, memo: dict[int, Any]) -> Any:
    """A copy of a value. What most fields hold, text and flat lists and dicts of it, needs no `copy.deepcopy`."""
    kind = type(value)
    if kind in _IMMUTABLE:
        return value
    if kind is list or kind is dict:
        if all(map(_is_immutable, map(type, value))) and (
            kind is list or all(map(_is_immutable, map(type, value.values())))
        ):
            copied = memo.get(id(value))
            if copied is None:
                copied = memo[id(value)] = value.copy()
            return copied
    elif kind is tuple and all(map(_is_immutable, map(type, value))):
        return value
    return copier(name, value, memo)


def _copy_or_share(name: str, value: Any, memo: dict[int, Any]) -> Any:
    try:
        return copy.deepcopy(value, memo)
    except Exception:
        return value


def _copy_or_refuse(name: str, value: Any, memo: dict[int, Any]) -> Any:
    try:
        return copy.deepcopy(value, memo)
    except RecursionError:
        raise DatasetError(f"field {name!r} cannot be copied: it is nested too deeply") from None
    except Exception as error:
        raise DatasetError(
            f"field {name!r} cannot be copied ({type(error).__name__}: {error}), so that a program or metric which "
            "changes it would change it for all calls; give data that copy.deepcopy takes"
        ) from None
