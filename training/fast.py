"""Quicker decoder layers, for training only: attention without the soft-cap, and one layer compiled.

Gemma2's soft-cap, 50 tanh(x / 50), is nearly x at the small logits of so small a model, but it forbids PyTorch's fused
attention. Evaluation always uses the ordinary layers, with the soft-cap.
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
_ordinary_layer = gemma2.Gemma2DecoderLayer.forward
_ordinary_norm = gemma2.Gemma2RMSNorm.forward


def _attention(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """(B, heads, L, d) queries -> (B, L, heads, d)."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=scaling)
    return out.transpose(1, 2).contiguous(), None


def _norm(self: Any, x: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, x.shape[-1:], 1 + self.weight, self.eps)


AttentionInterface.register("lmms_steer_uncapped", _attention)
AttentionMaskInterface.register("lmms_steer_uncapped", eager_mask)


@contextmanager
def fast(model: Any, compiled: bool = True) -> Iterator[None]:
    """Inside, `model`'s decoder layers train quickly (fixed shapes, no KV cache); after it they are as they were."""
    layers, text_config = model.get_decoder().layers, model.config.get_text_config(decoder=True)
    before = text_config._attn_implementation
    forward = torch.compile(_ordinary_layer, dynamic=False) if compiled and _has_compiler() else _ordinary_layer
    text_config._attn_implementation = "lmms_steer_uncapped"
    gemma2.Gemma2RMSNorm.forward = _norm
    try:
        for layer in layers:
            layer.self_attn.layer_idx = 0  # one graph serves all layers; a KV cache would be mixed up by it
            layer.forward = types.MethodType(forward, layer)
        yield
    finally:
        gemma2.Gemma2RMSNorm.forward = _ordinary_norm
        text_config._attn_implementation = before
        for index, layer in enumerate(layers):
            layer.self_attn.layer_idx = index
            del layer.forward


def _has_compiler() -> bool:
    if any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        torch._inductor.config.cpp.threads = torch.get_num_threads()
        return True
    log.warning("no C++ compiler: training runs uncompiled, about three times as long")
    return False
