"""Running a Llama-type model on the CPU: `fused_model.py` with `row_attention.py`, as `runner.py` asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from pytest_dspy_ft.local.inference.fused_model import FusedModel
from pytest_dspy_ft.local.inference.row_attention import (
    AttentionShape,
    DecodePass,
    PrefillPass,
    PrefixKeys,
    RowKeys,
    padded_width,
    products_are_stable,
    summed_alike,
)

_PASS_TOKENS = 512
"""Tokens of a prefilling pass: what lies between two products then stays in the CPU's caches."""
_LEAST_TOKENS = 64
_SCORES = 2**24
"""Attention scores of a pass and layer."""


class FusedRunner:
    """See `runner.Runner`."""

    def __init__(self, model: Any) -> None:
        """Join the model's projections, changing it; its other linear layers are packed already."""
        self.model = model
        self._fused = fused = FusedModel(model)
        self._shape = AttentionShape(
            layers=fused.depth,
            kv_heads=fused.kv_heads,
            group=fused.heads // fused.kv_heads,
            head_dim=fused.head_dim,
            scaling=fused.scaling,
        )
        self._dtype: torch.dtype = model.dtype
        self.least = max(fused.least, self._shape.least_rows)

    def is_stable(self) -> bool:
        """Tell whether a row's results do not depend on its batch-mates on this machine, with its threads of now."""
        return products_are_stable(self._shape, self._dtype, torch.get_num_threads())

    def prefix(self, tokens: Sequence[int]) -> PrefixKeys:
        """See `runner.Runner`."""
        store = RowKeys(self._shape, None, 1, len(tokens), self._dtype)
        for _ in self._prefill(store, [0], [tokens]):
            pass
        width = padded_width(len(tokens))
        keys, values = ([tensor[:, :, :width].clone() for tensor in side] for side in (store.keys, store.values))
        for tensor in (*keys, *values):
            tensor[:, :, len(tokens) :] = 0
        return PrefixKeys(len(tokens), tuple(keys), tuple(values))

    def start(
        self, prefix: PrefixKeys | None, tails: Sequence[Sequence[int]]
    ) -> tuple[FusedDecodingBatch, torch.Tensor]:
        """See `runner.Runner`."""
        count = max(len(tails), self.least)
        store = RowKeys(self._shape, prefix, count, max(map(len, tails)) + 16, self._dtype)
        last: list[torch.Tensor] = [torch.empty(0)] * len(tails)
        for rows in self._groups(prefix, tails):
            for hidden in self._prefill(store, rows, [tails[row] for row in rows]):
                for row, of_row in zip(rows, hidden, strict=True):
                    last[row] = of_row
        return FusedDecodingBatch(self._fused, store, len(tails), self.least), self._fused.logits(torch.stack(last))

    def with_model(self, model: Any) -> FusedRunner:
        """See `runner.Runner`."""
        return FusedRunner(model)

    def _pass_tokens(self, seen: int) -> int:
        """The most tokens of a pass whose tokens see so many keys."""
        return max(_LEAST_TOKENS, min(_PASS_TOKENS, _SCORES // (self._shape.heads * (seen + _PASS_TOKENS))))

    def _groups(self, prefix: PrefixKeys | None, tails: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Sort rows into passes: of about one length, so that there is little padding."""
        most = self._pass_tokens(0 if prefix is None else prefix.length)
        group: list[int] = []
        tokens = 0
        for row in sorted(range(len(tails)), key=lambda row: len(tails[row])):
            length = len(tails[row])
            kinds = {summed_alike(prefix, len(tails[other])) for other in (*group[:1], row)}
            if group and (tokens + length > most or len(kinds) > 1):
                yield group
                group, tokens = [], 0
            group.append(row)
            tokens += length
        yield group

    def _prefill(self, store: RowKeys, rows: Sequence[int], tails: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
        """Run rows' first tokens, a long row's in pieces; give what the last layer says of every piece's last tokens.

        Where a row is cut depends on nothing but the prefix before it.
        """
        most = self._pass_tokens(store.offset)
        for first in range(0, max(map(len, tails)), most):
            pieces = [tail[first : first + most] for tail in tails]
            tokens = [token for piece in pieces for token in piece]
            tokens += [0] * (self.least - len(tokens))
            work = PrefillPass(store, rows, [len(piece) for piece in pieces], len(tokens))
            yield self._fused.hidden(tokens, work.positions, work.attend)[work.last]


class FusedDecodingBatch:
    """`DecodingBatch` of a `FusedRunner`; rows that nobody asked for fill it up to the least number."""

    def __init__(self, fused: FusedModel, store: RowKeys, asked: int, least: int) -> None:
        self._fused = fused
        self._store = store
        self._asked = asked
        self._least = least

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """See `runner.DecodingBatch`."""
        work = DecodePass(self._store)
        filled = [*tokens, *[0] * (self._store.count - self._asked)]
        hidden = self._fused.hidden(filled, work.positions, work.attend)
        return self._fused.logits(hidden)[: self._asked]

    def keep(self, order: Sequence[int]) -> None:
        """See `runner.DecodingBatch`."""
        self._asked = len(order)
        self._store.keep(order, max(self._asked, self._least))
