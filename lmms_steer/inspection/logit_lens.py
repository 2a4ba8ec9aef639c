"""Logit lens: the words of the vocabulary that a direction points to through the model's final norm and unembedding."""

from typing import Any

import numpy as np
import torch

from lmms_steer.errors import UserError
from lmms_steer.extraction.extract import Backbone
from lmms_steer.vectors.steering_vectors import SteeringVectors

WORDS = 8


def logit_lens(vectors: SteeringVectors) -> dict[int, tuple[list[str], list[str]]]:
    """For each layer the words that the direction makes likelier and those that it makes less likely, strongest first.

    `W_U · norm(v_l)`: nostalgebraist's logit lens, on the direction alone. The model is loaded for its two last parts.

    Raises:
        UserError: where the vector's model cannot be loaded, or is not of its width.
    """
    source = Backbone(str(vectors.provenance.get("model_id") or vectors.provenance.get("model")), device="cpu")
    model: Any = source.model
    head, norm = model.get_output_embeddings(), getattr(model.get_decoder(), "norm", None)
    if head is None or norm is None or head.weight.shape[1] != vectors.hidden_size:
        raise UserError(f"{source.name} has no unembedding for a direction of width {vectors.hidden_size}")
    found = {}
    with torch.inference_mode():
        for layer in vectors:
            direction = torch.from_numpy(np.ascontiguousarray(vectors[layer])).to(head.weight.dtype)
            logits = head(norm(direction[None]))[0].float()
            # equal logits keep the order of their ids
            order = torch.argsort(-logits, stable=True).tolist()
            found[layer] = (_decoded(source, order[:WORDS]), _decoded(source, order[: -WORDS - 1 : -1]))
    return found


def _decoded(source: Backbone, ids: list[int]) -> list[str]:
    return [source.tokenizer.decode([i]).strip() or repr(source.tokenizer.decode([i])) for i in ids]
