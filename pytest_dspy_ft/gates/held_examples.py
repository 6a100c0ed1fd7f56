"""Examples that somebody's object holds: in lists, attributes, closures, partials, and in what its code names.

An optimizer may be given the examples it validates on in many ways: ``compile_args={"valset": data.dev}``, an
attribute, ``functools.partial``, a function that closes over them or reads a global. All of these are looked through;
what is read from a file or fetched while the optimizer runs cannot be seen beforehand.
"""

from __future__ import annotations

import functools
import types
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pytest_dspy_ft.errors import DatasetError
from pytest_dspy_ft.experiment.example_id import describe, input_names, inputs_id
from pytest_dspy_ft.fingerprint import is_user_code
from pytest_dspy_ft.records.base import SPLITS, Split

if TYPE_CHECKING:
    from pytest_dspy_ft.experiment.dataset import Dataset

_MOST_OBJECTS = 100_000
_NOT_HELD = {"metric", "metrics", "lm", "history", "traces", "train"}
"""Attributes that hold no examples to choose or to prompt with: metrics, LMs, and what runs leave behind."""


class SplitIndex:
    """The examples of a dataset's splits, found by their inputs: labels, demos' answers and notes do not matter."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def size(self, split: Split) -> int:
        """How many different examples a split has."""
        return len(set(self._dataset.ids(split)))

    @functools.cached_property
    def _by_inputs(self) -> dict[str, dict[Split, str]]:
        found: dict[str, dict[Split, str]] = {}
        for split in SPLITS:
            for identity, example in zip(self._dataset.ids(split), getattr(self._dataset, split), strict=True):
                found.setdefault(inputs_id(describe(example)["inputs"]), {})[split] = identity
        return found

    @functools.cached_property
    def _fields(self) -> set[frozenset[str]]:
        return {frozenset(input_names(e)) for split in SPLITS for e in getattr(self._dataset, split)}

    def held(self, examples: Iterable[Any]) -> dict[Split, set[str]]:
        """The ids of the examples in each split that are among these; dicts count as examples."""
        held: dict[Split, set[str]] = {}
        for example in examples:
            fields = dict(example.items())
            for names in self._fields:
                if names <= fields.keys():
                    for split, identity in self._by_inputs.get(_inputs_key(fields, names), {}).items():
                        held.setdefault(split, set()).add(identity)
        return held


def _inputs_key(fields: Mapping[str, Any], names: frozenset[str]) -> str:
    from dspy import Example

    try:
        return inputs_id(describe(Example(**{n: fields[n] for n in names}).with_inputs(*names))["inputs"])
    except (DatasetError, TypeError, ValueError):
        return ""


def held_examples(root: Any, name: str = "") -> dict[str, list[Any]]:
    """All examples that an object holds, by the argument, attribute or variable that holds them.

    Args:
        root: The object: an optimizer, a callable, a program, a list.
        name: What the object itself is called, for examples that it holds without a name.
    """
    return _Search().run(root, name)


class _Search:
    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._alive: list[Any] = []  # so that no id is used twice
        self._words: set[str] = set()
        self._datasets: list[tuple[str, Any]] = []
        self.found: dict[str, list[Any]] = {}

    def run(self, root: Any, name: str) -> dict[str, list[Any]]:
        from dspy import Example

        from pytest_dspy_ft.experiment.dataset import Dataset

        todo = deque([(name, root)])
        while todo and len(self._seen) < _MOST_OBJECTS:
            label, value = todo.popleft()
            if id(value) in self._seen:
                continue
            self._seen.add(id(value))
            self._alive.append(value)
            if isinstance(value, Example):
                self.found.setdefault(label, []).append(value)
            elif isinstance(value, Dataset):
                self._datasets.append((label, value))
            else:
                todo.extend((own or label, held) for own, held in self._parts(value))
        for label, dataset in self._datasets:
            for split in SPLITS:
                if split in self._words:  # some code that was looked through asks for it: `data.dev`
                    self.found.setdefault(f"{label}.{split}", []).extend(getattr(dataset, split))
        return self.found

    def _parts(self, value: Any) -> Iterator[tuple[str, Any]]:
        """What a value holds, each with its name where it has one."""
        import dspy

        if value is None or isinstance(value, (str, bytes, int, float, complex, dspy.BaseLM)):
            return
        if isinstance(value, Mapping):
            yield from ((key if isinstance(key, str) else "", item) for key, item in _copied(value.items))
        elif isinstance(value, (list, tuple, set, frozenset, deque)):
            yield from (("", item) for item in _copied(value.__iter__))
        elif isinstance(value, functools.partial):
            yield from (("", value.func), ("", value.args), ("", value.keywords))
        elif isinstance(value, types.MethodType):
            yield from (("", value.__self__), ("", value.__func__))
        elif isinstance(value, types.FunctionType):
            yield from self._parts_of_function(value)
        elif isinstance(value, type):
            if is_user_code(value):
                yield from (("", held) for held in vars(value).values())
        elif isinstance(value, (staticmethod, classmethod)):
            yield "", value.__func__
        elif isinstance(value, property):
            yield "", value.fget
        elif not isinstance(value, types.ModuleType):
            yield from self._parts_of_object(value)

    def _parts_of_function(self, function: types.FunctionType) -> Iterator[tuple[str, Any]]:
        if not is_user_code(function):
            return
        names = set(_names(function.__code__))
        self._words |= names
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                yield name, cell.cell_contents
            except ValueError:  # not filled yet
                continue
        yield "", function.__defaults__
        yield "", function.__kwdefaults__
        yield "", vars(function)
        for name in sorted(names & function.__globals__.keys()):
            held = function.__globals__[name]
            if isinstance(held, types.ModuleType):
                yield from ((part, vars(held)[part]) for part in sorted(names & vars(held).keys()))
            else:
                yield name, held

    def _parts_of_object(self, value: Any) -> Iterator[tuple[str, Any]]:
        try:
            attributes = dict(vars(value))
        except TypeError:
            attributes = {}
        for base in type(value).__mro__:
            slots = base.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                try:
                    attributes.setdefault(name, getattr(value, name))
                except AttributeError:
                    continue
        yield from ((name, held) for name, held in attributes.items() if name not in _NOT_HELD)
        yield from (("", base) for base in type(value).__mro__ if is_user_code(base))


def _names(code: types.CodeType) -> Iterator[str]:
    """The globals and attributes that code names, with that of the functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
        elif isinstance(constant, str):
            yield constant


def _copied(items: Any) -> list[Any]:
    try:
        return list(items())
    except Exception:
        return []  # a mapping of somebody's that cannot be listed
