"""Biases on answer words: a control for gains that come from preferring other answers, not from perceiving more."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from lmms_steer._util.yaml import read_yaml
from lmms_steer.errors import UserError, first_line

LOOKED_AT = 8
"""Tokens of an answer in which a choice is looked for. One that comes later is preceded by text of its own."""


@dataclass(frozen=True, slots=True)
class AnswerBias:
    """Numbers that are added to the logits of answer words until one of them is written.

    That is the answer's first token, or the letter of `(A)`: a model that answers so is sure of the bracket.

    Attributes:
        words: word ▸ the number that is added to the logit of its first token.
        ids: the ids of these first tokens, in the order of the words.
        bracketed: those of the words behind a bracket, which some tokenizers tell apart.
    """

    words: dict[str, float]
    ids: tuple[int, ...]
    bracketed: tuple[int, ...]

    @property
    def numbers(self) -> dict[int, float]:
        """Token id ▸ what is added to its logit."""
        values = self.words.values()
        return {**dict(zip(self.bracketed, values, strict=True)), **dict(zip(self.ids, values, strict=True))}

    def on(self, logits: Tensor) -> Tensor:
        """Logits [rows, vocabulary] with the numbers added."""
        numbers = self.numbers
        added = torch.tensor(list(numbers.values())).to(logits).expand(len(logits), -1)
        return logits.index_add(1, torch.tensor(list(numbers), device=logits.device), added)

    def places(self, answers: Tensor, is_answer: Tensor) -> Tensor:
        """Where the numbers are added.

        Args:
            answers: token ids, int [rows, tokens].
            is_answer: which of them belong to the answer, bool [rows, tokens].

        Returns:
            bool [rows, tokens]: up to the first of the words, among the answer's first `LOOKED_AT` tokens.
        """
        names = torch.isin(answers, torch.tensor(list(self.numbers), device=answers.device)) & is_answer
        before = names.int().cumsum(1) - names.int()
        return is_answer & (before == 0) & (is_answer.int().cumsum(1) <= LOOKED_AT)

    def after(self, prompt: int) -> LogitsProcessorList:
        """A logits processor for `generate` that adds the numbers.

        Args:
            prompt: the length of the prompt in positions, padding included.
        """
        return LogitsProcessorList([_Biased(self, prompt)])


class _Biased(LogitsProcessor):  # type: ignore[misc]
    def __init__(self, bias: AnswerBias, prompt: int) -> None:
        self.bias, self.prompt = bias, prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        # a place for the token that is chosen now
        answers = torch.nn.functional.pad(input_ids[:, self.prompt :], (0, 1), value=-1)
        is_next = self.bias.places(answers, torch.ones_like(answers, dtype=torch.bool))[:, -1:]
        return self.bias.on(scores).where(is_next, scores)


def read_answer_bias(path: str, first_token: Callable[[str], int], bracketed_token: Callable[[str], int]) -> AnswerBias:
    """Read a YAML file of word: number.

    Args:
        path: the file.
        first_token: gives the id of a word's first token at the beginning of an answer.
        bracketed_token: gives that of its first token behind a bracket at the beginning of an answer.

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
        bracketed = {word: bracketed_token(word) for word in words}
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
    # a first token that two words share behind the bracket does not say which one is meant
    known = Counter(bracketed.values())
    behind = (bracketed[word] if known[bracketed[word]] == 1 else ids[word] for word in words)
    return AnswerBias(words, tuple(ids.values()), tuple(behind))


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
