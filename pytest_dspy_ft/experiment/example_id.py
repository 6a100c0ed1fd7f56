"""What an example is: its stable id, and its content as data."""

from __future__ import annotations

import base64
import datetime
import enum
import json
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic import BaseModel, JsonValue

from pytest_dspy_ft.errors import DatasetError
from pytest_dspy_ft.fingerprint import digest_json
from pytest_dspy_ft.insides.fields import INPUT_KEYS
from pytest_dspy_ft.text import did_you_mean, listed

if TYPE_CHECKING:
    from dspy import Example

ID_LENGTH = 16

OWN_ID = "_dspy_ft_id"
"""Under which an example whose labels were read as other values keeps the id of its content before."""


# --- Identity --------------------------------------------------------------------------------------------------------


def example_id(example: Example) -> str:
    """The stable id of an example: a hash of its fields, their values, and which of them are inputs.

    One whose labels were typed (:mod:`~pytest_dspy_ft.experiment.typed_labels`) has the id of its content in the file.

    Fields whose name begins with ``dspy_`` do not count: they are DSPy's own notes, random ones among them.

    Raises:
        DatasetError: Its inputs are not set, or a value has no stable form.
    """
    own = getattr(example, "__dict__", {}).get(OWN_ID)
    return str(own) if own else digest_json(describe(example), length=ID_LENGTH)


def inputs_id(inputs: Mapping[str, JsonValue]) -> str:
    """The id of an example's inputs, as :func:`describe` gives them: equal for examples that differ in labels only."""
    return digest_json({"inputs": inputs}, length=ID_LENGTH)


def describe(example: Example) -> dict[str, dict[str, JsonValue]]:
    """An example as plain JSON data: ``{"inputs": {...}, "expected": {...}}``.

    Raises:
        DatasetError: Its inputs are not set, or a value has no stable form.
    """
    inputs = input_names(example)
    parts: dict[str, dict[str, JsonValue]] = {"inputs": {}, "expected": {}}
    for field, value in example.items():
        try:
            parts["inputs" if field in inputs else "expected"][field] = plain_value(value)
        except (TypeError, ValueError, RecursionError) as error:
            why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise DatasetError(
                f"field {field!r} cannot be told apart by its content: {why}. "
                "Use text, numbers, lists, dicts, sets, dates, bytes, enums or pydantic models"
            ) from None
    return parts


class DescribedExamples(Mapping[str, dict[str, dict[str, JsonValue]]]):
    """What :func:`describe` gives of examples, by their ids: each is described when somebody asks for it.

    Args:
        ids: The ids.
        examples: The examples, which stay as they are.
    """

    def __init__(self, ids: Sequence[str], examples: Sequence[Example]) -> None:
        self._examples = dict(zip(ids, examples, strict=True))

    def __getitem__(self, identity: str) -> dict[str, dict[str, JsonValue]]:
        return describe(self._examples[identity])

    def __iter__(self) -> Iterator[str]:
        return iter(self._examples)

    def __len__(self) -> int:
        return len(self._examples)


def is_blank(value: object) -> bool:
    """True for None and for text without a visible character: how files write that there is no value."""
    return value is None or (isinstance(value, str) and not value.strip())


def input_names(example: Example) -> set[str]:
    """Names of an example's inputs; DatasetError if it is no example, or has none set."""
    import dspy

    if not isinstance(example, dspy.Example):
        kind = type(example).__name__
        raise DatasetError(f"{kind} is not a dspy.Example: write dspy.Example(**row).with_inputs('text')")
    # DSPy has no public way to ask this; dspy.Prediction, though an Example, lacks even the attribute.
    names = getattr(example, INPUT_KEYS, None)
    fields = example.keys()
    if not names:
        raise DatasetError(f"its inputs are not set: add .with_inputs(...) with some of its fields {listed(fields)}")
    for name in sorted(names):
        if name not in fields:
            raise DatasetError(
                f"its input {name!r} is not among its fields {listed(fields)}{did_you_mean(name, fields, most=3)}"
            )
    return set(names)


def plain_value(value: Any) -> JsonValue:
    """A field's value as JSON data made of builtins only.

    Raises:
        TypeError: It is not data.
    """
    kind = type(value)
    if value is None or kind in (str, int, float, bool):
        return value  # type: ignore[no-any-return]
    if isinstance(value, enum.Enum):
        return plain_value(value.value)
    if isinstance(value, BaseModel):
        return plain_value(value.model_dump())
    if isinstance(value, Mapping):
        return {
            k if isinstance(k := plain_value(key), str) else json.dumps(k): plain_value(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [plain_value(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((plain_value(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, Decimal | UUID):
        return str(value)
    if hasattr(value, "toDict"):  # a dspy.Example inside an example
        return plain_value(value.toDict())
    if hasattr(value, "dtype") and hasattr(value, "tolist") and type(plain := value.tolist()) is not kind:
        return plain_value(plain)  # numpy's scalars and arrays, without importing numpy
    for base in (str, int, float):
        if isinstance(value, base):
            return base(value)
    raise TypeError(f"{kind.__module__}.{kind.__qualname__} is not data")
