"""Faster decoder layers, for training only: attention without the soft-cap, and compiled layers.

Gemma2's soft-cap, 50 tanh(x / 50), is nearly x at the small logits of such a small model, but it rules out PyTorch's
fused attention. Evaluation always uses the original layers, with the soft-cap.
"""

import logging
import shutil
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask
from transformers.models.gemma2 import modeling_gemma2 as gemma2

log = logging.getLogger(__name__)
_original_layer = gemma2.Gemma2DecoderLayer.forward
_original_norm = gemma2.Gemma2RMSNorm.forward


def _attention(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention without the soft-cap: queries [batch, heads, length, d] to outputs [batch, length, heads, d]."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=scaling)
    return out.transpose(1, 2).contiguous(), None


def _norm(self: Any, x: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, x.shape[-1:], 1 + self.weight, self.eps)


AttentionInterface.register("lmms_steer_uncapped", _attention)
AttentionMaskInterface.register("lmms_steer_uncapped", eager_mask)


@contextmanager
def fast(model: Any) -> Iterator[None]:
    """Use faster decoder layers inside the block, compiled if there is a C++ compiler.

    They need fixed shapes and no KV cache.

    Args:
        model: a Gemma 2, or a model with one inside.
    """
    layers, text_config = model.get_decoder().layers, model.config.get_text_config(decoder=True)
    before = text_config._attn_implementation
    forward = torch.compile(_original_layer, dynamic=False) if _has_compiler() else _original_layer
    text_config._attn_implementation = "lmms_steer_uncapped"
    gemma2.Gemma2RMSNorm.forward = _norm
    try:
        for layer in layers:
            layer.self_attn.layer_idx = 0  # so that one compiled graph serves all layers; it would break a KV cache
            layer.forward = types.MethodType(forward, layer)
        yield
    finally:
        gemma2.Gemma2RMSNorm.forward = _original_norm
        text_config._attn_implementation = before
        for index, layer in enumerate(layers):
            layer.self_attn.layer_idx = index
            del layer.forward


def _has_compiler() -> bool:
    if any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        torch._inductor.config.cpp.threads = torch.get_num_threads()
        return True
    log.warning("no C++ compiler: training runs uncompiled and takes about three times as long")
    return False
