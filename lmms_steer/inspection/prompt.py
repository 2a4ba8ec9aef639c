"""`lmms-steer inspect`: which tokens of one prompt are steered, how strongly, and what the model would say."""

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


@dataclass(frozen=True, slots=True)
class PromptInspection:
    """One prompt, before and after.

    Attributes:
        spec: what was done, in one line; "" where nothing was.
        layer: the first steered layer; the middle one where nothing is steered.
        tokens: the prompt's tokens as the tokenizer spells them.
        image: whether each is an image token.
        steered: whether each one's residual changed at the layer: measured, not worked out from the mask.
        norms: |h| of each at the layer, unsteered.
        done: what is done at the layer, a line for each part of the spec.
        added: the norm of what is added there, of those parts that add something.
        before, after: the likeliest next tokens with their probabilities, unsteered and steered.
    """

    spec: str
    layer: int
    tokens: list[str]
    image: list[bool]
    steered: list[bool]
    norms: list[float]
    done: list[str]
    added: list[float]
    before: list[tuple[str, float]]
    after: list[tuple[str, float]]


def inspect_prompt(lm: SteeredVlm, images: list[Image.Image], prompt: str) -> PromptInspection:
    """Run the prompt with and without the model's spec, and keep what changed."""
    interventions = lm.resolved.spec.interventions
    inputs = lm.model_inputs([prompt], [images])
    for handle in lm.handles:
        handle.remove()
    plain, before = _run(lm.model, inputs)
    lm.handles = attach(lm.model, lm.resolved, lm.tokenizer.all_special_ids)
    changed, after = _run(lm.model, inputs)
    layer = min((i.layer for i in interventions if i.layer is not None), default=len(plain) // 2)
    ids = inputs["input_ids"][0]
    image_ids = image_token_ids(lm.model.config)
    active = [(i, lm.resolved.operation_of(i), v) for i, v in active_interventions(lm.resolved) if i.layer == layer]
    return PromptInspection(
        spec=str(lm.resolved.spec),
        layer=layer,
        tokens=[str(token).replace("\n", "\\n") for token in lm.tokenizer.convert_ids_to_tokens(ids.tolist())],
        image=[token in image_ids for token in ids.tolist()],
        steered=(plain[layer] != changed[layer]).any(-1)[0].tolist(),
        norms=plain[layer][0].float().norm(dim=-1).tolist(),
        done=[f"{i.tokens}: {operation.describe(vector)}" for i, operation, vector in active],
        added=[abs(vector.strength) for _, operation, vector in active if operation.adds_delta],
        before=_likeliest(lm, before),
        after=_likeliest(lm, after),
    )


def inspection_lines(seen: PromptInspection) -> Iterator[str]:
    """For a terminal: steered tokens in [brackets], image tokens counted."""
    yield f"spec: {seen.spec or 'none (the baseline)'}"
    yield f"layer {seen.layer}, {'; '.join(seen.done) or 'nothing is done'}"
    for kind, wanted in (("image", True), ("text", False)):
        norms = [n for n, image in zip(seen.norms, seen.image, strict=True) if image is wanted]
        steered = sum(s for s, image in zip(seen.steered, seen.image, strict=True) if image is wanted)
        mean = f"mean |h| = {sum(norms) / len(norms):.4g}" if norms else "none"
        yield f"  {kind} tokens: {steered} of {len(norms)} steered, {mean}"
    yield ""
    yield " ".join(_runs(seen))
    yield ""
    if not seen.spec:
        yield "unsteered"
        yield from (f"{p:6.3f}  {word!r}" for word, p in seen.before)
        return
    yield f"{'unsteered':24}  steered"
    for (word, p), (other, q) in zip(seen.before, seen.after, strict=True):
        yield f"{p:6.3f}  {word!r:16}  {q:6.3f}  {other!r}"


def _runs(seen: PromptInspection) -> Iterator[str]:
    marked = list(zip(seen.tokens, seen.image, seen.steered, strict=True))
    for (token, image, steered), run in groupby(marked, key=lambda m: (m[0] if m[1] else "", m[1], m[2])):
        members = [name for name, _, _ in run]
        text = f"{token}×{len(members)}" if image else " ".join(members)
        yield f"[{text}]" if steered else text


def _run(model: Any, inputs: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
    # registered after the steering hooks, so that what they did is seen
    with torch.inference_mode(), record_layers(model) as outputs:
        logits: Tensor = model(**inputs, use_cache=False, logits_to_keep=1).logits[0, -1]
    return outputs, logits


def _likeliest(lm: SteeredVlm, logits: Tensor) -> list[tuple[str, float]]:
    top = logits.float().softmax(-1).topk(ANSWERS)
    return [(lm.tokenizer.decode([i]), p) for p, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)]
