"""The last decoder layer, computed where a label is predicted only: no other token's output is read."""

from __future__ import annotations

from typing import Any

import torch

from pytest_dspy_ft.local.training.batch import PrefixLayout
from pytest_dspy_ft.local.training.fused_attention import FusedAttention

_PARTS = {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"}


class LastLayer:
    """A layer of Llama's kind; keys and values of all tokens, everything after the attention at the labels' places."""

    def __init__(self, module: Any, attention: FusedAttention) -> None:
        self.module, self.attention = module, attention
        self.usual: Any = module.forward

    def __call__(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        shared_prefix: PrefixLayout | None = None,
        label_places: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Return [1, N, hidden]; 0 where no label is predicted, if `label_places` says where (each place once)."""
        if label_places is None or not self.attention.takes(position_embeddings, shared_prefix):
            usual: torch.Tensor = self.usual(
                hidden_states, position_embeddings=position_embeddings, shared_prefix=shared_prefix, **kwargs
            )
            return usual
        layer = self.module
        attended, _ = self.attention(
            layer.input_layernorm(hidden_states),
            position_embeddings=position_embeddings,
            shared_prefix=shared_prefix,
            only_at=label_places,
        )
        kept = hidden_states.index_select(1, label_places) + attended
        kept = kept + layer.mlp(layer.post_attention_layernorm(kept))
        return torch.zeros_like(hidden_states).index_copy(1, label_places, kept)


def last_layer(module: Any) -> LastLayer | None:
    """Make one of a decoder layer that is built like Llama's, and whose attention is fused; None of another."""
    if {name for name, _ in module.named_children()} != _PARTS:
        return None
    attention = module.self_attn.forward
    return LastLayer(module, attention) if isinstance(attention, FusedAttention) else None
