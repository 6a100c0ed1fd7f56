"""Running a causal LM on a batch of rows that share a prefix, one step at a time.

`FusedRunner` (`fused_runner.py`) has a forward pass of its own, for Llama-type models in bfloat16 on the CPU.
`PrefixRunner` replaces the model's attention (`attention.py`); `PlainRunner` is for models that do not allow it, and
copies the prefix for every row. `choose_runner` tries them in this order, and checks logits against the model's own.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from pytest_dspy_ft.local.compat import attention_name, can_pack
from pytest_dspy_ft.local.inference.attention import ATTENTION, Prefix, RowStore
from pytest_dspy_ft.local.inference.fused_model import is_fusable, join_projections, part_projections
from pytest_dspy_ft.local.inference.fused_runner import FusedRunner
from pytest_dspy_ft.local.inference.packed_linear import pack_linears

_logger = logging.getLogger(__name__)

# Prefill passes are cut at about this many tokens: temporaries then stay in the CPU's caches.
_PREFILL_TOKENS = 512


class DecodingBatch(Protocol):
    """A batch in progress."""

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Append one token to every row; return the next logits, (B, vocabulary)."""

    def keep(self, order: Sequence[int]) -> None:
        """Drop rows: slot i holds afterwards what slot order[i] held."""


class Runner(Protocol):
    """A model that can compute prefixes once and continue them."""

    model: Any

    def prefix(self, tokens: Sequence[int]) -> Any:
        """Compute the state after a prefix of at least one token; it has `length` (tokens) and `nbytes`."""

    def start(self, prefix: Any, tails: Sequence[Sequence[int]]) -> tuple[DecodingBatch, torch.Tensor]:
        """Continue a prefix (None: nothing) by every tail; return the rows and the next logits, (B, vocabulary)."""

    def with_model(self, model: Any) -> Runner:
        """Return a runner of the same kind for another model of the same shape."""


class PrefixRunner:
    """Shares one copy of the prefix's keys and values among all rows."""

    def __init__(self, model: Any, device: str) -> None:
        self.model = model
        self.device = torch.device(device)

    def prefix(self, tokens: Sequence[int]) -> Prefix:
        """See `Runner`."""
        length = len(tokens)
        store = RowStore(None, 1, length, self.device)
        store.begin_prefill(0, [length])
        self._forward(list(tokens), store, store.last)
        keys, values = ([tensor[:, :length].clone() for tensor in side] for side in (store.keys, store.values))
        return Prefix(length, tuple(keys), tuple(values))

    def start(self, prefix: Prefix | None, tails: Sequence[Sequence[int]]) -> tuple[PrefixDecodingBatch, torch.Tensor]:
        """See `Runner`."""
        store = RowStore(prefix, len(tails), max(map(len, tails)), self.device)
        logits = []
        first = 0
        while first < len(tails):
            after, tokens = first + 1, len(tails[first])
            while after < len(tails) and tokens + len(tails[after]) <= _PREFILL_TOKENS:
                tokens += len(tails[after])
                after += 1
            chunk = tails[first:after]
            store.begin_prefill(first, [len(tail) for tail in chunk])
            logits.append(self._forward([token for tail in chunk for token in tail], store, store.last))
            first = after
        return PrefixDecodingBatch(self, store), torch.cat(logits)

    def with_model(self, model: Any) -> PrefixRunner:
        """See `Runner`."""
        return PrefixRunner(model, str(self.device))

    def _forward(self, tokens: Sequence[int], store: RowStore, places: torch.Tensor | None = None) -> torch.Tensor:
        """Run N tokens of any rows; return the logits at some places of them (None: at all), (places, vocabulary)."""
        output = self.model(
            input_ids=torch.tensor([tokens], device=self.device),
            position_ids=(store.positions + store.offset)[None],
            use_cache=False,
            logits_to_keep=0 if places is None else places,
            row_store=store,
        )
        logits: torch.Tensor = output.logits[0]
        return logits


