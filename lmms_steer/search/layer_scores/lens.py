"""Layer score by the logit lens: does the vector, unembedded, name the concept's words?"""

from typing import Any

import numpy as np

from lmms_steer.errors import UserError
from lmms_steer.extraction.tokens import tokenize
from lmms_steer.search.layer_scores import LayerContext, register_layer_score


@register_layer_score(
    "lens", description="share of the vocabulary that the unembedded vector ranks below the anchors",
    needs="sentences", depends_on=("vector",),
)  # fmt: skip
def lens(context: LayerContext) -> dict[int, float]:
    """The mean over the anchors' distinct first tokens t of the share of tokens with a smaller logit than t's.

    The logits are `W_U · norm(v_l)` (nostalgebraist's logit lens, of the direction alone); 0.5 is chance.
    """
    import torch

    from lmms_steer.steering.anatomy import inner_decoder

    model: Any = context.lm.model
    head, norm = model.get_output_embeddings(), getattr(inner_decoder(model), "norm", None)
    if head is None or norm is None:
        raise UserError(f"a {type(model).__name__} has no unembedding that could be read")
    count, found = min(len(context.lm.tokenizer), head.weight.shape[0]), {}
    anchors = anchor_tokens(context)
    for layer in context.layers:
        direction = torch.from_numpy(context.vectors[layer].copy()).to(head.weight)
        with torch.inference_mode():
            logits = head(norm(direction[None]))[0, :count].float().cpu().numpy()
        found[layer] = float(np.mean([(logits < logits[token]).sum() / (count - 1) for token in anchors]))
    return found


def anchor_tokens(context: LayerContext) -> list[int]:
    """The ids of the first tokens of all anchors in the concept's sentences, each once."""
    activations = context.sentences.activations
    batch = tokenize(context.lm.tokenizer, list(activations.texts))
    ids, spans = batch["input_ids"].tolist(), batch["offset_mapping"].tolist()
    tokens = {
        next(
            token
            for token, (start, end) in zip(ids[place.sentence], spans[place.sentence], strict=True)
            if start < place.end and end > place.start and end > start
        )
        for place in activations.anchor_places
    }
    return sorted(tokens)
