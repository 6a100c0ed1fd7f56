"""Many small records as one: kept as the JSON that they were read from, each made again when somebody asks for it.

An example as a record is some ten objects, and Python's garbage collector goes through all that are alive, again and
again: fifty evaluations of 5 000 examples took more time there than to be read. Packed they are a few blocks of bytes.
"""

from __future__ import annotations

import itertools
import marshal
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from pytest_dspy_ft.records.base import AS_WRITTEN, Record

R = TypeVar("R", bound=Record)

_BLOCK = 64
"""How many rows are packed together: the names of their fields are there once."""


class PackedRows(Sequence[R], Generic[R]):
    """A sequence of records that are made when somebody asks for them; equal to a tuple of the same records.

    Args:
        record: What the rows are.
        rows: Their JSON, as it was written: it has been looked at, and is not looked at again.
    """

    __slots__ = ("_blocks", "_n", "_record")

    def __init__(self, record: type[R], rows: list[Any]) -> None:
        self._record, self._n = record, len(rows)
        self._blocks = tuple(marshal.dumps(rows[start : start + _BLOCK]) for start in range(0, self._n, _BLOCK))

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[R]:
        for block in self._blocks:
            for row in marshal.loads(block):  # made in this process, a moment ago
                yield self._made(row)

    @overload
    def __getitem__(self, place: int) -> R: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[R, ...]: ...

    def __getitem__(self, place: int | slice) -> R | tuple[R, ...]:
        if isinstance(place, slice):
            return tuple(self)[place]
        at = range(self._n)[place]
        return self._made(marshal.loads(self._blocks[at // _BLOCK])[at % _BLOCK])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (PackedRows, tuple)):
            return NotImplemented
        return len(self) == len(other) and all(itertools.starmap(_same, zip(self, other, strict=True)))

    def __repr__(self) -> str:
        return repr(tuple(self))

    def _made(self, row: Any) -> R:
        return self._record.model_validate(row, context=AS_WRITTEN)


def _same(one: object, other: object) -> bool:
    return one == other


class Packable:
    """Marks a field of a record that holds a tuple of records, or the same packed: it is read and written as a tuple.

    Args:
        record: What is in it.
    """

    def __init__(self, record: type[Record]) -> None:
        self._record = record

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        inner = core_schema.tuple_variable_schema(handler.generate_schema(self._record))
        return core_schema.no_info_wrap_validator_function(
            lambda value, validate: value if isinstance(value, PackedRows) else validate(value),
            inner,
            serialization=core_schema.wrap_serializer_function_ser_schema(
                lambda value, write: write(tuple(value)), schema=inner
            ),
        )
