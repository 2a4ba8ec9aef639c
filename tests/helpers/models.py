"""Inputs, vectors and recordings for tests that run models."""

from typing import Any

import numpy as np
import torch
from PIL import Image

from lmms_steer.vectors.steering_vectors import SteeringVectors
from tests.helpers.checkpoints import inputs


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def batch_of(name: str, processor: Any, *texts: str) -> dict[str, Any]:
    return inputs(name, processor, list(texts), [picture(i) for i in range(len(texts))])


def vectors(layers: int = 4, width: int = 48, seed: int = 0, scale: float = 1.0, **provenance: Any) -> SteeringVectors:
    """Random directions with the provenance of an extraction."""
    drawn = np.random.default_rng(seed).standard_normal((layers, width)) * scale
    made = {
        "model": "some-backbone",
        "concept": "spatial",
        "method": "mean_shift",
        "n_layers": layers,
        "hidden_size": width,
    }
    return SteeringVectors(dict(enumerate(drawn)), {**made, "settings": {}, "sentences_sha256": "0", **provenance})


def record(model: Any, fn: Any) -> list[torch.Tensor]:
    """Every decoder layer's output during one call of `fn`, by hooks that are not the package's."""
    seen: list[torch.Tensor] = []
    layers = model.get_decoder().layers
    handles = [
        layer.register_forward_hook(lambda m, a, o: seen.append((o[0] if isinstance(o, tuple) else o).clone()))
        for layer in layers
    ]
    try:
        with torch.no_grad():
            fn()
    finally:
        for handle in handles:
            handle.remove()
    return seen
