"""Is a served adapter the trained one? Short greedy prompts, asked there with and without it, and here.

That the adapter answers there is certain where its reply, or the probability of its tokens, is another than the base
model's. A reply that differs from this machine's is no error: another dtype gives other numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from dspy import lm15
from dspy.lm15 import Config, Message, Request

from pytest_dspy_ft.constants import CLOSING_MARKER
from pytest_dspy_ft.errors import LMError
from pytest_dspy_ft.text import shorten

MAX_TOKENS = 32
_SYSTEM = """Your input fields are:
1. `text` (str):
Your output fields are:
1. `label` (str):
All interactions will be structured in the following way, with the appropriate values filled in.

[[ ## text ## ]]
{text}

[[ ## label ## ]]
{label}

[[ ## completed ## ]]"""
_USER = """[[ ## text ## ]]
{text}

Respond with the corresponding output fields, starting with the field `[[ ## label ## ]]`, and then ending with the \
marker for `[[ ## completed ## ]]`."""
Probe = tuple[tuple[str, str], ...]
"""A prompt: role and text of each message."""

PROBES: tuple[Probe, ...] = tuple((("system", _SYSTEM), ("user", _USER.format(text=text))) for text in ("12", "208"))
"""Prompts in the form that adapters of DSPy programs are trained on, where nobody knows the program's own."""

_LEAST_DIFFERENCE = 1e-5
"""Log probabilities of one model that lie further apart than this are another model's, if it repeats itself."""


@dataclass(frozen=True)
class ProbeReply:
    """What a model says to a probe."""

    text: str
    logprobs: tuple[float, ...] = ()
    """Of its tokens; empty where a server does not tell."""

    def distance(self, other: ProbeReply) -> float | None:
        """How far two replies lie apart: infinitely, if their texts differ; None where that cannot be told."""
        if self.text != other.text:
            return float("inf")
        if not self.logprobs or len(self.logprobs) != len(other.logprobs):
            return None
        return max(abs(mine - theirs) for mine, theirs in zip(self.logprobs, other.logprobs, strict=True))


@dataclass(frozen=True)
class HereReplies:
    """What this machine says to the probes, each without the adapter and with it."""

    dtype: str
    """What it computes in; empty where its engine does not say."""
    base: tuple[str, ...]
    adapter: tuple[str, ...]


@dataclass(frozen=True)
class ThereReplies:
    """What a server says to the probes."""

    base: tuple[ProbeReply, ...]
    again: ProbeReply
    """The base model's reply to the first one, asked once more."""
    adapter: tuple[ProbeReply, ...]
    probes: tuple[Probe, ...] = ()
    """What was asked."""

    def answered_by(self) -> Literal["adapter", "base", "unknown"]:
        """Who answers when the adapter is asked for."""
        noise = self.base[0].distance(self.again) or 0.0
        distances = [mine.distance(theirs) for mine, theirs in zip(self.base, self.adapter, strict=True)]
        if noise == float("inf"):  # it does not repeat itself
            return "unknown"
        if any(distance is not None and distance > max(_LEAST_DIFFERENCE, 4 * noise) for distance in distances):
            return "adapter"
        return "base" if any(distance is not None for distance in distances) else "unknown"

    def lost(self, adapter: tuple[ProbeReply, ...]) -> bool:
        """True where the adapter answered, and later replies in its name are the base model's."""
        if self.answered_by() != "adapter":
            return False
        texts = [[reply.text for reply in replies] for replies in (self.base, self.adapter, adapter)]
        if texts[0] != texts[1]:
            return texts[2] == texts[0]
        return replace(self, adapter=adapter).answered_by() == "base"


def told_apart(replies: Sequence[ProbeReply]) -> bool:
    """True where replies of one name to one prompt are those of different weights."""
    texts = {reply.text for reply in replies}
    distances = [one.distance(replies[0]) or 0.0 for one in replies[1:]]
    return len(texts) > 1 or max(distances, default=0.0) > 0.5


def clean(text: str) -> str:
    """A reply as replies are compared: servers and engines end them in different ways."""
    return text.partition(CLOSING_MARKER)[0].strip()


def ask_here(engine: Any, model: str, base: str, probes: Sequence[Probe]) -> HereReplies | None:
    """Ask this machine's own engine.

    Args:
        engine: The engine of an LM that runs here.
        model: The LM's model string, with its adapter.
        base: The same without.
        probes: The prompts.

    Returns:
        None where that would take long, as with a large model that this process has not loaded, or cannot be.
    """
    if not getattr(engine, "quickly_asked", True):
        return None
    try:
        base_texts, texts = (tuple(_answer(engine, name, probe) for probe in probes) for name in (base, model))
    except (LMError, lm15.LM15Error):
        return None
    return HereReplies(str(getattr(engine, "dtype", "")), base_texts, texts)


def _answer(engine: Any, model: str, probe: Probe) -> str:
    said = [Message.assistant(text) if role == "assistant" else Message.user(text) for role, text in probe[1:]]
    request = Request(
        model=model,
        messages=tuple(said),
        system=probe[0][1],
        config=Config(max_tokens=MAX_TOKENS, temperature=0.0, stop=(CLOSING_MARKER,)),
    )
    return clean(engine.complete(request).text or "")


def difference(
    here: HereReplies, there: ThereReplies, in_dtype: Callable[[str], HereReplies | None], server: str
) -> str:
    """How the replies differ from this machine's, in words that name the dtype; empty where they do not.

    Args:
        here: This machine's replies.
        there: The server's.
        in_dtype: Asks this machine in another dtype; None where it cannot be asked so.
        server: The server's address.
    """
    if _same(here, there):
        return ""
    ours = f" in {here.dtype}" if here.dtype else ""
    index = next(i for i in range(len(there.adapter)) if not _same_at(here, there, i))
    with_adapter = there.adapter[index].text != here.adapter[index]
    pair = (there.adapter, here.adapter) if with_adapter else (there.base, here.base)
    theirs, mine = _where_they_part(pair[0][index].text, pair[1][index])
    said = f"with{'' if with_adapter else 'out'} the adapter {theirs} there, {mine} here"
    what = f"the server at {server} answers a probe prompt otherwise than this machine does{ours} ({said})"
    for other in ("float32", "bfloat16"):
        if here.dtype and other != here.dtype and (asked := in_dtype(other)) is not None and _same(asked, there):
            return (
                f"{what}; it answers as this machine would in {other}: its scores are those of {other}, and "
                f"what was trained and evaluated here ran in {here.dtype} (its --dtype says which)"
            )
    return (
        f"{what}: it computes in another dtype (its --dtype says which; in bfloat16, engines round in ways of their "
        "own), or its base model has other weights than the one that --dspy-lm names; its scores may differ from those "
        "made here"
    )


def _same(here: HereReplies, there: ThereReplies) -> bool:
    return all(_same_at(here, there, index) for index in range(len(there.adapter)))


def _same_at(here: HereReplies, there: ThereReplies, index: int) -> bool:
    return (here.base[index], here.adapter[index]) == (there.base[index].text, there.adapter[index].text)


def _where_they_part(one: str, other: str) -> tuple[str, str]:
    """Two texts from a little before the place where they differ."""
    same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    start = max(0, same - 20)
    shown = [f"{'…' if start else ''}{' '.join(text[start:].split())}" for text in (one, other)]
    return repr(shorten(shown[0], 60)), repr(shorten(shown[1], 60))
