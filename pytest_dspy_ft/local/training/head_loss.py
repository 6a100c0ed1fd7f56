"""The loss of label tokens from a model's last hidden states, without all their logits in memory at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from pytest_dspy_ft.local.training.attention import shared_logits
from pytest_dspy_ft.local.training.batch import EncodedRow, shared_batch


def mean_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean over all label tokens of the batch, in float32, as Hugging Face's causal LM loss has it."""
    return F.cross_entropy(logits.float(), targets)


class _HeadLoss(torch.autograd.Function):
    """Mean cross entropy of a frozen linear head, a few label tokens at a time.

    The gradient with regard to the hidden states, (softmax(h W^T) - onehot(target)) W / L, is made on the way forward,
    so that no more than a piece of the logits (vocabulary-wide: 192 KiB a token here) is ever in memory.
    """

    PIECE = 256

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
    ) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(targets), _HeadLoss.PIECE):
            piece = slice(start, start + _HeadLoss.PIECE)
            logits = F.linear(hidden[piece], weight, bias).float()
            labels = targets[piece, None]
            top = logits.amax(-1, keepdim=True)
            chosen = logits.gather(-1, labels) - top
            exponentials = logits.sub_(top).exp_()
            norm = exponentials.sum(-1, keepdim=True)
            total += (norm.log() - chosen).sum()
            if grad is not None:
                shares = exponentials.div_(norm)
                shares.scatter_add_(-1, labels, torch.full_like(chosen, -1.0))
                grad[piece] = torch.mm(shares.to(weight.dtype), weight).div_(len(targets))
        ctx.grad = grad
        return total / len(targets)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return ctx.grad * grad.to(ctx.grad.dtype), None, None, None


class Head:
    """The output head of a model, called with hidden states [L, hidden] and targets [L] for their mean loss."""

    def __init__(self, linear: nn.Linear) -> None:
        self.weight, self.bias = linear.weight, linear.bias

    def __call__(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean cross entropy."""
        loss: torch.Tensor = _HeadLoss.apply(hidden, self.weight, self.bias, targets)  # type: ignore[no-untyped-call]
        return loss


def detach_head(model: Any) -> Head | None:
    """Take the head off `model` (a private copy on which `ATTENTION` works): it then returns hidden states as logits.

    None, and nothing changed, if the head is not a frozen linear layer or the model does something to the logits after
    it (a scale, a cap): then what comes out is not the very tensor that went into the head.
    """
    head: Any = model.get_output_embeddings()
    if type(head) is not nn.Linear or head.weight.requires_grad:
        return None
    entered: list[torch.Tensor] = []

    def pass_on(hidden: torch.Tensor) -> torch.Tensor:
        entered.append(hidden)
        return hidden

    layer: Any = head
    layer.forward = pass_on  # of this one module, not of its class; `del` takes it back
    batch = shared_batch([EncodedRow((1, 2, 3), 1), EncodedRow((1, 2, 4), 1)]).to(head.weight.device)
    with torch.no_grad():
        logits = shared_logits(model, batch)
    if len(entered) != 1 or logits is not entered[0]:
        del layer.forward
        return None
    layer.forward = _unchanged
    return Head(head)


def _unchanged(hidden: torch.Tensor) -> torch.Tensor:
    return hidden
