"""Labels as the values that the program gives: what a file writes as text or JSON becomes an Enum, a number, a model.

A program whose signature says ``label: Category`` gives members of ``Category``, and a file can only hold their names
or values. Metrics, demos and training rows would see two types for one thing. So a field that is called like an output
of the program is read as DSPy reads a reply. What is of its type already stays as it is, and so does every label of an
output that is text. An example keeps the id that it has by its content in the file.
"""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from pytest_dspy_ft.errors import DatasetError
from pytest_dspy_ft.experiment.copies import copy_example
from pytest_dspy_ft.experiment.example_id import OWN_ID, is_blank
from pytest_dspy_ft.insides.fields import INPUT_KEYS
from pytest_dspy_ft.records.base import SPLITS, Split
from pytest_dspy_ft.text import counted, did_you_mean, excerpt

if TYPE_CHECKING:
    from dspy import Example

    from pytest_dspy_ft.experiment.dataset import Dataset


class UntypableError(ValueError):
    """A value cannot be of a type; the message says why."""


def output_types(program: Any) -> dict[str, Any]:
    """The fields that a program's predictors give, with their types; of a name that two of them use, the last one's."""
    return {name: kind for outputs in _outputs(program) for name, kind in outputs.items()}


def _outputs(program: Any) -> list[dict[str, Any]]:
    signatures = [getattr(predictor, "signature", None) for _, predictor in program.named_predictors()]
    fields = [getattr(signature, "output_fields", {}) for signature in signatures]
    return [{name: info.annotation for name, info in outputs.items()} for outputs in fields]


@dataclass(frozen=True)
class LabelTypes:
    """The types that labels are read as, by field: those of outputs which are not text."""

    adapters: Mapping[str, tuple[Any, TypeAdapter[Any]]] = field(default_factory=dict)

    @classmethod
    def of(cls, program: Any) -> LabelTypes:
        """The types of a program's outputs; without those that two predictors give as different types."""
        outputs = _outputs(program)
        found = {}
        for name, kind in output_types(program).items():
            if all(other[name] == kind for other in outputs if name in other) and not _takes_text(kind):
                try:
                    found[name] = (kind, TypeAdapter(kind))
                except Exception:  # a class that nothing can be read as: labels stay as they are
                    continue
        return cls(found)

    def value(self, name: str, value: Any) -> Any:
        """A label's value as the program gives it: the very same object where that fits already.

        Raises:
            UntypableError: It cannot be of that type.
        """
        kind, adapter = self.adapters[name]
        if is_blank(value):
            return value  # no label: another check's affair
        try:
            if _same(adapter.validate_python(value, strict=True), value):
                return value
        except Exception:  # of the type's own validators, too: read below, or refused with what they say
            pass
        from pytest_dspy_ft.insides.adapters import value_of_type

        try:
            return value_of_type(value, kind)
        except Exception as error:
            raise UntypableError(_why(value, kind, error)) from None

    def example(self, example: Example) -> tuple[Example, dict[str, str]]:
        """An example with typed labels, the same object where nothing changed; and what cannot be, by field."""
        inputs = vars(example).get(INPUT_KEYS) or ()
        changed, wrong = {}, {}
        for name in self.adapters:
            if name in inputs or name not in example.keys():  # noqa: SIM118 - an Example iterates over something else
                continue
            try:
                value = self.value(name, example[name])
            except UntypableError as error:
                wrong[name] = str(error)
                continue
            if value is not example[name]:
                changed[name] = value
        if not changed:
            return example, wrong
        typed = copy_example(example)
        for name, value in changed.items():
            typed[name] = value
        return typed, wrong


def with_typed_labels(dataset: Dataset, program: Any) -> Dataset:
    """A dataset whose labels are of the types that a program gives; the same one where they are already.

    Raises:
        DatasetError: A label cannot be of its type; with its place, and what would be right.
    """
    label_types = LabelTypes.of(program)
    if not label_types.adapters:
        return dataset
    splits: dict[Split, list[Example]] = {split: [] for split in SPLITS}
    wrong: list[str] = []
    changed = False
    for split in SPLITS:
        for index, (example, identity) in enumerate(zip(dataset.held(split), dataset.ids(split), strict=True)):
            typed, problems = label_types.example(example)
            if typed is not example:
                changed = True
                vars(typed)[OWN_ID] = identity
            splits[split].append(typed)
            wrong += [f"{dataset.place(split, index)}: the label {name!r} {why}" for name, why in problems.items()]
    if wrong:
        raise DatasetError(_refusal(wrong))
    marks = {name: str(kind) for name, (kind, _) in label_types.adapters.items()}
    return dataset.with_labels(splits, marks) if changed else dataset


def typed_example(example: Example, label_types: LabelTypes) -> Example:
    """An example that an optimizer was given by itself, with typed labels as far as they can be."""
    return label_types.example(example)[0]


def _same(made: Any, value: Any) -> bool:
    """Whether a type left a value as it was; a whole number is a float's value already."""
    if type(made) is not type(value):
        return isinstance(made, float) and type(value) is int
    if isinstance(value, Mapping):
        return made.keys() == value.keys() and all(_same(made[key], value[key]) for key in value)
    if isinstance(value, list | tuple):
        return len(made) == len(value) and all(map(_same, made, value))
    return True


def _refusal(wrong: list[str]) -> str:
    more = f"\n({counted(len(wrong), 'label')} cannot be; this is the first.)" if len(wrong) > 1 else ""
    return (
        f"{wrong[0]}\nWrite it as the program would, or change the type in the signature; where another form is meant, "
        f"call the field otherwise than the output.{more}"
    )


def _why(value: Any, kind: Any, error: Exception) -> str:
    """Why a value cannot be of a type: the end of a sentence about it."""
    choices = _choices(kind)
    if choices:
        near = did_you_mean(value, choices) if isinstance(value, str) else ""
        given = ", ".join(map(repr, choices))
        return f"is {excerpt(value, 60)}, and the program gives {_name(kind)}: one of {given}{near}"
    reason = ""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        reason = f" ({place + ': ' if place else ''}{first['msg']})"
    return f"is {excerpt(value, 60)}, and the program gives {_name(kind)}{reason}"


def _choices(kind: Any) -> list[Any]:
    """All values that there are of a type; none where they cannot be counted."""
    if isinstance(kind, enum.EnumMeta):
        return [member.value for member in kind]  # type: ignore[var-annotated]
    return list(typing.get_args(kind)) if typing.get_origin(kind) is typing.Literal else []


def _name(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return "a Literal"
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)


def _takes_text(kind: Any) -> bool:
    """True for an output that is text, or may be, or anything; and for the types that DSPy brings along."""
    if kind in (str, Any, object, None, type(None)) or str(getattr(kind, "__module__", "")).startswith("dspy."):
        return True
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return any(_takes_text(part) for part in typing.get_args(kind) if part is not type(None))
    return False
