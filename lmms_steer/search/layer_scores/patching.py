"""Layer score by activation patching: at which layers can what stands at the steered tokens still decide the answer?

At one layer's output the target's tokens get what they hold when another picture is shown. Where the answer then is the
one to the other picture, it is read from these tokens from there on, and a vector that is added to them can reach it.
Image tokens decide until the picture has been read, text tokens from then on (arXiv 2604.09364 patches the whole
sequence); both together decide at every layer, so for them this score says nothing.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from lmms_steer.errors import UserError
from lmms_steer.extraction.image_contrasts import other_places
from lmms_steer.models.visuals import image_ids
from lmms_steer.search.layer_scores import LayerContext, register_layer_score
from lmms_steer.search.questions import Question


@register_layer_score(
    "patching", description="share of answers that follow what the target's tokens hold with another picture",
    needs="prompts", depends_on=("tokens",),
    # what is written, the own and the other picture, and each layer
    passes=lambda layers: 3 + layers,
)  # fmt: skip
def patching(context: LayerContext) -> dict[int, float]:
    """The share, of the questions whose answer differs with the other picture, of answers that follow it.

    An answer is the likeliest token where the choices differ, after what the model writes before it: the letter of
    `(A)`. Without a fixed set of choices it is the next token. The other picture is another question's, in the size of
    the own, so that both have as many image tokens.
    """
    from lmms_steer.models.batches import ShrinkingRunner

    questions = pictured(context.questions)
    places = other_places(["".join(image_ids(question.visuals)) for question in questions], context.seed)
    if places is None:
        raise UserError("all questions show the same picture")
    pairs = [(question, questions[place]) for question, place in zip(questions, places, strict=True)]
    runner, rows = ShrinkingRunner(), list[list[int]]()
    for first in range(0, len(pairs), context.batch_size):
        batch = pairs[first : first + context.batch_size]
        rows += runner.run(batch, lambda part: patched_answers(context.lm, part, context.layers, context.tokens))
    answers = np.array(rows)
    differ = answers[answers[:, 0] != answers[:, 1]]
    if not len(differ):
        raise UserError("no answer depends on the picture")
    return {layer: float((row == differ[:, 1]).mean()) for layer, row in zip(context.layers, differ.T[2:], strict=True)}


def pictured(questions: Sequence[Question]) -> list[Question]:
    """The questions with images, as many as the first of them has.

    Raises:
        UserError: where fewer than two are left.
    """
    found = [q for q in questions if q.visuals and all(isinstance(visual, Image.Image) for visual in q.visuals)]
    found = [question for question in found if len(question.visuals) == len(found[0].visuals)]
    if len(found) < 2:
        raise UserError("it needs questions with images")
    return found


def patched_answers(
    lm: Any, pairs: Sequence[tuple[Question, Question]], layers: Sequence[int], tokens: str
) -> list[list[int]]:
    """The likeliest tokens of a batch where the choices differ, a row for each question.

    Args:
        lm: the unsteered model.
        pairs: each question, and the one whose pictures are shown instead.
        layers: where what the tokens hold is put in, one layer at a time.
        tokens: the token target.

    Returns:
        of each question: with its own pictures, with the others, and with what they give the tokens at each layer.

    Raises:
        UserError: where the two pictures of a pair do not have as many image tokens.
    """
    import torch

    from lmms_steer.models.answer_bias import LOOKED_AT
    from lmms_steer.models.forced import forced_ids
    from lmms_steer.search.deciding import deciding_places
    from lmms_steer.steering.anatomy import decoder_layers
    from lmms_steer.steering.placeholders import placeholders
    from lmms_steer.steering.positions import ids_of, token_mask
    from lmms_steer.steering.recording import record_layers

    texts = [question.text for question, _ in pairs]
    own = lm.model_inputs(texts, [question.visuals for question, _ in pairs])
    other = lm.model_inputs(texts, [_in_the_size_of(question.visuals, other.visuals) for question, other in pairs])
    if not torch.equal(own["input_ids"], other["input_ids"]):
        raise UserError("two pictures of one size have different numbers of image tokens in this model")
    media = placeholders(lm.model.config)
    if not media.image:
        raise UserError(f"a {type(lm.model).__name__} does not show which of its tokens are images")
    special = getattr(lm.tokenizer, "all_special_ids", None)
    attention = own.get("attention_mask")
    mask = token_mask(ids_of(own), attention, media, tokens, special_ids=special)[..., None]

    prompt, questions = own["input_ids"].shape[1], [question for question, _ in pairs]
    new_tokens = LOOKED_AT if any(question.answers for question in questions) else 1
    written = lm.model.generate(**own, max_new_tokens=new_tokens, do_sample=False)[:, prompt:]
    places = deciding_places(lm.tokenizer, questions, written)
    settings = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    settings |= forced_ids(written[:, : max(places) + 1], prompt)

    def answers(inputs: dict[str, Any]) -> list[int]:
        steps = lm.model.generate(**inputs, **settings).logits
        return [int(steps[place][row].argmax()) for row, place in enumerate(places)]

    with torch.inference_mode():
        with record_layers(lm.model) as outputs:
            columns = [answers(own), answers(other)]
        # the first pass of the second call: later ones are of the answer's tokens
        recorded = outputs[len(outputs) // 2 :]
        for layer in layers:

            def patch(_: Any, __: Any, output: Any, layer: int = layer) -> Any:
                hidden = output[0] if isinstance(output, tuple) else output
                if hidden.shape[1] != prompt:
                    # a token of the answer
                    return output
                replaced = torch.where(mask.to(hidden.device), recorded[layer], hidden)
                return (replaced, *output[1:]) if isinstance(output, tuple) else replaced

            handle = decoder_layers(lm.model)[layer].register_forward_hook(patch)
            try:
                columns.append(answers(own))
            finally:
                handle.remove()
    return [list(row) for row in zip(*columns, strict=True)]


def _in_the_size_of(own: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    return [other.resize(image.size) for image, other in zip(own, others, strict=True)]
