"""How a question and its images become model inputs: a function a format, not a subclass with a copied loop.

Each takes the processor, the questions, the visuals of each question, and answers to be scored or None, and returns a
left-padded `BatchFeature`. With answers it has `labels` [batch, positions]: the answer's ids, else -100.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lmms_steer.errors import UserError
from lmms_steer.models.visuals import Visual

PromptFormat = Callable[[Any, Sequence[str], Sequence[Sequence[Visual]], Sequence[str] | None], Any]


def prompt_format_for(processor: Any) -> PromptFormat:
    """PaliGemma's prefix for its processor, the chat template for every other.

    Raises:
        UserError: for a processor that has neither.
    """
    if "PaliGemma" in type(processor).__name__:
        return paligemma_prefix
    if getattr(processor, "chat_template", None):
        return chat_template
    raise UserError(f"a {type(processor).__name__} without a chat template: how it wants its prompts is not known")


def paligemma_prefix(
    processor: Any, questions: Sequence[str], visuals: Sequence[Sequence[Visual]], answers: Sequence[str] | None
) -> Any:
    """PaliGemma's: the image tokens, BOS, the question, a newline; an answer is a *suffix* of its own token type.

    `token_type_ids` are always there: image and question see one another, an answer sees only what is before it.
    """
    for question, own in zip(questions, visuals, strict=True):
        if not own:
            raise UserError(f"PaliGemma needs an image with every question, and {question[:60]!r} has none")
        if not all(isinstance(visual, Image.Image) for visual in own):
            raise UserError(f"PaliGemma takes images, and {question[:60]!r} comes with a video")
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
        batch["labels"][:, -1] = -100  # the processor's end-of-sequence token is no part of the answer
    return batch


def chat_template(
    processor: Any, questions: Sequence[str], visuals: Sequence[Sequence[Visual]], answers: Sequence[str] | None
) -> Any:
    """One user turn: the visuals, then the question; and the answer's opening, as the checkpoint's template says.

    An answer that is scored is tokenized as it would go on from the prompt's last characters.
    """
    turns = [
        [{"role": "user", "content": [*map(_content, own), {"type": "text", "text": question}]}]
        for question, own in zip(questions, visuals, strict=True)
    ]
    batch = processor.apply_chat_template(
        turns,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    )
    if "input_ids" not in batch:
        raise UserError(f"a {type(processor).__name__} gives no input_ids: its model cannot be steered")
    if answers is None:
        return batch
    texts = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    tokenizer = processor.tokenizer
    ids = [answer_token_ids(tokenizer, text, answer) for text, answer in zip(texts, answers, strict=True)]
    return _with_answers(batch, ids, tokenizer.pad_token_id or 0)


def prompt_end(processor: Any, formatted: PromptFormat) -> str:
    """How every prompt ends, as far as an answer's tokens depend on it.

    Empty where answers are tokenized by themselves, as PaliGemma's processor does.
    """
    if formatted is paligemma_prefix or not getattr(processor, "chat_template", None):
        return ""
    turn = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
    return str(processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False))[-_TAIL:]


_TAIL = 16
"""So many characters tell whether the first word's token begins with the space before it."""


def _content(visual: Visual) -> dict[str, Any]:
    if isinstance(visual, Image.Image):
        return {"type": "image", "image": visual}
    if isinstance(visual, str):
        return {"type": "video", "path": visual}
    return {"type": "video", "video": np.stack([np.asarray(frame) for frame in visual])}


def answer_token_ids(tokenizer: Any, prompt: str, answer: str) -> list[int]:
    """The tokens of an answer as it goes on from a prompt, whose last characters are enough."""
    tail = prompt[-_TAIL:]
    joined = answer.strip() if not tail or tail[-1].isspace() else f" {answer.strip()}"
    before = tokenizer(tail, add_special_tokens=False)["input_ids"]
    after: list[int] = tokenizer(tail + joined, add_special_tokens=False)["input_ids"]
    if after[: len(before)] == before and len(after) > len(before):
        return after[len(before) :]
    alone: list[int] = tokenizer(joined, add_special_tokens=False)["input_ids"]
    return alone


def _with_answers(batch: Any, answers: list[list[int]], pad_id: int) -> Any:
    """Each row's prompt with its answer behind it, padded on the left again."""
    shape, real = batch["input_ids"].shape, batch["attention_mask"].bool()
    labels = torch.full(shape, -100)
    filling = {"input_ids": pad_id, "labels": -100}
    batch["labels"] = labels
    width = max(int(row.sum()) + len(answer) for row, answer in zip(real, answers, strict=True))
    for key, value in list(batch.items()):
        if isinstance(value, Tensor) and value.shape == shape:
            rows = []
            for row, mask, answer in zip(value, real, answers, strict=True):
                own = {"input_ids": answer, "labels": answer, "attention_mask": [1] * len(answer)}
                end = torch.tensor(own.get(key, [0] * len(answer)), dtype=value.dtype)
                kept = torch.cat([row[mask], end])
                rows.append(torch.nn.functional.pad(kept, (width - len(kept), 0), value=filling.get(key, 0)))
            batch[key] = torch.stack(rows)
    return batch
