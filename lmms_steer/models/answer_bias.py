"""Biases on answer words: a control for gains that come from preferring other answers, not from perceiving more."""

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
    """Numbers that are added to the logits of an answer's first token, and to no later token.

    (A search fits them on the logits of that token alone.)

    Attributes:
        words: word ▸ the number that is added to the logit of its first token.
        ids: the ids of these first tokens, in the order of the words.
    """

    words: dict[str, float]
    ids: tuple[int, ...]

    def on(self, logits: Tensor) -> Tensor:
        """Logits [rows, vocabulary] of the answers' first tokens, with the biases added."""
        added = torch.tensor(list(self.words.values())).to(logits).expand(len(logits), -1)
        return logits.index_add(1, torch.tensor(self.ids, device=logits.device), added)

    def after(self, prompt: int) -> LogitsProcessorList:
        """A logits processor for `generate` that adds the biases at the first generated token.

        Args:
            prompt: the length of the prompt in positions, padding included.
        """
        return LogitsProcessorList([_FirstTokenBias(self, prompt)])


class _FirstTokenBias(LogitsProcessor):  # type: ignore[misc]
    def __init__(self, bias: AnswerBias, prompt: int) -> None:
        self.bias, self.prompt = bias, prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return self.bias.on(scores) if input_ids.shape[1] == self.prompt else scores


def read_answer_bias(path: str, first_token: Callable[[str], int]) -> AnswerBias:
    """Read a YAML file of word: number.

    Args:
        path: the file.
        first_token: gives the id of a word's first token at the beginning of an answer.

    Raises:
        UserError: for a file that does not exist or is not of this form, or two words that begin with the same token.
    """
    if not Path(path).is_file():
        raise UserError(
            f"answer_bias={path}: no such file; a search writes one if all answers come from one small set of words"
        )
    try:
        data: Any = read_yaml(Path(path)).typed()
        words = {_check_word(word): _check_number(bias) for word, bias in data.items()}
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
                f"answer_bias={path}: {owners[token]!r} and {word!r} begin with the same token in this model, which can"
                " have one bias only: leave one of them out"
            )
        owners[token] = word
    return AnswerBias(words, tuple(ids.values()))


def _check_word(word: object) -> str:
    # YAML reads an unquoted yes as true, and "True" is another word
    if isinstance(word, bool) or word is None:
        raise ValueError(f"the word {word} needs quotes")
    return str(word)


def _check_number(bias: object) -> float:
    number = float(str(bias))
    if not math.isfinite(number):
        raise ValueError(f"{bias} is not a finite number")
    return number
