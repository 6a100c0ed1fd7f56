"""What one call of a program gave, whatever any metric makes of it."""

from __future__ import annotations

from typing import Literal

from pydantic import JsonValue

from pytest_dspy_ft.records.base import Record
from pytest_dspy_ft.records.usage import Usage

OutputFault = Literal["provider", "program"]


class Reply(Record):
    """One answer of an LM as it came."""

    model: str
    text: str
    """Its text, cut where it is longer than a record keeps."""
    finish_reason: str | None = None
    """Why it ended, as the provider says: ``stop``, ``length``, ...; None where it says nothing."""
    input_tokens: int | None = None
    output_tokens: int | None = None


class Output(Record):
    """What a program gave for one example, called once."""

    id: str
    """The example's stable id."""
    repeat: int | None = None
    """Which repeat this is, from 0; None where the example is evaluated once."""
    prediction: dict[str, JsonValue] | None = None
    """The fields as people read them; None where there is no prediction."""
    unparsed: bool = False
    """The LM answered, and the adapter could not read the answer."""
    error: str | None = None
    """Why there is no prediction, or why the one that is there does not count."""
    fault: OutputFault | None = None
    """Who failed; None where nobody did, and of an unreadable answer."""
    usage: Usage = Usage()
    replies: tuple[Reply, ...] = ()
    """The LM's answers in the order in which they came."""

    @property
    def call_id(self) -> str:
        """The id of this call of the program: the example's, and which repeat it is."""
        return self.id if self.repeat is None else f"{self.id}#{self.repeat}"

    @property
    def scorable(self) -> bool:
        """True where there is a prediction that a metric is to judge."""
        return self.error is None
