"""Keeping a reply within a grammar: which tokens may come next, and which must."""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from dspy import lm15


class Grammars:
    """A tokenizer's grammars, each compiled once. Safe to use from many threads."""

    def __init__(self, tokenizer: Any, vocabulary: int, end_tokens: Collection[int]) -> None:
        """Prepare nothing: the tokenizer is read with the first grammar.

        Args:
            tokenizer: A fast tokenizer of transformers.
            vocabulary: How many logits a step gives.
            end_tokens: Tokens that end a turn.
        """
        self._tokenizer, self._vocabulary, self._end_tokens = tokenizer, vocabulary, sorted(end_tokens)
        self._compiled = functools.lru_cache(maxsize=64)(self._compile)

    def constraint(self, grammar: str) -> Constraint:
        """A reply's own way through a grammar.

        Raises:
            lm15.UnsupportedFeatureError: The grammar, or the JSON schema in it, asks for what cannot be kept to.
        """
        return Constraint(self._compiled(grammar))

    @functools.cached_property
    def _readable(self) -> Any:
        from llguidance.hf import from_tokenizer

        return from_tokenizer(self._tokenizer, n_vocab=self._vocabulary, eos_token=self._end_tokens)

    def _compile(self, grammar: str) -> Any:
        from llguidance import LLMatcher

        matcher = LLMatcher(self._readable, grammar, log_level=0)
        if matcher.is_error():
            reason = matcher.get_error().split("\n")[0]
            raise lm15.UnsupportedFeatureError(f"the embedded LM cannot keep to this response_format: {reason}")
        return matcher


class Constraint:
    """The state of one reply within its grammar."""

    def __init__(self, matcher: Any) -> None:
        self._start = matcher
        self.restart()

    def restart(self) -> None:
        """Begin anew."""
        self._matcher = self._start.deep_copy()

    @property
    def complete(self) -> bool:
        """True where nothing may follow but the end of the turn."""
        return bool(self._matcher.is_stopped())

    def forced(self) -> list[int]:
        """The tokens that come next whatever the model says; none where it has a choice."""
        tokens: list[int] = self._matcher.compute_ff_tokens()
        return tokens

    def restrict(self, logits: torch.Tensor) -> torch.Tensor:
        """One row's logits, (vocabulary,), with minus infinity for tokens that may not come next."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: logits.shape[-1]].view(np.bool_)
        return logits.masked_fill(~torch.from_numpy(allowed).to(logits.device), float("-inf"))

    def accept(self, token: int) -> None:
        """Go on by a token that was generated.

        Raises:
            RuntimeError: The token was not allowed, or the grammar grew beyond the limits of the matcher.
        """
        if not self._matcher.consume_token(token):
            raise RuntimeError(f"the reply left its format: {self._matcher.get_error()}")
