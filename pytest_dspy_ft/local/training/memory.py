"""Bounding the memory of a training: layers that compute their activations again, and freed memory given back."""

from __future__ import annotations

import math

import torch
from torch import nn

from pytest_dspy_ft.local.compat import checkpointed_layers
from pytest_dspy_ft.local.process_memory import resident_memory, return_memory
from pytest_dspy_ft.local.training.attention import shared_logits
from pytest_dspy_ft.local.training.batch import EncodedRow, PrefixLayout, shared_batch
from pytest_dspy_ft.local.training.fused_attention import FusedAttention


class Recomputation:
    """Bounds the memory of a step: as many layers as needed forget their activations and compute them again.

    What the layers keep for the backward pass is measured once, on two short batches; beyond what they keep of any
    batch it grows with the number of tokens, and with the number of attention scores where these are kept.
    """

    def __init__(self, model: nn.Module, budget: float) -> None:
        """Measure how much memory the activations of a token take.

        Args:
            model: A model with LoRA, ready to train, whose attention is `ATTENTION`.
            budget: Bytes that the activations of a step may take, roughly.
        """
        self.budget = budget
        self.layers = checkpointed_layers(model)
        short, long = (_kept(model, tail) for tail in (8, 40))
        self.per_token = (long[0] - short[0]) / (long[1] - short[1])
        forwards = (module.forward for module in model.modules())
        self.attentions = [forward for forward in forwards if isinstance(forward, FusedAttention)]

    def prepare(self, layout: PrefixLayout) -> int:
        """Choose the layers to compute twice in a step over such a batch; returns how many."""
        if not self.layers:
            return 0
        kept = self.per_token * (layout.prefix + sum(layout.tails))
        kept += sum(attention.kept_bytes(layout) for attention in self.attentions)
        excess = kept - self.budget
        one = kept / len(self.layers)
        count = min(max(math.ceil(excess / one), 0), len(self.layers)) if excess > 0 else 0
        for i, layer in enumerate(self.layers):
            # The first ones: their recomputation comes last, when the others' activations are gone.
            layer.gradient_checkpointing = i < count
        return count


class FreedMemory:
    """Gives freed memory back to the system when much of it has piled up.

    Layers and batches differ in what they take, so glibc finds no use for some of what earlier ones freed: while the
    layers of one batch of long rows ran, a process grew by three times what they kept. Giving all back after every step
    costs more than a tenth of the step: the next one asks for the same pages again.
    """

    MOST = 2**28
    """Bytes that a process may grow beyond what it took when it last gave memory back, or at the start."""

    def __init__(self) -> None:
        self.limit = 0

    def watch(self, model: nn.Module) -> None:
        """Look before every layer of `model`, also one that is computed again."""
        for layer in checkpointed_layers(model):
            layer.register_forward_pre_hook(lambda *_: self.look())

    def look(self) -> None:
        """Look at this process's memory."""
        taken = resident_memory()
        if taken > self.limit:
            if self.limit:  # not the first look
                return_memory()
                taken = resident_memory()
            self.limit = taken + self.MOST


def _kept(model: nn.Module, tail: int) -> tuple[int, int]:
    """Bytes that the forward pass keeps for the backward pass of a batch of two tails, and the batch's tokens."""
    rows = [EncodedRow((*range(1, 33), *range(40 + i, 40 + tail)), 30 + tail) for i in range(2)]
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
    return sum(kept.values()), batch.tokens
