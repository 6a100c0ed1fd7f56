"""A module of Llama's kind of attention with LoRA, from its input to its output projection, over a shared prefix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pytest_dspy_ft.local.compat import LoraFactors
from pytest_dspy_ft.local.training.batch import PrefixLayout
from pytest_dspy_ft.local.training.dense_attention import MOST_KEPT, MOST_SCORES, Heads, dense_attention, scores
from pytest_dspy_ft.local.training.lora_linear import JointLinear, joint_linear


class FusedAttention:
    """The projections of queries, keys and values as one product, and attention over a shared prefix.

    Where the batch is laid out in the usual way, or is too large, the module's own forward runs instead.
    """

    def __init__(self, module: Any, layers: list[LoraFactors], pack: bool) -> None:
        self.projections = JointLinear(layers, pack)
        width = int(module.head_dim)
        self.heads = Heads(layers[0].weight.shape[0] // width, layers[1].weight.shape[0] // width, width)
        self.scale = float(module.scaling)
        self.norms = [getattr(module, name, None) for name in ("q_norm", "k_norm")]
        self.usual: Callable[..., Any] = module.forward
        self.project_out: nn.Module = module.o_proj

    def __call__(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        shared_prefix: PrefixLayout | None = None,
        only_at: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """What a module of transformers' attention returns; hidden_states [1, N, hidden].

        With `only_at`, places in the batch: [1, len(only_at), hidden], the output at these alone.
        """
        if position_embeddings is None or shared_prefix is None or not self.takes(position_embeddings, shared_prefix):
            result: tuple[torch.Tensor, None] = self.usual(
                hidden_states=hidden_states,
                position_embeddings=position_embeddings,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                shared_prefix=shared_prefix,
                **kwargs,
            )
            return result
        projected = self._normalized(joint_linear(self.projections, hidden_states)[0])
        cos, sin = position_embeddings
        attended = dense_attention(projected, cos[0], sin[0], shared_prefix, self.heads, self.scale)
        if only_at is not None:
            attended = attended.index_select(0, only_at)
        return self.project_out(attended[None]), None

    def takes(self, position_embeddings: tuple[torch.Tensor, torch.Tensor] | None, layout: PrefixLayout | None) -> bool:
        """Tell whether it runs by itself on such a batch; else the module's own forward does, and gives all places."""
        if position_embeddings is None or layout is None:
            return False
        return position_embeddings[0].shape[-1] == self.heads.width and scores(layout, self.heads.query) <= MOST_SCORES

    def kept_bytes(self, layout: PrefixLayout) -> int:
        """How much memory the probabilities take that are kept for the backward pass of such a batch."""
        count = scores(layout, self.heads.query)
        return count * self.projections.a.element_size() if count <= MOST_KEPT else 0

    def _normalized(self, projected: torch.Tensor) -> torch.Tensor:
        """Apply the norms over each query's and key's head, where the module has them."""
        if self.norms == [None, None]:
            return projected
        query, key, width = self.heads
        parts = list(projected.split_with_sizes([query * width, key * width, key * width], 1))
        for i, norm in enumerate(self.norms):
            if norm is not None:
                heads = parts[i].reshape(len(projected), -1, width)
                parts[i] = norm(heads).reshape(len(projected), -1)
        return torch.cat(parts, 1)
