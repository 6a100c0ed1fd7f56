"""One request on its way through the engine: how its tokens are chosen, the row of a batch it becomes, its response."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from dspy import lm15

from pytest_dspy_ft.local.inference.prompts import Prompt
from pytest_dspy_ft.local.inference.scheduler import Job

if TYPE_CHECKING:
    from pytest_dspy_ft.local.inference.constraint import Constraint

_IGNORED = {  # request settings without effect on an LM that only completes text
    "reasoning": "the embedded LM has no reasoning setting",
    "cache": "the embedded LM reuses prefixes by itself",
    "service_tier": "there is no service",
    "user_id": "there is no service",
    "store": "there is no service",
    "extensions": "the embedded LM has no further settings",
}


@dataclass(frozen=True)
class Sampling:
    """Settings by which a row's tokens are chosen.

    Attributes:
        temperature: 0 takes the most likely token.
        top_p: Nucleus size, 1 for all.
        top_k: Only so many most likely tokens, None for all.
        seed: Seeds this row's own random numbers.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int = 0


@dataclass
class DecodingRow:
    """One reply in the making.

    Attributes:
        tail: Prompt tokens after the shared prefix, at least one.
        max_tokens: The most tokens to generate.
        stops: Strings that end the reply.
        sampling: How tokens are chosen.
        constraint: What keeps the reply in a format; None where it is free.
        tokens: The tokens generated, without the end-of-turn token.
        generated: How many tokens were generated, with it.
        finish_reason: Why the row ended; None while it runs.
    """

    tail: list[int]
    max_tokens: int
    stops: tuple[str, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    constraint: Constraint | None = None
    tokens: list[int] = field(default_factory=list)
    generated: int = 0
    finish_reason: Literal["stop", "length"] | None = None

    def __post_init__(self) -> None:
        self.restart()
        self.last_characters = frozenset(stop[-1] for stop in self.stops)
        self.longest_stop = max((len(stop) for stop in self.stops), default=0)

    def restart(self) -> None:
        """Undo what was generated."""
        self.random = random.Random(self.sampling.seed)
        self.tokens, self.generated, self.finish_reason = [], 0, None
        if self.constraint is not None:
            self.constraint.restart()


class CompletionJob(Job):
    """A request that waits for its reply.

    Attributes:
        request: The request.
        adapter: The name of the adapter it asks for, "" for none.
        prompt: Its prompt.
        row: Its reply in the making.
        stops: The request's own stop strings; they are not part of the reply.
        cached_tokens: How many prompt tokens were not computed for this job.
    """

    def __init__(
        self,
        request: lm15.Request,
        adapter: str,
        prompt: Prompt,
        row: DecodingRow,
        stops: tuple[str, ...],
        grammar: str | None = None,
    ) -> None:
        settings = repr((stops, row.sampling, grammar or ""))
        super().__init__((adapter, prompt.prefix, prompt.tail, row.max_tokens, settings))
        self.request = request
        self.adapter = adapter
        self.prompt = prompt
        self.row = row
        self.stops = stops
        self.cached_tokens = 0

    @property
    def group(self) -> tuple[str, tuple[int, ...]]:
        """The adapter and the prefix; jobs that have both in common are computed together."""
        return self.adapter, self.prompt.prefix


def refuse_unsupported(config: lm15.Config) -> None:
    """Refuse settings that would change the reply but that the embedded LM does not have.

    Raises:
        lm15.UnsupportedFeatureError: One of them is set.
    """
    asked = [name for name in ("logprobs",) if getattr(config, name) is not None]
    asked += [name for name in ("frequency_penalty", "presence_penalty") if getattr(config, name)]
    asked += ["probabilities"] if config.probabilities == "required" else []
    if asked:
        raise lm15.UnsupportedFeatureError(f"the embedded LM does not support {', '.join(asked)}")


def make_response(job: CompletionJob, text: str) -> lm15.Response:
    """Answer a job whose row is done with the text of its reply."""
    row, config = job.row, job.request.config
    ignored = [name for name in _IGNORED if getattr(config, name) not in (None, ())]
    return lm15.Response(
        id=None,
        model=job.request.model,
        message=lm15.Message.assistant(text),
        finish_reason=row.finish_reason or "length",
        usage=lm15.Usage(
            input_tokens=len(job.prompt), output_tokens=row.generated, cache_read_tokens=job.cached_tokens
        ),
        adaptations=tuple(
            lm15.Adaptation(field=f"config.{name}", action="dropped", reason=_IGNORED[name]) for name in ignored
        ),
    )


def cut_at_stop(text: str, stops: Sequence[str], kept: Sequence[str]) -> str:
    """Cut a reply at the first stop string.

    Args:
        text: The whole reply.
        stops: Strings left out of the result, with everything after them.
        kept: Strings after which it is cut.
    """
    ends = [text.find(stop) for stop in stops if stop in text]
    ends += [text.find(stop) + len(stop) for stop in kept if stop in text]
    return text[: min(ends)] if ends else text


def derive_seed(*parts: str) -> int:
    """Derive a 64-bit seed from texts; the same texts give the same seed in every process."""
    digest = hashlib.sha256("\x1f".join(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big")
