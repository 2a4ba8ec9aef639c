"""Read every layer's output at the anchor and control tokens of a concept's sentences, in one batched pass."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from tqdm import tqdm

from lmms_steer.concepts import Concept, Pair
from lmms_steer.extraction.tokens import SentenceTokens, TokenSpan, check_token_counts, classify_tokens, tokenize
from lmms_steer.steering.recording import record_layers

Rows = npt.NDArray[np.float32]


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
    anchor_places: tuple[TokenSpan, ...]
    control_places: tuple[TokenSpan, ...]
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
    anchor_places: list[TokenSpan]
    others: list[Rows]
    other_places: list[TokenSpan]
    skipped: list[str]
    unknown: list[str]


def read_activations(model: nn.Module, tokenizer: Any, concept: Concept, batch_size: int = 16) -> Activations:
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
    check_token_counts(concept, len(pairs.anchors), len(controls), pairs.skipped)
    return Activations(
        np.stack(pairs.anchors),
        np.stack(controls),
        tuple(pairs.anchor_places),
        tuple(places),
        tuple(pair.sentence for pair in (*concept.pairs, *concept.contrast)),
        tuple(pairs.skipped),
        tuple(dict.fromkeys(pairs.unknown)),
    )


def _read_pairs(model: nn.Module, tokenizer: Any, pairs: Sequence[Pair], batch_size: int, title: str) -> _Read:
    found = _Read([], [], [], [], [], [])
    for start in tqdm(range(0, len(pairs), batch_size), desc=title, disable=None, leave=False):
        chunk = pairs[start : start + batch_size]
        batch = tokenize(tokenizer, [pair.sentence for pair in chunk])
        with record_layers(model) as outputs, torch.inference_mode():
            device = next(model.parameters()).device
            # the decoder without its head: a logit for every word of the vocabulary would be memory for nothing
            decoder: Any = model.get_decoder()  # type: ignore[operator]
            decoder(input_ids=batch["input_ids"].to(device), attention_mask=batch["attention_mask"].to(device))
        states = torch.stack(outputs, dim=2).float().cpu().numpy()  # [batch, positions, layers, width]
        for row, pair in enumerate(chunk):
            parted = classify_tokens(pair, start + row, batch, row, tokenizer.unk_token_id)
            _keep(found, pair, parted, states[row])
    return found


def _keep(found: _Read, pair: Pair, parted: SentenceTokens, states: Rows) -> None:
    found.skipped.extend(parted.skipped)
    found.unknown.extend(pair.sentence[slice(*parted.spans[i])] for i in parted.unknown)
    for place, tokens in parted.anchors:
        found.anchors.append(states[list(tokens)].mean(0))
        found.anchor_places.append(place)
    for place, token in parted.others:
        found.others.append(states[token])
        found.other_places.append(place)
