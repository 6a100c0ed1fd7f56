"""Which layers of a model get a forward and backward of our own: those that are seen to compute the same.

A layer is recognized by its attributes, then tried out: a class may do more than its attributes tell. What is not
recognized, or gives something else, keeps the forward it has.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from pytest_dspy_ft.local.compat import LoraFactors, checkpointed_layers, lora_factors
from pytest_dspy_ft.local.training.batch import PrefixLayout
from pytest_dspy_ft.local.training.frozen_weight import MOST_PACKED, multiplies_packed
from pytest_dspy_ft.local.training.fused_attention import FusedAttention
from pytest_dspy_ft.local.training.gated_mlp import GatedMlp, activation_of
from pytest_dspy_ft.local.training.last_layer import last_layer
from pytest_dspy_ft.local.training.lora_linear import JointLinear, joint_linear, refresh
from pytest_dspy_ft.local.training.rms_norm import rms_norm


def fuse(model: Any) -> None:
    """Give the layers of `model`, whose attention is `ATTENTION` and whose weights are frozen, the fused forward.

    Float32: linear layers with LoRA, and gated MLPs of them. Bfloat16 on a CPU that multiplies it: these, attention
    from its projections on, and RMS norms. Everything else (dropout, DoRA, other dtypes, ...) stays as it is.
    """
    adapted = [module for module in model.modules() if lora_factors(module) is not None]
    weights = [module.base_layer.weight for module in adapted]
    in_bfloat16 = bool(weights) and all(multiplies_packed(weight) for weight in weights)
    pack = in_bfloat16 and sum(weight.numel() for weight in weights) <= MOST_PACKED
    last = next(reversed(checkpointed_layers(model)), None)
    trims = in_bfloat16 and last is not None and _trims(last)
    joints: list[JointLinear] = []
    done: set[nn.Module] = set()
    for module in model.modules():
        if in_bfloat16:
            _fuse_norm(module)
            if _fuse_attention(module, pack):
                joints.append(module.forward.projections)
                done.update((module.q_proj, module.k_proj, module.v_proj))
        if _fuse_mlp(module, pack):
            joints += [module.forward.gate_up, module.forward.down]
            done.update((module.gate_proj, module.up_proj, module.down_proj))
    for module in adapted:
        if module not in done and (layer := lora_factors(module)) is not None:
            joints.append(JointLinear([layer], pack))
            module.forward = partial(joint_linear, joints[-1])
    if trims and last is not None and (trimmed := last_layer(last)) is not None:
        last.forward = trimmed
    model.register_forward_pre_hook(lambda *_: refresh(joints))


def _layers(module: nn.Module, *names: str) -> list[LoraFactors] | None:
    """The LoRA layers of these names in a module, if all are there."""
    found = [lora_factors(getattr(module, name, None)) for name in names]
    return [layer for layer in found if layer is not None] if None not in found else None


def _fuse_mlp(module: Any, pack: bool) -> bool:
    if _gated_mlp(module, False) is None or not _alike(module, partial(_gated_mlp, pack=False), {}):
        return False
    module.forward = _gated_mlp(module, pack)
    return True


def _gated_mlp(module: Any, pack: bool) -> GatedMlp | None:
    layers, activation = _layers(module, "gate_proj", "up_proj", "down_proj"), activation_of(module)
    if layers is None or activation is None:
        return None
    return GatedMlp(layers[0], layers[1], layers[2], activation, pack)


def _fuse_norm(module: Any) -> None:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter) or weight.dim() != 1 or weight.requires_grad:
        return
    for added in (0.0, 1.0):  # Gemma's weights are what is added to 1
        if _alike(module, partial(_norm, added=added), {}):
            module.forward = _norm(module, added)
            return


def _norm(module: Any, added: float) -> Callable[[torch.Tensor], torch.Tensor]:
    eps: Any = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    weight = module.weight.detach()
    return partial(rms_norm, weight.float() + added if added else weight, eps)


def _fuse_attention(module: Any, pack: bool) -> bool:
    candidate = _attention(module, False)
    if candidate is None or not _alike(module, partial(_attention, pack=False), _layout(candidate)):
        return False
    module.forward = _attention(module, pack)
    return True


def _layout(attention: FusedAttention) -> dict[str, Any]:
    """Arguments beside the hidden states for an attention, or a layer, that has this one: a prefix and two tails."""
    places = torch.tensor([*range(3), *range(3, 7), *range(3, 5)], dtype=torch.float32)
    angles = (places[:, None] * torch.linspace(0.1, 1.1, attention.heads.width // 2)).repeat(1, 2)[None]
    turn = angles.cos(), angles.sin()
    return {"position_embeddings": turn, "attention_mask": None, "shared_prefix": PrefixLayout(3, (4, 2))}


def _trims(module: Any) -> bool:
    """Tell whether a decoder layer can be a `LastLayer`, before any of it is fused."""

    def trimmed(module: Any) -> Any:
        module.self_attn.forward = _attention(module.self_attn, False)
        return last_layer(module)

    attention = _attention(getattr(module, "self_attn", None), False)
    return attention is not None and _alike(module, trimmed, _layout(attention) | {"label_places": torch.arange(9)})


def _attention(module: Any, pack: bool) -> FusedAttention | None:
    layers = _layers(module, "q_proj", "k_proj", "v_proj")
    width, scale = getattr(module, "head_dim", None), getattr(module, "scaling", None)
    known = isinstance(getattr(module, "o_proj", None), nn.Module) and not getattr(module, "attention_dropout", 0)
    if layers is None or not known or not isinstance(width, int) or not isinstance(scale, float):
        return None
    return None if any(len(layer.weight) % width for layer in layers) else FusedAttention(module, layers, pack)


def _alike(module: nn.Module, make: Callable[[Any], Any], given: dict[str, Any]) -> bool:
    """Try in float32 if what is made of a module computes the same, and the same gradient with regard to its input."""
    usual = copy.deepcopy(module).float()
    width = next(weight.shape[-1] for weight in usual.parameters())
    generator = torch.Generator().manual_seed(0)
    device = next(usual.parameters()).device
    x = torch.randn(1, 9, width, generator=generator).to(device)
    results: list[torch.Tensor] = []
    try:
        for ours in (False, True):
            function = make(usual) if ours else usual
            entered = x.clone().requires_grad_()
            with torch.enable_grad():
                out = function(entered, **given)
                out = out[0] if isinstance(out, tuple) else out
                weights = torch.linspace(-1, 1, out.numel(), device=device).view_as(out)
                (grad,) = torch.autograd.grad(out, entered, weights)
            results += [out.detach(), grad]
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
        return False  # it wants, or gives, something else than a layer of this kind does
    pairs = zip(results[:2], results[2:], strict=True)
    return all(a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=1e-3 * float(a.abs().max())) for a, b in pairs)
