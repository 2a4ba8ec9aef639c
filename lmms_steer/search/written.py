"""Score cells by what the model writes: greedy text behind steered prompts, scored by the task itself."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from lmms_steer.errors import UserError
from lmms_steer.models.settings import cut, generate_settings
from lmms_steer.search.asked import Asked
from lmms_steer.search.hooked import Hooked
from lmms_steer.search.letters import Letters, told_apart
from lmms_steer.search.replay import Replay
from lmms_steer.search.sound import same_effect


class Written:
    """The answers of one batch.

    Args:
        lm: the model.
        task: of lmms-eval, with `output_type: generate_until`.
        batch: the questions.
        inputs: the batch as the model takes it.

    Raises:
        UserError: for a task that lets nothing be generated, or whose metric is no number for one question.
    """

    def __init__(self, lm: Any, task: Any, batch: Sequence[Asked], inputs: dict[str, Any]) -> None:
        if task.config.output_type != "generate_until":
            raise UserError(f"{task.config.task} is {task.config.output_type}: --score generate needs generate_until")
        self.lm, self.task, self.batch, self.inputs = lm, task, batch, inputs
        self.letters = Letters(lm, batch) if batch and told_apart(lm, batch) else None
        given = dict(task.config.generation_kwargs or {})
        self.until, self.settings = given.get("until") or [], generate_settings(given) | {"do_sample": False}
        self.metric = str(task.config.metric_list[0]["metric"])

    def base(self, source: Replay | Hooked) -> Tensor:  # noqa: ARG002  as of `Letters`
        """Of each question, unsteered, float [2, questions]: the score; whether no answer could be read, nan where the
        task does not say."""
        return self._scores(self.lm.model.generate(**self.inputs, **self.settings)[:, self._length :])

    def answers(self, source: Replay | Hooked) -> list[list[float]]:
        """As of `Letters`, where the questions have answers of a fixed set; else none."""
        return self.letters.answers(source) if self.letters is not None else [[] for _ in self.batch]

    def hits(self, source: Replay | Hooked, layer: int, deltas: Tensor, targets: Sequence[str]) -> Tensor:
        """As `base`, float [2, cells, questions]: `deltas` [cells, width] and `targets` of cells at one layer."""
        return torch.stack([self._scores(ids) for ids in self.ids(source, layer, deltas, targets)], 1)

    def same(self, replay: Replay, hooked: Hooked, layer: int, delta: Tensor, tokens: str) -> bool:
        """Whether both write the same, and move the first token's logits alike: a text seldom tells a weak cell."""
        if not same_effect(replay, hooked, layer, delta, tokens):
            return False
        ours, theirs = (self.ids(source, layer, delta[None], [tokens])[0].tolist() for source in (replay, hooked))
        return [self._ended(row) for row in ours] == [self._ended(row) for row in theirs]

    def ids(self, source: Replay | Hooked, layer: int, deltas: Tensor, targets: Sequence[str]) -> list[Tensor]:
        """What is generated for each cell, [questions, new tokens]."""
        if isinstance(source, Hooked):
            return [self._hooked(source, layer, delta, tokens) for delta, tokens in zip(deltas, targets, strict=True)]
        if self.settings["max_new_tokens"] == 1:
            return list(source.steer_all(layer, deltas, targets).argmax(-1, keepdim=True))

        def said(start: int, cells: list[int]) -> list[Tensor]:
            logits, kept = source.steer_and_keep(layer, deltas[cells], [targets[i] for i in cells], start)
            first = logits.argmax(-1).reshape(-1, 1)
            return list(self._continue(first, kept, len(cells)).chunk(len(cells)))

        return source.in_stacks(targets, said)

    def _hooked(self, source: Hooked, layer: int, delta: Tensor, tokens: str) -> Tensor:
        with source.steered(layer, delta, tokens):
            return self.lm.model.generate(**self.inputs, **self.settings)[:, self._length :]  # type: ignore[no-any-return]

    @torch.inference_mode()
    def _continue(self, first: Tensor, kept: Mapping[int, tuple[Tensor, Tensor]], copies: int) -> Tensor:
        """The tokens behind `first` [copies * questions, 1] too."""
        cache = DynamicCache(config=self.lm.model.config.get_text_config(decoder=True))
        for layer in sorted(kept):
            cache.update(*kept[layer], layer)
        texts = {name: self.inputs[name] for name in ("token_type_ids", "mm_token_type_ids") if name in self.inputs}
        longer = {name: _longer(tensor, torch.zeros_like(first), copies) for name, tensor in texts.items()}
        with _of_copies(self.lm.model, copies):
            output = self.lm.model.generate(
                input_ids=_longer(self.inputs["input_ids"], first, copies),
                attention_mask=_longer(self.inputs["attention_mask"], torch.ones_like(first), copies),
                past_key_values=cache,
                **longer,
                **{**self.settings, "max_new_tokens": int(self.settings["max_new_tokens"]) - 1},
            )
        return output[:, self._length :]  # type: ignore[no-any-return]

    def _scores(self, ids: Tensor) -> Tensor:
        return torch.tensor([self._score(q, row) for q, row in zip(self.batch, ids.tolist(), strict=True)]).T

    def _ended(self, row: list[int]) -> list[int]:
        ends = self.lm.model.generation_config.eos_token_id
        stops = ends if isinstance(ends, list) else [ends]
        return row[: next((i for i, token in enumerate(row) if token in stops), len(row))]

    def _score(self, question: Asked, row: list[int]) -> tuple[float, float]:
        text = cut(self.lm.tokenizer.decode(self._ended(row), skip_special_tokens=True), self.until)
        found = self.task.process_results(question.doc, [text])
        value, unparsed = found.get(self.metric), found.get("unparsed")
        if isinstance(value, bool | int | float):
            return float(value), float(unparsed) if isinstance(unparsed, bool | int | float) else torch.nan
        raise UserError(f"{self.task.config.task}: its metric {self.metric} is no number for one question")

    @property
    def _length(self) -> int:
        return int(self.inputs["input_ids"].shape[1])


def _longer(tensor: Tensor, last: Tensor, copies: int) -> Tensor:
    return torch.cat((tensor.repeat(copies, 1), last), 1)


@contextmanager
def _of_copies(model: Any, copies: int) -> Iterator[None]:
    """Qwen's models remember of each prompt how far its images moved the positions: as often as it was stacked."""
    inner: Any = getattr(model, "model", None)
    moved = getattr(inner, "rope_deltas", None)
    if isinstance(moved, Tensor):
        inner.rope_deltas = moved.repeat(copies, 1)
    try:
        yield
    finally:
        if isinstance(moved, Tensor):
            inner.rope_deltas = moved
