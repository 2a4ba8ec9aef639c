"""What a search costs by replaying, against a full forward with hooks for each cell; and how that grows.

python benchmarks/replaying.py [--device cuda] [--dtype bfloat16] [--full-size] [--plot growth.png] [--quick]

Random weights: a PaliGemma-2-shaped model (27 vision, 26 text layers, prompt bidirectional) and a LLaVA-shaped one (causal,
text after the image). Imports torch, transformers and lmms_steer only.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlavaConfig, LlavaForConditionalGeneration, PaliGemmaConfig, PaliGemmaForConditionalGeneration

from lmms_steer.search.hooked import Hooked
from lmms_steer.search.replay import Replay

VISION_LAYERS, TEXT_LAYERS, IMAGE_TOKENS, TEXT_TOKENS, IMAGE_ID = 27, 26, 256, 30, 7
LAYERS, ALPHAS, TARGETS = tuple(range(5, 21)), (0.1, 0.2, 0.4, 0.6, 0.8, 1.0), ("image", "text", "both")


def model(kind: str, full_size: bool, device: str, dtype: torch.dtype) -> Any:
    """Random weights; `full_size` is PaliGemma2-3B's shape, else a ninth of its width."""
    width, heads, deep = (2304, 8, 9216) if full_size else (256, 4, 1024)
    seen, seen_heads, seen_deep = (1152, 16, 4304) if full_size else (128, 4, 512)
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": seen, "intermediate_size": seen_deep,
        "num_hidden_layers": VISION_LAYERS, "num_attention_heads": seen_heads, "image_size": 224, "patch_size": 14,
        "vision_use_head": False, "projection_dim": width,
    }  # fmt: skip
    text = {
        "hidden_size": width, "intermediate_size": deep, "num_hidden_layers": TEXT_LAYERS,
        "num_attention_heads": heads, "num_key_value_heads": heads // 2, "head_dim": 256 if full_size else 64,
        "vocab_size": 257216 if full_size else 8000, "max_position_embeddings": 1024,
    }  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        if kind == "paligemma2":
            shape = {"vision_config": vision, "text_config": {"model_type": "gemma2", **text}, "projection_dim": width}
            made: Any = PaliGemmaForConditionalGeneration(PaliGemmaConfig(**shape, image_token_index=IMAGE_ID))
        else:
            shape = {
                "vision_config": vision,
                "text_config": {"model_type": "llama", **text},
                "vision_feature_layer": -1,
            }
            full = {"vision_feature_select_strategy": "full", "image_token_index": IMAGE_ID}
            made = LlavaForConditionalGeneration(LlavaConfig(**shape, **full))
    return made.to(dtype).eval()


def prompts(kind: str, count: int, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """An image, then text: the order in which a causal model's image tokens do not depend on the question."""
    drawn = torch.Generator().manual_seed(1)
    text = torch.randint(10, 8000, (count, TEXT_TOKENS), generator=drawn)
    ids = torch.cat((torch.full((count, IMAGE_TOKENS), IMAGE_ID), text), 1)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if kind == "paligemma2":
        inputs["token_type_ids"] = torch.zeros_like(ids)
    pixels = torch.randn((count, 3, 224, 224), generator=drawn).to(dtype)
    return {name: tensor.to(device) for name, tensor in {**inputs, "pixel_values": pixels}.items()}
