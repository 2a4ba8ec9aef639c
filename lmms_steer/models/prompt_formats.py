"""The built-in prompt formats; `lmms_steer.models.prompts` describes what a format is."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import BatchFeature

from lmms_steer.errors import UserError
from lmms_steer.models.media_inputs import media_inputs
from lmms_steer.models.prompts import answer_token_ids, register_prompt_format
from lmms_steer.models.visuals import Visual

_OF_ONE_IMAGE = ("Blip2Processor", "InstructBlipProcessor", "Kosmos2Processor", "Kosmos2_5Processor")
"""Processors that put one image before a text."""
_SIZES_OF_IMAGES = ("height", "width")
"""What Kosmos-2.5's processor returns for users, not for the model."""
_OF_QFORMER = "qformer_"
"""How the inputs of InstructBLIP's Q-Former begin, which have positions of their own."""
_PLACEHOLDERS = ("image_token", "boi_token", "video_token", "audio_token")
"""Attributes of processors that hold the text which they replace by a visual."""


def without_placeholders(processor: Any, question: str) -> str:
    """A question's text without `<image>` and the processor's own placeholders, which would count as further visuals.

    Some of lmms-eval's tasks write `<image>` into their questions, and its own wrappers remove it, too.
    """
    own = [str(getattr(processor, name, None) or "") for name in _PLACEHOLDERS]
    for placeholder in filter(None, ("<image>", *own)):
        question = question.replace(placeholder, "")
    return question


def _texts(processor: Any, questions: Sequence[str], visuals: Sequence[Sequence[Visual]]) -> list[str]:
    """The questions' texts; those of questions without visuals are left as they are."""
    pairs = zip(questions, visuals, strict=True)
    return [without_placeholders(processor, question) if own else question for question, own in pairs]


@register_prompt_format(
    "chat",
    description="the chat template of the checkpoint's processor, one user turn",
    matches=lambda processor: bool(getattr(processor, "chat_template", None)),
)
def chat_template(
    processor: Any, questions: Sequence[str], visuals: Sequence[Sequence[Visual]], answers: Sequence[str] | None
) -> Any:
    """One user turn with the visuals and the question, then the opening of the answer, by the checkpoint's template.

    An answer to be scored is tokenized as a continuation of the prompt's last characters.
    """
    if not getattr(processor, "chat_template", None):
        raise UserError(
            f"prompt_format=chat: the {type(processor).__name__} of this checkpoint has no chat template; --model"
            " steered_hf without prompt_format finds the format of a checkpoint"
        )
    media = media_inputs(processor, visuals)
    questions = _texts(processor, questions, visuals)
    turns = [
        [{"role": "user", "content": [*own, {"type": "text", "text": question}]}]
        for question, own in zip(questions, media.contents, strict=True)
    ]
    try:
        batch = processor.apply_chat_template(
            turns,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left", **media.options},
        )
    except ValueError as error:
        texts = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        token = getattr(processor, "image_token", None)
        has_images = any(part["type"] == "image" for own in media.contents for part in own)
        if has_images and token and not any(token in text for text in texts):
            raise UserError("the chat template of this checkpoint shows no images: it takes other media") from error
        raise
    if "input_ids" not in batch:
        raise UserError(f"a {type(processor).__name__} returns no input_ids: its model cannot be steered")
    if answers is None:
        return batch
    texts = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    tokenizer = processor.tokenizer
    ids = [answer_token_ids(tokenizer, text, answer) for text, answer in zip(texts, answers, strict=True)]
    return _with_answers(batch, ids, tokenizer.pad_token_id or 0)


@register_prompt_format(
    "paligemma",
    description="PaliGemma: image tokens, BOS, the question and a newline; answers as suffixes",
    matches=lambda processor: "PaliGemma" in type(processor).__name__,
    prompt_end=lambda processor: "",  # noqa: ARG005  PaliGemma's processor tokenizes answers on their own
)
def paligemma_prefix(
    processor: Any, questions: Sequence[str], visuals: Sequence[Sequence[Visual]], answers: Sequence[str] | None
) -> Any:
    """PaliGemma's format: image tokens, BOS, the question, a newline; an answer is a *suffix* with its own token type.

    `token_type_ids` are always set: image and question attend to each other, an answer only to what precedes it.
    """
    for question, own in zip(questions, visuals, strict=True):
        if not own:
            raise UserError(f"PaliGemma needs an image with every question, and {question[:60]!r} has none")
        if not all(isinstance(visual, Image.Image) for visual in own):
            raise UserError(f"PaliGemma takes images, and {question[:60]!r} comes with something else")
    questions = _texts(processor, questions, visuals)
    batch = processor(
        text=["<image>" * len(own) + question for question, own in zip(questions, visuals, strict=True)],
        images=[list(own) for own in visuals],
        suffix=None if answers is None else [answer.strip() for answer in answers],
        padding="longest",
        return_tensors="pt",
    )
    if answers is None:
        batch.pop("labels", None)
    else:
        batch["labels"][:, -1] = -100  # the end-of-sequence token that the processor adds is not part of the answer
    return batch


