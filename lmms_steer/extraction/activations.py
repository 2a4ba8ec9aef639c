"""Read every layer's output at the anchor and control tokens of a concept's sentences, in one batched pass."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from lmms_steer.concepts import Concept, Pair
from lmms_steer.errors import UserError
from lmms_steer.intervention.anatomy import decoder_layers

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row was read: the sentence's number, and the characters of its text that the row stands for."""

    sentence: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Activations:
    """What the methods work on.

    Attributes:
        anchors: float32 [anchors, layers, width]; a word of several tokens counts once, as their mean.
        controls: float32 [controls, layers, width]: every other token but BOS (the first token of a sentence, where
            the tokenizer puts none before it), special tokens and padding; or, for a concept with `contrast`, that
            contrast's anchors.
        anchor_places, control_places: where each row was read.
        texts: the sentences by number.
        skipped: sentences that were left out, each with the reason.
        unknown_words: words that the tokenizer does not know.
    """

    anchors: Rows
    controls: Rows
    anchor_places: tuple[Place, ...]
    control_places: tuple[Place, ...]
    texts: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    unknown_words: tuple[str, ...] = ()

    @property
    def anchor_sentence(self) -> npt.NDArray[np.int64]:
        """The sentence's number of each anchor row."""
        return np.array([place.sentence for place in self.anchor_places])

    @property
    def control_sentence(self) -> npt.NDArray[np.int64]:
        """The sentence's number of each control row."""
        return np.array([place.sentence for place in self.control_places])


@dataclass(slots=True)
class _Read:
    anchors: list[Rows]
    anchor_places: list[Place]
    others: list[Rows]
    other_places: list[Place]
    skipped: list[str]
    unknown: list[str]


def read(model: nn.Module, tokenizer: Any, concept: Concept, batch_size: int = 16) -> Activations:
    """Run the concept's sentences through a text model.

    Raises:
        UserError: when no anchor is found in any sentence, or there is no control token.
    """
    pairs = _read_pairs(model, tokenizer, concept.pairs, batch_size, concept.name)
    controls, places = pairs.others, pairs.other_places
    if concept.contrast:
        contrast = _read_pairs(model, tokenizer, concept.contrast, batch_size, f"{concept.name} contrast")
        # numbered after the concept's own sentences, so that no number means two sentences
        controls = contrast.anchors
        places = [replace(place, sentence=len(concept.pairs) + place.sentence) for place in contrast.anchor_places]
        pairs.skipped += contrast.skipped
        pairs.unknown += contrast.unknown
    if not pairs.anchors:
        first = pairs.skipped[0] if pairs.skipped else "none"
        raise UserError(f"concept {concept.name!r}: no sentence holds its anchor. First: {first}")
    if not controls:
        raise UserError(
            f"concept {concept.name!r}: its sentences hold nothing but anchors, there is nothing to compare with"
        )
    return Activations(
        np.stack(pairs.anchors),
        np.stack(controls),
        tuple(pairs.anchor_places),
        tuple(places),
        tuple(pair.sentence for pair in (*concept.pairs, *concept.contrast)),
        tuple(pairs.skipped),
        tuple(dict.fromkeys(pairs.unknown)),
    )


def tokens_of(tokenizer: Any, texts: list[str]) -> dict[str, Tensor]:
    """Right-padded ids, attention_mask, offset_mapping and special_tokens_mask, a BOS first where the model knows one.

    A processor may have switched the tokenizer's own BOS off (PaliGemma's does, and puts it after the image tokens):
    without it the model reads a text that it was never trained on.
    """
    batch = tokenizer(
        texts,
        padding=True,
        padding_side="right",
        return_tensors="pt",
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
    bos = tokenizer.bos_token_id
    if bos is None or bool((batch["input_ids"][:, 0] == bos).all()):
        return dict(batch)
    first = {"input_ids": bos, "attention_mask": 1, "special_tokens_mask": 1, "offset_mapping": 0}
    return {
        key: torch.cat([torch.full_like(batch[key][:, :1], value), batch[key]], dim=1) for key, value in first.items()
    }


def _read_pairs(model: nn.Module, tokenizer: Any, pairs: Sequence[Pair], batch_size: int, title: str) -> _Read:
    found = _Read([], [], [], [], [], [])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    for start in tqdm(range(0, len(pairs), batch_size), desc=title, disable=None, leave=False):
        chunk = pairs[start : start + batch_size]
        batch = tokens_of(tokenizer, [pair.sentence for pair in chunk])
        with record_layers(model) as outputs, torch.inference_mode():
            device = next(model.parameters()).device
            # the decoder without its head: a logit for every word of the vocabulary would be memory for nothing
            decoder: Any = model.get_decoder()  # type: ignore[operator]
            decoder(input_ids=batch["input_ids"].to(device), attention_mask=batch["attention_mask"].to(device))
        states = torch.stack(outputs, dim=2).float().cpu().numpy()  # [batch, positions, layers, width]
        for row, pair in enumerate(chunk):
            _sort(found, pair, start + row, states[row], batch, row, tokenizer)
    return found


def _sort(found: _Read, pair: Pair, number: int, states: Rows, batch: Any, row: int, tokenizer: Any) -> None:
    offsets = batch["offset_mapping"][row].tolist()
    special = batch["special_tokens_mask"][row].tolist()
    real = [
        bool(kept) and not marked for kept, marked in zip(batch["attention_mask"][row].tolist(), special, strict=True)
    ]
    if not special[0]:
        # without a BOS the first token takes its part: what it holds is of no use to its neighbours' average
        real[0] = False
    ids = batch["input_ids"][row].tolist()
    taken: set[int] = set()
    spans = pair.spans
    if not spans:
        found.skipped.append(f"sentence {number + 1}: {pair.anchor!r} is not in {pair.sentence!r}")
        return
    if tokenizer.unk_token_id is not None:
        unknown = (i for i, known in enumerate(ids) if known == tokenizer.unk_token_id and real[i])
        found.unknown.extend(pair.sentence[slice(*offsets[i])] for i in unknown)
    for start, end in spans:
        tokens = [i for i, (a, b) in enumerate(offsets) if real[i] and a < end and b > start and b > a]
        if tokens:
            taken.update(tokens)
            found.anchors.append(states[tokens].mean(0))
            found.anchor_places.append(Place(number, start, end))
        else:
            found.skipped.append(f"sentence {number + 1}: {pair.anchor!r} comes first, and the tokenizer has no BOS")
    for i in range(len(ids)):
        if real[i] and i not in taken:
            found.others.append(states[i])
            found.other_places.append(Place(number, *offsets[i]))


@contextmanager
def record_layers(model: nn.Module) -> Iterator[list[Tensor]]:
    """Inside, each forward call appends every decoder layer's output [batch, positions, width], in order.

    Own hooks, as `output_hidden_states` gives the last layer after the final norm.
    """
    outputs: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG001
        outputs.append(output[0] if isinstance(output, tuple) else output)

    handles = [layer.register_forward_hook(keep) for layer in decoder_layers(model)]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
