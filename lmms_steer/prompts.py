"""How a question and its images become model inputs: a function a format, not a subclass with a copied loop.

Each takes the processor, the questions, the images of each question, and answers to be scored or None, and returns a
left-padded `BatchFeature`. With answers it has `labels` [batch, positions]: the answer's ids and an end-of-sequence
token after them, else -100.
"""

from collections.abc import Callable
from typing import Any

from PIL import Image

from lmms_steer.errors import UserError

Format = Callable[[Any, list[str], list[list[Image.Image]], list[str] | None], Any]


def format_of(processor: Any) -> Format:
    """PaliGemma's prefix for its processor, the chat template for every other.

    Raises:
        UserError: for a processor that has neither.
    """
    if "PaliGemma" in type(processor).__name__:
        return paligemma_prefix
    if getattr(processor, "chat_template", None):
        return chat_template
    raise UserError(f"a {type(processor).__name__} without a chat template: how it wants its prompts is not known")


def chat_template(
    processor: Any, questions: list[str], images: list[list[Image.Image]], answers: list[str] | None
) -> Any:
    """One user turn: the images, then the question, and the opening of the answer."""
    turns = [
        [
            {
                "role": "user",
                "content": [*({"type": "image", "image": i} for i in own), {"type": "text", "text": question}],
            }
        ]
        for question, own in zip(questions, images, strict=True)
    ]
    if answers is not None:
        raise UserError("scoring answers is offered for PaliGemma's format alone so far")
    return processor.apply_chat_template(
        turns, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    )  # fmt: skip


def paligemma_prefix(
    processor: Any, questions: list[str], images: list[list[Image.Image]], answers: list[str] | None
) -> Any:
    """PaliGemma's: the image tokens, BOS, the question, a newline; an answer is a *suffix* of its own token type.

    `token_type_ids` are always there: image and question see one another, an answer sees only what is before it.
    """
    for question, own in zip(questions, images, strict=True):
        if not own:
            raise UserError(f"PaliGemma needs an image with every question, and {question[:60]!r} has none")
    batch = processor(
        text=["<image>" * len(own) + question for question, own in zip(questions, images, strict=True)],
        images=images,
        suffix=None if answers is None else [answer.strip() for answer in answers],
        padding="longest",
        return_tensors="pt",
    )
    if answers is None:
        batch.pop("labels", None)
    return batch
