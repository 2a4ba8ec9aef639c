"""Prompt formats: how questions and their images become model inputs.

A format is a function `(processor, questions, visuals, answers)` of the processor, the questions [batch], the visuals
of each question, and the answers to be scored or None. It returns a left-padded `BatchFeature`. With answers, the batch
has `labels` [batch, positions]: the ids of the answer, and -100 elsewhere. The formats of an encoder-decoder make what
its encoder takes, padded on the right, and get no answers.

Another package adds a format with `register_prompt_format`, in a module that an entry point of the group
`lmms_steer.prompt_formats` names. `matches` says which processors it is for; formats of other packages are asked before
the built-in ones, so that they can claim any processor.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmms_steer.errors import UserError, first_line
from lmms_steer.models.visuals import Visual
from lmms_steer.registry import Registry

PromptFunction = Callable[[Any, Sequence[str], Sequence[Sequence[Visual]], Sequence[str] | None], Any]

_TAIL = 16
"""Characters at the end of a prompt that decide whether an answer's first token begins with a space."""


def chat_prompt_end(processor: Any) -> str:
    """The last characters of every prompt of a processor's chat template; "" without a template."""
    if not getattr(processor, "chat_template", None):
        return ""
    turn = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
    return str(processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False))[-_TAIL:]


@dataclass(frozen=True, slots=True)
class PromptFormat:
    """A prompt format.

    Attributes:
        name: the value of `prompt_format=` in `--model_args`.
        description: one line.
        function: makes a batch, as described at the top of this module.
        matches: whether the format is for a processor, if the user names none.
        prompt_end: the characters with which every prompt of a processor ends, as far as the tokens of an answer depend
            on them; "" if answers are tokenized on their own.
    """

    name: str
    description: str
    function: PromptFunction
    matches: Callable[[Any], bool]
    prompt_end: Callable[[Any], str] = chat_prompt_end

    def __call__(
        self,
        processor: Any,
        questions: Sequence[str],
        visuals: Sequence[Sequence[Visual]],
        answers: Sequence[str] | None = None,
    ) -> Any:
        """Make a batch with the format's function."""
        return self.function(processor, questions, visuals, answers)


prompt_formats: Registry[PromptFormat] = Registry(
    "prompt format", "lmms_steer.prompt_formats", ("lmms_steer.models.prompt_formats",)
)
"""Every known prompt format by its name."""


def register_prompt_format(
    name: str,
    *,
    description: str,
    matches: Callable[[Any], bool],
    prompt_end: Callable[[Any], str] = chat_prompt_end,
) -> Callable[[PromptFunction], PromptFunction]:
    """Decorator that registers a function as a prompt format and returns it unchanged; arguments as of `PromptFormat`.

    Raises:
        ValueError: for a name that is taken or not valid.
    """

    def register(function: PromptFunction) -> PromptFunction:
        # a script may register its own before the built-in ones, which come first, are loaded
        prompt_formats.loaded()
        prompt_formats.add(name, PromptFormat(name, description, function, matches, prompt_end))
        return function

    return register


def checked_batch(batch: Any, name: str, questions: int, scored: bool, padded_left: bool) -> Any:
    """What a format that is not this package's returned, if a model can run on it.

    Args:
        batch: what it returned.
        name: the format's, for messages.
        questions: how many it was given.
        scored: whether it was given answers.
        padded_left: whether the model writes after the last position, as all but encoder-decoders do.

    Raises:
        UserError: for anything but tensors by name with a row of `input_ids` for each question; for a batch that is
            padded on the right; without `labels` where answers are scored.
    """
    from torch import Tensor
    from transformers import BatchFeature

    what = f"the prompt format {name!r} returned"
    if not isinstance(batch, Mapping) or not all(isinstance(value, Tensor) for value in batch.values()):
        raise UserError(f"{what} a {type(batch).__name__}: expected tensors by name, as a processor returns them")
    if "input_ids" in batch and len(batch["input_ids"]) != questions:
        raise UserError(f"{what} {len(batch['input_ids'])} rows of input_ids for {questions} questions")
    mask = batch.get("attention_mask")
    if padded_left and mask is not None and mask.dim() == 2 and not bool(mask[:, -1].all()):
        raise UserError(f"{what} a batch that is padded on the right: call the processor with padding_side='left'")
    if scored and "labels" not in batch:
        raise UserError(f"{what} no labels, which say where the answers to be scored are")
    return batch if hasattr(batch, "to") else BatchFeature(dict(batch))


def prompt_format_for(processor: Any) -> PromptFormat:
    """The format that matches a processor: another package's if there is one, else a built-in one.

    Raises:
        UserError: for a processor that no format matches, or about which one fails to say.
    """
    # the built-in formats are registered first, and the general one before the special one
    for entry in reversed(prompt_formats.entries().values()):
        try:
            matches = entry.matches(processor)
        except Exception as error:
            # it was written for the processors of one model, and is asked about all
            raise UserError(
                f"the prompt format {entry.name!r} cannot say whether it is for a {type(processor).__name__}: its"
                f" `matches` failed with {type(error).__name__}: {first_line(error)}; choose one: prompt_format=NAME"
            ) from error
        if matches:
            return entry
    raise UserError(
        f"no prompt format is known for a {type(processor).__name__} without a chat template: choose one with"
        f" prompt_format=NAME (known: {', '.join(prompt_formats.names())})"
    )


def find_prompt_format(prompt_format: str | PromptFormat | PromptFunction) -> PromptFormat:
    """The format of a name; a function becomes an unregistered format.

    Raises:
        UserError: for an unknown name, with the nearest known one.
    """
    if isinstance(prompt_format, PromptFormat):
        return prompt_format
    if not callable(prompt_format):
        return prompt_formats.get(str(prompt_format))
    for registered in prompt_formats.loaded().values():
        if registered.function is prompt_format:
            return registered
    name = getattr(prompt_format, "__name__", type(prompt_format).__name__)
    return PromptFormat(name, "given as a function", prompt_format, matches=lambda processor: False)  # noqa: ARG005


def answer_token_ids(tokenizer: Any, prompt: str, answer: str) -> list[int]:
    """The tokens of an answer as it continues a prompt, of which the last characters are enough."""
    tail = prompt[-_TAIL:]
    continuation = answer.strip() if not tail or tail[-1].isspace() else f" {answer.strip()}"
    before = tokenizer(tail, add_special_tokens=False)["input_ids"]
    after: list[int] = tokenizer(tail + continuation, add_special_tokens=False)["input_ids"]
    if after[: len(before)] == before and len(after) > len(before):
        return after[len(before) :]
    alone: list[int] = tokenizer(continuation, add_special_tokens=False)["input_ids"]
    return alone


def bracketed_token_id(tokenizer: Any, prompt: str, answer: str) -> int:
    """The token of `(A)` in which the letter is, as it continues a prompt; the answer's first one if it is unknown."""
    ids = answer_token_ids(tokenizer, prompt, f"({answer.strip()})")
    texts = (tokenizer.decode(ids[: n + 1], skip_special_tokens=True).strip() for n in range(len(ids)))
    place = next((n for n, text in enumerate(texts) if len(text) > 1), None)
    if place is None or ids[place] == tokenizer.unk_token_id:
        return answer_token_ids(tokenizer, prompt, answer)[0]
    return ids[place]
