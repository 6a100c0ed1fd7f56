"""Uses of torch, transformers and peft beyond their documented interfaces, all in one place.

Each entry says what it leans on, and since when that is there where it is known. All were run with torch 2.13,
transformers 5.23 and peft 0.21. Imports torch, but transformers and peft only in the functions that use them.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

# --- torch: attention on the CPU


def flash_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    *,
    causal: bool = False,
    mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute attention with PyTorch's flash kernel for the CPU, the only one that also gives its log-sum-exps.

    Leans on torch's private operator `_scaled_dot_product_flash_attention_for_cpu`, which takes a mask since
    PyTorch's pull request 115913 (opened in December 2023, so before our oldest torch, 2.8).

    Args:
        query: (B, heads, Q, head_dim).
        key: (B, heads, K, head_dim).
        value: The same shape as `key`.
        scale: Factor on the scores.
        causal: Query i sees keys 0 to i.
        mask: Additive, (B or 1, heads or 1, Q, K).

    Returns:
        Outputs (B, heads, Q, head_dim) in the query's dtype, and log-sum-exps (B, heads, Q) in float32.
    """
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, causal, attn_mask=mask, scale=scale
    )
    return out, lse


def flash_attention_backward(
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute the gradients of `flash_attention` without a mask with regard to query, key and value.

    Leans on torch's private operator `_scaled_dot_product_flash_attention_for_cpu_backward`.
    """
    grads: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = (
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, query, key, value, out, lse, 0.0, causal, scale=scale
        )
    )
    return grads


def softmax_backward(grad: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Compute the gradient with regard to x of `output`, softmax(x) over the last dimension.

    Leans on torch's private function `_softmax_backward_data`.
    """
    result: torch.Tensor = torch._softmax_backward_data(grad, output, -1, output.dtype)
    return result


# --- torch: many small tensors


def copy_each(targets: list[torch.Tensor], sources: list[torch.Tensor]) -> None:
    """Copy each source into its target, whatever their dtypes; leans on torch's private `_foreach_copy_`."""
    torch._foreach_copy_(targets, sources)


# --- torch: oneDNN's linear layers, bfloat16


def can_pack(device: str, dtype: torch.dtype) -> bool:
    """Tell whether `pack_weight` works here: on a CPU with oneDNN, in float32 or (where oneDNN has it) bfloat16.

    Leans on torch's private `torch.ops.mkldnn` operators, like the next three functions. False where they are missing.
    """
    mkldnn: Any = torch.ops.mkldnn
    backend: Any = torch.backends.mkldnn
    if device != "cpu" or not backend.is_available():
        return False
    if not (hasattr(mkldnn, "_reorder_linear_weight") and hasattr(mkldnn, "_linear_pointwise")):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(mkldnn._is_mkldnn_bf16_supported()))


def pack_weight(weight: torch.Tensor) -> torch.Tensor:
    """Bring a linear layer's weight, (out_features, in_features), into oneDNN's blocked layout."""
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), None)
    return packed


def packed_linear(
    x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None, activation: str = "none"
) -> torch.Tensor:
    """Multiply (..., in_features) by a weight that `pack_weight` returned.

    Args:
        x: The rows.
        packed: The weight.
        bias: (out_features,) or None.
        activation: What is done to the sums before they are rounded: "none", or "swish" for SiLU.
    """
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, activation, [], "")
    return result


def packed_linear_onto(
    x: torch.Tensor, other: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None, operation: str
) -> torch.Tensor:
    """Multiply as `packed_linear` does, and "add" `other` (..., out_features) to the sums, or "mul" them with it.

    The sums are rounded once, after that. Leans on the operator's overload `binary`.
    """
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, packed, bias, operation)
    return result


@functools.cache
def cpu_multiplies_bfloat16() -> bool:
    """Tell whether this CPU has bfloat16 matrix instructions; emulated ones are slower than float32.

    Leans on torch's private `torch.cpu._is_...` functions. One that is missing counts as a no.
    """
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check is not None and bool(check()) for check in checks)


# --- transformers


def attention_name(model: Any) -> str:
    """Return the name of a model's attention, for `set_attn_implementation`; leans on the config's private field."""
    name: str = model.config._attn_implementation
    return name


def checkpointed_layers(model: nn.Module) -> list[Any]:
    """Return a model's layers that compute their activations again where `gradient_checkpointing` is set on them.

    Leans on transformers' `GradientCheckpointingLayer`, its switch and its private `_gradient_checkpointing_func`.
    """
    from torch.utils.checkpoint import checkpoint
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers: list[Any] = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for layer in layers:
        layer._gradient_checkpointing_func = functools.partial(checkpoint, use_reentrant=False)
    return layers


def keep_to_one_gpu(arguments: Any) -> None:
    """Keep `Trainer` from wrapping the model in `nn.DataParallel`: more GPUs are the matter of a launcher's processes.

    Leans on the private field `_n_gpu` of transformers' `TrainingArguments`.
    """
    arguments._n_gpu = min(arguments.n_gpu, 1)


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Silence transformers' progress bars, log lines and warnings while loading; restore the user's settings.

    Leans on the name `tqdm` in transformers' GGUF reader, whose bar has no switch.
    """
    from transformers import modeling_gguf_pytorch_utils as gguf_reader
    from transformers.utils import logging as transformers_logging_module

    transformers_logging: Any = transformers_logging_module
    reader: Any = gguf_reader
    bars = transformers_logging.is_progress_bar_enabled()
    logger = logging.getLogger("transformers")
    level = logger.level
    tqdm = reader.tqdm
    reader.tqdm = lambda items, **_: items
    transformers_logging.disable_progress_bar()
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        reader.tqdm = tqdm
        logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()


# --- peft


class LoraFactors(NamedTuple):
    """A linear layer with its LoRA: x W^T + bias + scale (x A^T) B^T."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    a: torch.Tensor
    b: torch.Tensor
    scale: float


def lora_factors(module: Any) -> LoraFactors | None:
    """Return the tensors of peft's plain LoRA layer over float32 or bfloat16; None if it is, or does, anything else.

    The factors are float32 in either case, as peft makes them. Bfloat16 only where `can_pack` says that oneDNN has it.

    Leans on the attributes of peft's `Linear` layer, `lora_variant` among them.
    """
    from peft.tuners.lora import Linear as LoraLinear

    if type(module) is not LoraLinear or type(module.base_layer) is not nn.Linear or module.lora_variant:
        return None
    (name,) = module.active_adapters
    base, a, b = module.base_layer, module.lora_A[name], module.lora_B[name]
    plain = isinstance(module.lora_dropout[name], nn.Identity) and a.bias is None and b.bias is None
    known = base.weight.dtype == torch.float32 or can_pack(base.weight.device.type, base.weight.dtype)
    same = {a.weight.dtype, b.weight.dtype} == {torch.float32} and known
    if not (plain and same) or module.fan_in_fan_out or base.weight.requires_grad:
        return None
    return LoraFactors(base.weight, base.bias, a.weight, b.weight, float(module.scaling[name]))


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """Silence two warnings: peft 0.21 asks transformers 5.23 for a renamed property; GPT-2 it handles by itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False", category=UserWarning)
        yield
