"""The directions of `vector=@image_contrast`: what a question's own image changes (VISTA, arXiv 2502.03628)."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from lmms_steer.errors import UserError
from lmms_steer.models.prompt_formats import without_placeholders
from lmms_steer.models.visuals import Visual, blank_visuals
from lmms_steer.steering.anatomy import kept_logits, unwrap
from lmms_steer.steering.recording import record_layers
from lmms_steer.steering.row_vectors import RowVectors, row_vectors


@torch.inference_mode()
def image_directions(
    lm: Any, needed: Mapping[str, Collection[int]], questions: Sequence[str], visuals: Sequence[Sequence[Visual]]
) -> RowVectors:
    """The row vectors of a batch: `h(image, question) - h(question)` at the last token, of the unsteered model.

    A batch costs one forward call with its images, and one more for each name.

    Args:
        lm: the model's wrapper, with `model_inputs`.
        needed: name ▸ layers, as `row_layers` gives them.
        questions: the questions.
        visuals: the visuals of each question.

    Raises:
        UserError: for a question without an image, or a model that takes none.
    """
    for question, own in zip(questions, visuals, strict=True):
        if not own:
            raise UserError(
                f"vector={next(iter(needed))} is what a question's image changes, and {question[:60]!r} has none: leave"
                " it out for this task"
            )
    if "@image_contrast" in needed and lm.prompt_format.name == "paligemma":
        raise UserError(
            "vector=@image_contrast: PaliGemma needs an image with every question; choose vector=@image_contrast_blank"
        )

    # prompt formats leave image placeholders in a text that is shown without an image
    questions = [without_placeholders(lm.processor, question) for question in questions]

    def last_tokens(shown: Sequence[Sequence[Visual]]) -> list[torch.Tensor]:
        inputs = lm.model_inputs(questions, shown)
        with row_vectors({}), record_layers(unwrap(lm.model)) as outputs:
            lm.model(**inputs, use_cache=False, **kept_logits(lm.model, 1))
        return [output[:, -1].float() for output in outputs]

    seen = last_tokens(visuals)
    directions = {}
    for name, layers in needed.items():
        hidden = [blank_visuals(own) for own in visuals] if name == "@image_contrast_blank" else [[] for _ in visuals]
        unseen = last_tokens(hidden)
        directions[name] = {layer: seen[layer] - unseen[layer] for layer in layers}
    return directions
