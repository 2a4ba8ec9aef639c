"""What a spec does to one prompt: which tokens are steered, how strongly, and which next tokens become more likely."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lmms_steer.harness.steered import SteeredVlm
from lmms_steer.steering.anatomy import image_token_ids
from lmms_steer.steering.hooks import attach
from lmms_steer.steering.recording import record_layers
from lmms_steer.steering.scaled_vectors import active_interventions

ANSWERS = 8
"""How many of the most likely next tokens are shown."""


@dataclass(frozen=True, slots=True)
class PromptInspection:
    """One prompt, unsteered and steered.

    Attributes:
        spec: in one line; "" for none.
        layer: the first steered layer; without a spec the middle layer.
        tokens: the prompt's tokens as the tokenizer spells them.
        image: whether each token is an image token.
        steered: whether each token's residual changed at the layer: measured, not computed from the mask.
        norms: |h| of each token at the layer, unsteered.
        effects: the effect of each intervention at the layer, one line each.
        added: the norm of the added vector, of each intervention at the layer that adds one.
        before, after: the most likely next tokens with their probabilities, unsteered and steered.
    """

    spec: str
    layer: int
    tokens: list[str]
    image: list[bool]
    steered: list[bool]
    norms: list[float]
    effects: list[str]
    added: list[float]
    before: list[tuple[str, float]]
    after: list[tuple[str, float]]


def inspect_prompt(lm: SteeredVlm, images: list[Image.Image], prompt: str) -> PromptInspection:
    """Run the prompt with and without the model's spec.

    Args:
        lm: the model, with its spec.
        images: of the prompt.
        prompt: the question.
    """
    interventions = lm.resolved.spec.interventions
    inputs = lm.model_inputs([prompt], [images])
    lm.attachment.remove()
    unsteered, before = _run(lm.model, inputs)
    lm.attachment = attach(lm.model, lm.resolved, lm.tokenizer.all_special_ids)
    steered, after = _run(lm.model, inputs)
    layer = min((i.layer for i in interventions if i.layer is not None), default=len(unsteered) // 2)
    ids = inputs["input_ids"][0]
    image_ids = image_token_ids(lm.model.config)
    active = [(i, lm.resolved.operation_of(i), v) for i, v in active_interventions(lm.resolved) if i.layer == layer]
    return PromptInspection(
        spec=str(lm.resolved.spec),
        layer=layer,
        tokens=[str(token).replace("\n", "\\n") for token in lm.tokenizer.convert_ids_to_tokens(ids.tolist())],
        image=[token in image_ids for token in ids.tolist()],
        steered=(unsteered[layer] != steered[layer]).any(-1)[0].tolist(),
        norms=unsteered[layer][0].float().norm(dim=-1).tolist(),
        effects=[f"{i.tokens}: {operation.describe(vector)}" for i, operation, vector in active],
        added=[abs(vector.strength) for _, operation, vector in active if operation.adds_delta],
        before=_most_likely(lm, before),
        after=_most_likely(lm, after),
    )


def inspection_lines(inspection: PromptInspection) -> Iterator[str]:
    """The inspection as text, with steered tokens in [brackets] and a count of equal image tokens."""
    yield f"spec: {inspection.spec or 'none (the baseline)'}"
    yield f"layer {inspection.layer}, {'; '.join(inspection.effects) or 'nothing is done'}"
    for kind, wanted in (("image", True), ("text", False)):
        norms = [n for n, image in zip(inspection.norms, inspection.image, strict=True) if image is wanted]
        steered = sum(s for s, image in zip(inspection.steered, inspection.image, strict=True) if image is wanted)
        mean = f"mean |h| = {sum(norms) / len(norms):.4g}" if norms else "none"
        yield f"  {kind} tokens: {steered} of {len(norms)} steered, {mean}"
    yield ""
    yield " ".join(_runs(inspection))
    yield ""
    if not inspection.spec:
        yield "unsteered"
        yield from (f"{p:6.3f}  {word!r}" for word, p in inspection.before)
        return
    yield f"{'unsteered':24}  steered"
    for (word, p), (other, q) in zip(inspection.before, inspection.after, strict=True):
        yield f"{p:6.3f}  {word!r:16}  {q:6.3f}  {other!r}"


def _runs(inspection: PromptInspection) -> Iterator[str]:
    """Runs of tokens of one kind: `[<image>×256]`, `Where is the cup`."""
    tokens = list(zip(inspection.tokens, inspection.image, inspection.steered, strict=True))
    for (token, image, steered), run in groupby(tokens, key=lambda t: (t[0] if t[1] else "", t[1], t[2])):
        members = [name for name, _, _ in run]
        text = f"{token}×{len(members)}" if image else " ".join(members)
        yield f"[{text}]" if steered else text


def _run(model: Any, inputs: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
    """Every layer's output [1, positions, width], and the logits of the next token [vocabulary]."""
    # recorded after the steering hooks, so that their effect is included
    with torch.inference_mode(), record_layers(model) as outputs:
        logits: Tensor = model(**inputs, use_cache=False, logits_to_keep=1).logits[0, -1]
    return outputs, logits


def _most_likely(lm: SteeredVlm, logits: Tensor) -> list[tuple[str, float]]:
    top = logits.float().softmax(-1).topk(ANSWERS)
    return [(lm.tokenizer.decode([i]), p) for p, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)]
