"""The words that a direction stands for, read in two ways: whose own states it resembles, and what it makes follow."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmms_steer.errors import UserError
from lmms_steer.extraction.extract import Backbone
from lmms_steer.steering.anatomy import decoder_layers
from lmms_steer.vectors.backbones import backbone_checkpoint
from lmms_steer.vectors.steering_vectors import SteeringVectors
from lmms_steer.vectors.weights import describe_source, model_source, same_weights

WORDS = 8
"""How many words of each kind are shown per layer."""
_BATCH = 1024


@dataclass(frozen=True, slots=True)
class Words:
    """A layer's words, the strongest first.

    Attributes:
        like: tokens whose own states the direction resembles most.
        cosine: of the first of them.
        promoted, suppressed: next tokens that the direction makes more and less likely.
    """

    like: tuple[str, ...]
    cosine: float
    promoted: tuple[str, ...]
    suppressed: tuple[str, ...]


def source_model(vectors: SteeringVectors, backbone: str | None = None) -> tuple[Backbone, str | None]:
    """Load the model that a vector was made from.

    Args:
        vectors: the vector.
        backbone: the model, as `Backbone` takes it; None: the one that the vector records.

    Returns:
        The model, and a warning if `backbone` has other weights than the vector's.

    Raises:
        UserError: when the model is not recorded, is gone, has other weights by now, or cannot be loaded.
    """
    provenance = vectors.provenance
    name = str(backbone or provenance.get("model_path") or provenance.get("model_id") or provenance.get("model"))
    revision = None if backbone else provenance.get("revision")
    if backbone is None and "model_path" in provenance and not Path(name).is_dir():
        raise UserError(f"its model's folder {name!r} is gone: name the model with --backbone")
    if backbone is None and revision is None and "/" not in backbone_checkpoint(name):
        raise UserError(f"the folder of its model {name!r} is not recorded: name it with --backbone")
    found = model_source(name, revision)
    warning = None
    if same_weights(provenance, found) is False:
        warning = f"{describe_source(found)} is not the model that it was made from, {describe_source(provenance)}"
        if backbone is None:
            raise UserError(f"{warning}: name that model with --backbone")
    return Backbone(name, revision=revision, device="cpu"), warning


def read_words(vectors: SteeringVectors, source: Backbone) -> dict[int, Words]:
    """The words of each layer's direction.

    `like` has the largest cosines of v_l and the tokens' states minus their mean. A token's state is the output of the
    first decoder block for the token alone, after the token that begins a text. Later blocks keep its direction well
    enough, while plain input embeddings of pretrained models are far from it. `promoted` and `suppressed` have the
    largest and smallest entries of `W_U · norm(v_l)`: nostalgebraist's logit lens, applied to the direction alone.

    Args:
        vectors: the vector.
        source: its model.

    Raises:
        UserError: when the model has another width, or no unembedding.
    """
    model: Any = source.model
    head, norm = model.get_output_embeddings(), getattr(model.get_decoder(), "norm", None)
    if head is None or norm is None or head.weight.shape[1] != vectors.hidden_size or vectors.patches is not None:
        raise UserError(f"{source.name} has no unembedding for a direction of width {vectors.hidden_size}")
    words = {}
    with torch.inference_mode():
        states = _token_states(source)
        states = torch.nn.functional.normalize(states - states.mean(0), dim=1)
        for layer in vectors:
            direction = torch.from_numpy(np.ascontiguousarray(vectors[layer])).to(head.weight.dtype)
            logits = head(norm(direction[None]))[0, : len(states)].float()
            cosines = states @ torch.nn.functional.normalize(direction.float(), dim=0)
            words[layer] = Words(
                _strongest(source, cosines), float(cosines.max()), _strongest(source, logits),
                _strongest(source, -logits),
            )  # fmt: skip
    return words


class _Stop(Exception):
    """Ends a forward pass whose rest is not needed."""


def _token_states(source: Backbone) -> Tensor:
    """The output of the first block for each token of the vocabulary, [tokens, width]."""
    tokenizer, decoder = source.tokenizer, source.model.get_decoder()
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    count = min(len(tokenizer), source.model.get_input_embeddings().weight.shape[0])
    states: list[Tensor] = []

    # a text's first token has a state of its own kind, which says little about the token
    def record(_module: Any, _args: Any, output: Any) -> None:
        states.append((output[0] if isinstance(output, tuple) else output)[:, -1].float())
        raise _Stop

    handle = decoder_layers(source.model)[0].register_forward_hook(record)
    try:
        for ids in torch.arange(count, device=source.device).split(_BATCH):
            texts = ids[:, None] if first is None else torch.stack([torch.full_like(ids, first), ids], dim=1)
            try:
                decoder(input_ids=texts, use_cache=False)
            except _Stop:
                continue
    finally:
        handle.remove()
    return torch.cat(states)


def _strongest(source: Backbone, values: Tensor) -> tuple[str, ...]:
    """The words with the largest values. ` red` and `red` are shown as one word."""
    found: dict[str, None] = {}
    # equal values keep the order of their ids
    for token in torch.argsort(-values, stable=True)[: 4 * WORDS].tolist():
        text = source.tokenizer.decode([token])
        word = text.strip()
        found[word if word and word.isprintable() else repr(text)] = None
    return tuple(found)[:WORDS]
