"""A model in memory, prepared for inference, and what it keeps from batch to batch: prefixes and merged adapters."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch

from pytest_dspy_ft.local.adapters import AddedAdapter
from pytest_dspy_ft.local.inference.constraint import Grammars
from pytest_dspy_ft.local.inference.generate import Detokenizer, generate
from pytest_dspy_ft.local.inference.merging import merged_model
from pytest_dspy_ft.local.inference.prompts import PromptRenderer
from pytest_dspy_ft.local.inference.requests import CompletionJob
from pytest_dspy_ft.local.inference.runner import Runner, choose_runner
from pytest_dspy_ft.local.weights import LoadedModel

_PREFIX_BYTES = 256 * 2**20
_BATCH_BYTES = 2**30  # keys and values of one batch's own tokens, at most
_MERGED_MODELS = 1  # 0.4 GiB each for the bundled model; two would take the process past 2.5 GiB


class PrefixCache:
    """Keeps the most recently used prefixes, bounded in bytes. For one thread."""

    def __init__(self, max_bytes: int) -> None:
        """Create an empty cache that drops its oldest entries beyond `max_bytes`, but always holds the newest."""
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, Any] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Memory of the entries in bytes."""
        return sum(entry.nbytes for entry in self._entries.values())

    def get(self, key: Hashable, compute: Callable[[], Any]) -> tuple[Any, bool]:
        """Return the entry under `key`, computing it if it is not there, and True if it was there."""
        found = key in self._entries
        if not found:
            self._entries[key] = compute()
        self._entries.move_to_end(key)
        while len(self._entries) > 1 and self.nbytes > self._max_bytes:
            self._entries.popitem(last=False)
        return self._entries[key], found

    def drop(self, condition: Callable[[Any], bool]) -> None:
        """Forget the entries for whose key `condition` is true."""
        for key in [key for key in self._entries if condition(key)]:
            del self._entries[key]


class ServedModel:
    """A model with its tokenizer, its prefixes and its merged adapters.

    For one thread, but for `renderer` and `grammars`.

    Attributes:
        base: Runs the model itself.
        merged: Runs the model with an adapter, by the adapter's name; the least recently used first.
        renderer: Makes prompts.
        grammars: What keeps replies in a format.
        prefixes: States after prefixes, by adapter name ("" for none) and tokens.
        context: The most tokens of a prompt and its reply together.
        device: Where the model is.
    """

    def __init__(self, loaded: LoadedModel, counts: Counter[str]) -> None:
        """Prepare a model for inference.

        Args:
            loaded: A model that nobody else holds; it will be changed.
            counts: Where generations, prefix hits and misses, and adapter merges are counted.
        """
        config = loaded.model.config
        ends: set[int] = set()
        for owner in (loaded.model.generation_config, config, loaded.tokenizer):
            end = getattr(owner, "eos_token_id", None)
            ends.update(end if isinstance(end, (list, tuple)) else [] if end is None else [end])
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._token_bytes: int = 2 * config.num_hidden_layers * heads * size * loaded.model.dtype.itemsize
        self._end_tokens = frozenset(ends)
        self._detokenizer = Detokenizer(loaded.tokenizer)
        self._versions: dict[str, int] = {}
        self._counts = counts
        self.base: Runner = choose_runner(loaded.model, loaded.device)
        self.merged: OrderedDict[str, Runner] = OrderedDict()
        self.renderer = PromptRenderer(loaded.tokenizer)
        self.grammars = Grammars(loaded.tokenizer, config.vocab_size, self._end_tokens)
        self.prefixes = PrefixCache(_PREFIX_BYTES)
        self.context: int = config.max_position_embeddings
        self.device = loaded.device

    def batch_size(self, jobs: Sequence[CompletionJob]) -> int:
        """Return how many of these jobs may run at once for their keys and values to stay bounded; at least 1."""
        width = max(len(job.row.tail) + min(job.row.max_tokens, 256) for job in jobs)
        return max(1, _BATCH_BYTES // (width * self._token_bytes))

    def generate(self, jobs: Sequence[CompletionJob], adapter: AddedAdapter | None) -> None:
        """Generate the replies of jobs that ask for one adapter (None: for the base) and share one prefix.

        Raises:
            LMError: The adapter does not fit the model.
        """
        name, tokens = jobs[0].group
        runner = self.base if adapter is None else self._merged_runner(name, adapter)
        prefix = None
        if tokens:
            with torch.inference_mode():
                prefix, found = self.prefixes.get((name, tokens), lambda: runner.prefix(tokens))
            self._counts["prefix_hits" if found else "prefix_misses"] += 1
            for index, job in enumerate(jobs):
                job.cached_tokens = len(tokens) if found or index else 0
        self._counts["generations"] += 1
        generate(runner, prefix, [job.row for job in jobs], self._end_tokens, self._detokenizer)

    def text(self, tokens: Sequence[int]) -> str:
        """Decode a reply's tokens."""
        return self._detokenizer.text(tokens)

    def _merged_runner(self, name: str, adapter: AddedAdapter) -> Runner:
        if self._versions.get(name) != adapter.version:
            self._forget(name)
        if name not in self.merged:
            while len(self.merged) >= _MERGED_MODELS:
                self._forget(next(iter(self.merged)))
            self._counts["adapter_merges"] += 1
            self.merged[name] = self.base.with_model(merged_model(self.base.model, adapter.folder))
            self._versions[name] = adapter.version
        self.merged.move_to_end(name)
        return self.merged[name]

    def _forget(self, name: str) -> None:
        self.merged.pop(name, None)
        self.prefixes.drop(lambda key: bool(key[0] == name))
