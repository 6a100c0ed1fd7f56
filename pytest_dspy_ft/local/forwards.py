"""Modules that compute something else than their class does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def give_forward(module: Any, forward: Callable[..., torch.Tensor]) -> None:
    """Another forward for this one module, not for its class; `del module.forward` takes it back."""
    module.forward = forward