class PrefixDecodingBatch:
    """`DecodingBatch` of a `PrefixRunner`."""

    def __init__(self, runner: PrefixRunner, store: RowStore) -> None:
        self._runner = runner
        self._store = store

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """See `DecodingBatch`."""
        self._store.begin_step(self._store.keys[0].dtype)
        return self._runner._forward(tokens, self._store)

    def keep(self, order: Sequence[int]) -> None:
        """See `DecodingBatch`."""
        self._store.keep(order)


class PlainPrefix:
    """The state after a prefix in a model's own cache format."""

    def __init__(self, cache: Any, length: int) -> None:
        self.cache = cache
        self.length = length
        tensors = (getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values"))
        self.nbytes = sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor))


class PlainRunner:
    """Copies the prefix for every row and pads tails on the left: slower, but asks nothing special of the model.

    Where layers see a window only, padding would push the prefix out of it, so such rows run one after the other.
    """

    def __init__(self, model: Any, device: str) -> None:
        self.model = model
        self.pads = _has_full_attention(model.config)
        self.device = torch.device(device)
        parameters = inspect.signature(model.forward).parameters
        self.takes_positions = "position_ids" in parameters
        self.keeps_logits = "logits_to_keep" in parameters

    def prefix(self, tokens: Sequence[int]) -> PlainPrefix:
        """See `Runner`."""
        mask = torch.ones(1, len(tokens), dtype=torch.long, device=self.device)
        _, cache = self.forward(torch.tensor([tokens], device=self.device), mask, None)
        return PlainPrefix(cache, len(tokens))

    def start(
        self, prefix: PlainPrefix | None, tails: Sequence[Sequence[int]]
    ) -> tuple[PlainDecodingBatch | SerialDecodingBatch, torch.Tensor]:
        """See `Runner`."""
        if len(tails) > 1 and not self.pads:
            started = [self.start(prefix, [tail]) for tail in tails]
            return SerialDecodingBatch([rows for rows, _ in started]), torch.cat([logits for _, logits in started])
        width, shared = max(map(len, tails)), 0 if prefix is None else prefix.length
        ids = torch.tensor([[0] * (width - len(tail)) + list(tail) for tail in tails], device=self.device)
        mask = torch.ones(len(tails), shared + width, dtype=torch.long, device=self.device)
        for row, tail in enumerate(tails):
            mask[row, shared : shared + width - len(tail)] = 0
        cache = None
        if prefix is not None:
            cache = copy.deepcopy(prefix.cache)
            cache.batch_repeat_interleave(len(tails))
        logits, cache = self.forward(ids, mask, cache)
        return PlainDecodingBatch(self, cache, mask), logits

    def with_model(self, model: Any) -> PlainRunner:
        """See `Runner`."""
        return PlainRunner(model, str(self.device))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
        """Run (B, T) tokens under a (B, stored + T) mask; return the last logits, (B, vocabulary), and the cache."""
        options: dict[str, Any] = {}
        if self.takes_positions:
            options["position_ids"] = (mask.cumsum(1) - 1).clamp_(min=0)[:, -ids.shape[1] :]
        if self.keeps_logits:
            options["logits_to_keep"] = 1
        output = self.model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **options)
        return output.logits[:, -1], output.past_key_values


class PlainDecodingBatch:
    """`DecodingBatch` of a `PlainRunner`."""

    def __init__(self, runner: PlainRunner, cache: Any, mask: torch.Tensor) -> None:
        self._runner = runner
        self._cache = cache
        self._mask = mask

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """See `DecodingBatch`."""
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=1)
        ids = torch.tensor(tokens, device=self._runner.device)[:, None]
        logits, self._cache = self._runner.forward(ids, self._mask, self._cache)
        return logits

    def keep(self, order: Sequence[int]) -> None:
        """See `DecodingBatch`."""
        indices = torch.tensor(list(order), device=self._runner.device)
        self._cache.batch_select_indices(indices)
        self._mask = self._mask[indices]


