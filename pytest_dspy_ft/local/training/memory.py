"""Gradient checkpointing: bounding the memory of a step's activations by computing some layers a second time."""

from __future__ import annotations

import math

import torch
from torch import nn

from pytest_dspy_ft.local.compat import checkpointed_layers
from pytest_dspy_ft.local.training.attention import shared_logits
from pytest_dspy_ft.local.training.batch import EncodedRow, shared_batch


class Recomputation:
    """Bounds the memory of a step: as many layers as needed forget their activations and compute them again.

    What a layer keeps for the backward pass is measured once, on a short batch; it grows with the number of tokens.
    """

    def __init__(self, model: nn.Module, budget: float) -> None:
        """Measure how much memory the activations of a token take.

        Args:
            model: A model with LoRA, ready to train, whose attention is `ATTENTION`.
            budget: Bytes that the activations of a step may take, roughly.
        """
        self.budget = budget
        self.layers = checkpointed_layers(model)
        rows = [EncodedRow((*range(1, 33), *range(40 + i, 72)), 63) for i in range(2)]
        batch = shared_batch(rows).to(next(model.parameters()).device)
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        kept: dict[int, int] = {}

        def count(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor.detach()  # the tensor itself, saved by the node that made it, would keep the graph for ever

        was_training = model.training
        model.train()
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            shared_logits(model, batch)
        model.train(was_training)
        self.per_token = sum(kept.values()) / batch.tokens

    def prepare(self, tokens: int) -> int:
        """Choose the layers to compute twice in a step of `tokens` tokens; returns how many."""
        if not self.layers:
            return 0
        excess = self.per_token * tokens - self.budget
        one = self.per_token * tokens / len(self.layers)
        count = min(max(math.ceil(excess / one), 0), len(self.layers)) if excess > 0 else 0
        for i, layer in enumerate(self.layers):
            # The first ones: their recomputation comes last, when the others' activations are gone.
            layer.gradient_checkpointing = i < count
        return count
