"""Logit lens: the words that a direction promotes through the model's final norm and unembedding."""

from typing import Any

import numpy as np
import torch

from lmms_steer.errors import UserError
from lmms_steer.extraction.extract import Backbone
from lmms_steer.vectors.steering_vectors import SteeringVectors

WORDS = 8
"""How many words of each kind are shown per layer."""


def logit_lens(vectors: SteeringVectors) -> dict[int, tuple[list[str], list[str]]]:
    """The words that each layer's direction makes more likely and less likely.

    They have the largest and smallest entries of `W_U · norm(v_l)`: nostalgebraist's logit lens, applied to the
    direction alone. The vector's model is loaded for its final norm and unembedding.

    Returns:
        layer ▸ (promoted words, suppressed words), strongest first.

    Raises:
        UserError: when the vector's model cannot be loaded, or has another width.
    """
    source = Backbone(str(vectors.provenance.get("model_id") or vectors.provenance.get("model")), device="cpu")
    model: Any = source.model
    head, norm = model.get_output_embeddings(), getattr(model.get_decoder(), "norm", None)
    if head is None or norm is None or head.weight.shape[1] != vectors.hidden_size:
        raise UserError(f"{source.name} has no unembedding for a direction of width {vectors.hidden_size}")
    words = {}
    with torch.inference_mode():
        for layer in vectors:
            direction = torch.from_numpy(np.ascontiguousarray(vectors[layer])).to(head.weight.dtype)
            logits = head(norm(direction[None]))[0].float()
            # equal logits keep the order of their ids
            order = torch.argsort(-logits, stable=True).tolist()
            words[layer] = (_decoded(source, order[:WORDS]), _decoded(source, order[: -WORDS - 1 : -1]))
    return words


def _decoded(source: Backbone, ids: list[int]) -> list[str]:
    return [source.tokenizer.decode([i]).strip() or repr(source.tokenizer.decode([i])) for i in ids]
