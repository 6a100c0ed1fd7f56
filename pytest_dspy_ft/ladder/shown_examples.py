"""What messages show of examples: inputs, labels and replies, which are read when they are shown."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pytest_dspy_ft.records.output import Reply


class ShownExamples(Mapping[str, Mapping[str, Any]]):
    """What messages may show of examples; replies are read when they are shown.

    Args:
        described: Inputs and labels by id.
        replies: Gives the LM's answers to an example, from its id and a stage.
    """

    def __init__(self, described: Mapping[str, Mapping[str, Any]], replies: Callable[[str, str], list[Reply]]) -> None:
        self._described, self._replies = described, replies

    def __getitem__(self, example: str) -> Mapping[str, Any]:
        return {**self._described[example], "replies": functools.partial(self._replies, example)}

    def __iter__(self) -> Iterator[str]:
        return iter(self._described)

    def __len__(self) -> int:
        return len(self._described)
