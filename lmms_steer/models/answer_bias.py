"""A bias on answer words: a control for gains that come from liking other answers, not from seeing more."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from lmms_steer._util.yaml import read_yaml
from lmms_steer.errors import UserError, first_line


@dataclass(frozen=True, slots=True)
class AnswerBias:
    """What is added where an answer begins, and nowhere behind: a search fits it on that token's logits alone.

    Attributes:
        words: word ▸ what is added to the logit of its first token.
        ids: the first tokens, in the words' order.
    """

    words: dict[str, float]
    ids: tuple[int, ...]

    def on(self, logits: Tensor) -> Tensor:
        """Logits [rows, vocabulary] of the answers' first tokens, with the biases."""
        added = torch.tensor(list(self.words.values())).to(logits).expand(len(logits), -1)
        return logits.index_add(1, torch.tensor(self.ids, device=logits.device), added)

    def after(self, prompt: int) -> LogitsProcessorList:
        """The same for `generate`, whose prompt is so many positions long, padding counted."""
        return LogitsProcessorList([_AtFirst(self, prompt)])


class _AtFirst(LogitsProcessor):  # type: ignore[misc]
    def __init__(self, bias: AnswerBias, prompt: int) -> None:
        self.bias, self.prompt = bias, prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return self.bias.on(scores) if input_ids.shape[1] == self.prompt else scores


def read_answer_bias(path: str, first_token: Callable[[str], int]) -> AnswerBias:
    """A YAML file of word: number.

    Args:
        path: of the file.
        first_token: the id of a word's first token, as the model writes it.

    Raises:
        UserError: for a file that is none, or two words that begin with the same token.
    """
    if not Path(path).is_file():
        raise UserError(
            f"answer_bias={path}: no such file; a search writes it where answers are of one small set of words"
        )
    try:
        data: Any = read_yaml(Path(path)).typed()
        words = {_word(word): _number(bias) for word, bias in data.items()}
        if not words:
            raise ValueError("it names no word")
        ids = {word: first_token(word) for word in words}
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(
            f"cannot read answer_bias={path}: expected a YAML file of word: number ({first_line(error)})"
        ) from error
    owners: dict[int, str] = {}
    for word, token in ids.items():
        if token in owners:
            raise UserError(
                f"answer_bias={path}: {owners[token]!r} and {word!r} begin with the same token in this model, and a"
                " bias is on that token: give one of them"
            )
        owners[token] = word
    return AnswerBias(words, tuple(ids.values()))


def _word(word: object) -> str:
    # YAML reads a bare yes as true, and the word True is another
    if isinstance(word, bool) or word is None:
        raise ValueError(f"the word {word} needs quotes")
    return str(word)


def _number(bias: object) -> float:
    number = float(str(bias))
    if not math.isfinite(number):
        raise ValueError(f"{bias} is no finite number")
    return number