@register_prompt_format(
    "florence2",
    description="Florence-2: an image, and a question or the name of one of its tasks",
    matches=lambda processor: "Florence2" in type(processor).__name__,
    prompt_end=lambda processor: "",  # noqa: ARG005  answers are in the decoder
)
def florence2_task(
    processor: Any, questions: Sequence[str], visuals: Sequence[Sequence[Visual]], answers: Sequence[str] | None
) -> Any:
    """Florence-2's format, for its encoder: image tokens, BOS, the question or what stands for a task, and EOS."""
    assert answers is None
    for question, own in zip(questions, visuals, strict=True):
        if len(own) != 1 or not isinstance(own[0], Image.Image):
            raise UserError(f"Florence-2 takes one image with every question, which {question[:60]!r} does not have")
    images = [list(own) for own in visuals]
    return processor(text=_texts(processor, questions, visuals), images=images, padding="longest", return_tensors="pt")


@register_prompt_format(
    "plain",
    description="BLIP-2, InstructBLIP and Kosmos-2 without a chat template: one image, then the question as it is",
    matches=lambda processor: (
        type(processor).__name__ in _OF_ONE_IMAGE and not getattr(processor, "chat_template", None)
    ),
    prompt_end=lambda processor: "?",  # noqa: ARG005  what a question ends with: an answer begins with a space
)
def one_image_and_text(
    processor: Any, questions: Sequence[str], visuals: Sequence[Sequence[Visual]], answers: Sequence[str] | None
) -> Any:
    """The processor's own image tokens, then the question, without whitespace at its end.

    Each row is made by itself: in a batch, some of these processors pad between the image and the question.
    """
    rows = []
    questions = _texts(processor, questions, visuals)
    for question, own in zip(questions, visuals, strict=True):
        if len(own) != 1 or not isinstance(own[0], Image.Image):
            raise UserError(f"a {type(processor).__name__} takes one image with every question: {question[:60]!r}")
        row = processor(images=own[0], text=question.strip(), return_tensors="pt")
        rows.append({name: value for name, value in row.items() if name not in _SIZES_OF_IMAGES})
    batch = _left_padded(rows, processor.tokenizer.pad_token_id or 0)
    if answers is None:
        return batch
    asked = zip(questions, answers, strict=True)
    ids = [answer_token_ids(processor.tokenizer, question.strip(), answer) for question, answer in asked]
    return _with_answers(batch, ids, processor.tokenizer.pad_token_id or 0)


def _left_padded(rows: Sequence[Mapping[str, Tensor]], pad_id: int) -> BatchFeature:
    """One batch of rows [1, …]: positions are padded on the left, those of a Q-Former on the right."""
    batch = {}
    for name, first in rows[0].items():
        values = [row[name] for row in rows]
        if first.dim() == 2:
            width = max(value.shape[1] for value in values)
            padding = pad_id if name.endswith("input_ids") else 0
            missing = [width - value.shape[1] for value in values]
            sides = [(0, n) if name.startswith(_OF_QFORMER) else (n, 0) for n in missing]
            values = [nn.functional.pad(value, side, value=padding) for value, side in zip(values, sides, strict=True)]
        batch[name] = torch.cat(values)
    return BatchFeature(batch)


def _with_answers(batch: Any, answers: list[list[int]], pad_id: int) -> Any:
    """Append each row's answer to its prompt, and pad on the left again."""
    shape, real = batch["input_ids"].shape, batch["attention_mask"].bool()
    labels = torch.full(shape, -100)
    padding = {"input_ids": pad_id, "labels": -100}
    batch["labels"] = labels
    width = max(int(row.sum()) + len(answer) for row, answer in zip(real, answers, strict=True))
    for key, value in list(batch.items()):
        if isinstance(value, Tensor) and value.shape == shape and not key.startswith(_OF_QFORMER):
            rows = []
            for row, mask, answer in zip(value, real, answers, strict=True):
                added = {"input_ids": answer, "labels": answer, "attention_mask": [1] * len(answer)}
                end = torch.tensor(added.get(key, [0] * len(answer)), dtype=value.dtype)
                joined = torch.cat([row[mask], end])
                rows.append(torch.nn.functional.pad(joined, (width - len(joined), 0), value=padding.get(key, 0)))
            batch[key] = torch.stack(rows)
    # Mllama and Idefics: an answer sees the images that the end of the prompt sees, as in `generate`
    for key in ("cross_attention_mask", "image_attention_mask"):
        seen = batch.get(key)
        if isinstance(seen, Tensor) and seen.shape[:2] == shape:
            longer = [
                torch.cat([row[mask], row[mask][-1:].repeat(len(answer), *[1] * (row.dim() - 1))])
                for row, mask, answer in zip(seen, real, answers, strict=True)
            ]
            batch[key] = torch.stack(
                [torch.cat([row.new_zeros(width - len(row), *row.shape[1:]), row]) for row in longer]
            )
    return batch
