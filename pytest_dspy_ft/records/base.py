"""What all records share: their base class, and the words for splits and kinds of work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, model_validator

from pytest_dspy_ft.files import LONE_SURROGATES
from pytest_dspy_ft.redaction import redact_often
from pytest_dspy_ft.text import LINE, shorten

Split = Literal["train", "dev", "test"]

Kind = Literal["baseline", "prompt", "finetune", "better_together"]

KINDS: tuple[Kind, ...] = ("baseline", "prompt", "finetune", "better_together")

SPLITS: tuple[Split, ...] = ("train", "dev", "test")

AS_WRITTEN: Final = {"as": "written"}
"""Context of a validation: the values are those of a record that was written, read again without the keys in it."""

_LONGEST_INTEGER = 14_000
"""Bits: a little less than the 4300 digits that Python reads and writes."""

_DEEPEST = 100

_WRITABLE = frozenset({float, bool, type(None)})
"""Types of which every value can be written as it is; so can a record, which has been through this."""


class Record(BaseModel):
    """Base of all records: immutable, writable, without keys; an unknown field is an error, never a silent loss."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    def __repr__(self) -> str:
        """What was set, on one line of a notebook."""
        told = ", ".join(f"{name}={value!r}" for name in type(self).model_fields if (value := getattr(self, name)))
        return shorten(f"{type(self).__name__}({told})", LINE)

    def __str__(self) -> str:
        return repr(self)

    @model_validator(mode="before")
    @classmethod
    def _hold_what_can_be_written(cls, values: Any, info: ValidationInfo) -> Any:
        if info.context is AS_WRITTEN:
            return values
        # Not through `writable` as a whole: the names are those of the fields, and records come by the thousand.
        return {name: writable(value) for name, value in values.items()} if type(values) is dict else writable(values)


def writable(value: Any, depth: int = 0) -> Any:
    r"""The value as a file can hold it, at any depth.

    A lone surrogate, which UTF-8 has no bytes for, becomes the text ``\ud83d``. An integer of more digits than Python
    reads again, and what is nested deeper than pydantic goes, become text. No key is in it: a reply may echo one.
    """
    if type(value) in _WRITABLE or isinstance(value, Record):
        return value
    if isinstance(value, str):
        return redact_often(value if value.isascii() else value.encode("utf-8", LONE_SURROGATES).decode("utf-8"))
    if isinstance(value, int):
        return value if value.bit_length() < _LONGEST_INTEGER else hex(value)
    if isinstance(value, (dict, list, tuple, Mapping)):
        if depth > _DEEPEST:
            return f"<{type(value).__name__} nested too deeply to be kept>"
        if isinstance(value, (dict, Mapping)):
            return {writable(name): writable(item, depth + 1) for name, item in value.items()}
        return type(value)([writable(item, depth + 1) for item in value]) if type(value) in (list, tuple) else value
    return value


def first_problem(error: ValidationError) -> str:
    """Where a record is not what it should be, and why: the first place that was found."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
