"""What one call of a program gave, whatever any metric makes of it."""

from __future__ import annotations

from typing import Literal

from pydantic import JsonValue

from pytest_dspy_ft.records.base import Record
from pytest_dspy_ft.records.usage import Usage

OutputFault = Literal["provider", "program"]


REPLY_LENGTH = 20_000
"""Characters of a reply that are kept: of a longer one the beginning and the end, with how much is left out between."""


class Reply(Record):
    """One answer of an LM as it came; where a call asked for several completions, each is one."""

    model: str
    text: str
    """Its text, cut where it is longer than a record keeps."""
    reasoning: str = ""
    """What the model thought first, where the provider gives that apart from the text; cut likewise."""
    tool_calls: list[JsonValue] | None = None
    """The tools that it asks for, as the provider wrote them."""
    finish_reason: str | None = None
    """Why it ended, as the provider says: ``stop``, ``length``, ...; None where it says nothing."""
    input_tokens: int | None = None
    """Of all completions of the call together."""
    output_tokens: int | None = None
    limit: int | None = None
    """The longest reply that was asked for, in tokens; None where the call set no limit."""
    cut_off: bool = False
    """A limit on its tokens cut it off."""
    fallback: bool = False
    """Asked by the JSON adapter, since the adapter could not read what was answered before."""


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
    values: dict[str, JsonValue] | None = None
    """The prediction as tagged JSON that gives the same one again; None where there is none, or ``unkept`` says why."""
    unkept: str = ""
    """Why the prediction cannot be given again; empty where it can. It is measured anew then."""
    inputs: dict[str, JsonValue] = {}
    """What went in, as people read it; long texts cut as replies are."""
    expected: dict[str, JsonValue] = {}
    """The example's labels."""

    @property
    def call_id(self) -> str:
        """The id of this call of the program: the example's, and which repeat it is."""
        return self.id if self.repeat is None else f"{self.id}#{self.repeat}"

    @property
    def scorable(self) -> bool:
        """True where there is a prediction that a metric is to judge."""
        return self.error is None


class OutputsFacts(Record):
    """What is known of all outputs of one evaluation together."""

    lm: str
    """The model that answered."""
    build: str = ""
    """Content hash of the build that was run; empty for a program that is no stage."""
    session: str = ""
    """The session that ran it last."""
    wall_seconds: float = 0.0


def shortened_middle(text: str, limit: int = REPLY_LENGTH) -> str:
    """A text's beginning and end where it is longer than the limit: where it stops is where it was cut off."""
    if len(text) <= limit:
        return text
    head, tail = limit * 3 // 4, limit // 4
    return f"{text[:head]}\n… ({len(text) - head - tail} characters left out) …\n{text[-tail:]}"