class SerialDecodingBatch:
    """`DecodingBatch` that are batches of one."""

    def __init__(self, rows: Sequence[DecodingBatch]) -> None:
        self._rows = rows

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """See `DecodingBatch`."""
        return torch.cat([row.step([token]) for row, token in zip(self._rows, tokens, strict=True)])

    def keep(self, order: Sequence[int]) -> None:
        """See `DecodingBatch`."""
        self._rows = [self._rows[slot] for slot in order]


def choose_runner(model: Any, device: str) -> Runner:
    """Prepare a model for inference, changing it: its linear layers are packed and its attention replaced if possible.

    Args:
        model: A causal LM that nobody else holds.
        device: Where it is.
    """
    with torch.inference_mode():
        expected = _probe_plain(model, device)
        if can_pack(device, model.dtype):
            if fused := _fused_runner(model, expected):
                return fused
            pack_linears(model)
        original = attention_name(model)
        if _has_full_attention(model.config):
            runner = PrefixRunner(model, device)
            try:
                model.set_attn_implementation(ATTENTION)
                if _relative_difference(_probe(runner), expected) <= _tolerance(model):
                    return runner
            except Exception as exc:  # whatever an unknown architecture objects to, the plain runner serves it
                _logger.info("shared-prefix attention is off for %s: %s", type(model).__name__, exc)
            model.set_attn_implementation(original)
        return PlainRunner(model, device)


def _fused_runner(model: Any, expected: torch.Tensor) -> Runner | None:
    """Pack a model for a `FusedRunner` if it is of the type, its dtype gains by it, and its logits come out right."""
    if model.dtype != torch.bfloat16 or not is_fusable(model):
        return None
    join_projections(model)
    pack_linears(model)
    try:
        runner = FusedRunner(model)
        if _relative_difference(_probe(runner), expected) <= _tolerance(model) and runner.is_stable():
            return runner
    except Exception as exc:
        _logger.info("the fused forward pass is off for %s: %s", type(model).__name__, exc)
    part_projections(model)
    return None


def _probe_tokens(model: Any) -> tuple[list[int], list[list[int]], list[int]]:
    """A prefix, two tails and what follows each: tokens from all over the vocabulary.

    The first ones of a vocabulary are often special tokens that hardly occurred in training, and on which bfloat16 is
    off by a quarter of the logits' range, whatever the attention.
    """
    ids = [(1009 + 7919 * i) % model.config.vocab_size for i in range(12)]
    return ids[:5], [ids[5:8], ids[8:10]], ids[10:]


def _probe(runner: Runner) -> torch.Tensor:
    prefix, tails, after = _probe_tokens(runner.model)
    rows, logits = runner.start(runner.prefix(prefix), tails)
    return torch.cat([logits, rows.step(after)]).float()


def _probe_plain(model: Any, device: str) -> torch.Tensor:
    prefix, tails, after = _probe_tokens(model)
    sequences = [[*prefix, *tail] for tail in tails]
    sequences += [[*sequence, token] for sequence, token in zip(sequences, after, strict=True)]
    logits = [model(torch.tensor([ids], device=device), use_cache=False).logits[0, -1] for ids in sequences]
    return torch.stack(logits).float()


def _has_full_attention(config: Any) -> bool:
    """Tell whether every layer is plain full attention; a window would not show on the probe's few tokens."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return all(kind == "full_attention" for kind in kinds)
    return getattr(config, "sliding_window", None) is None


def _relative_difference(logits: torch.Tensor, expected: torch.Tensor) -> float:
    """The difference of (rows, vocabulary) logits as a share of their spread; a shift of a whole row is none."""
    logits, expected = (side - side.mean(-1, keepdim=True) for side in (logits, expected))
    return float((logits - expected).norm() / expected.norm())


def _tolerance(model: Any) -> float:
    """The difference rounding may make; in bfloat16 SmolLM2's logits differ by 0.03, with two tokens swapped by 0.3."""
    return 1e-3 if model.dtype == torch.float32 else 0.1
