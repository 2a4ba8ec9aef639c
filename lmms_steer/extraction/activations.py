"""Read every layer's output at the anchor and control tokens of a concept's sentences, in one batched pass.

torch is imported by the functions that run a model, so that the data class is available without it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lmms_steer._util.progress import progress_bar
from lmms_steer.concepts import Concept, Pair
from lmms_steer.errors import UserError, first_line
from lmms_steer.extraction.tokens import (
    SentenceTokens,
    TokenSpan,
    check_token_counts,
    classify_tokens,
    token_warnings,
    tokenize,
)
from lmms_steer.steering.support import check_backbone

if TYPE_CHECKING:
    from torch import nn

    from lmms_steer.models.batches import ShrinkingRunner

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Activations:
    """The activations of one concept's anchor and control tokens: the input of an extraction method.

    Attributes:
        anchors: float32 [anchors, layers, width], read-only; a word of several tokens counts once, as their mean.
        controls: float32 [controls, layers, width]: every other token except BOS (or the first token of a sentence,
            where the tokenizer adds no BOS), special tokens and padding. For a concept with `contrast`: the anchors
            of the contrast.
        anchor_places, control_places: the text span of each row.
        texts: the sentences, by number.
        skipped: sentences that were left out, each with the reason.
        unknown_words: words that the tokenizer does not know.
        at: of questions about images: the tokens that were read, as in `ExtractionSettings`.
        shuffled_images: of an image contrast: the same with the images of other questions; None where they are the
            activations themselves.
        tower: layers, patches and width of a vision tower whose layers were read instead. Anchors and controls are
            then one row each, the mean over all questions, [1, layers, patches * width].
    """

    anchors: Rows
    controls: Rows
    anchor_places: tuple[TokenSpan, ...]
    control_places: tuple[TokenSpan, ...]
    texts: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    unknown_words: tuple[str, ...] = ()
    at: str | None = None
    shuffled_images: "Activations | None" = None
    tower: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        # a method that changed them in place would change what the next method reads
        for name in ("anchors", "controls"):
            rows = getattr(self, name).view()
            rows.flags.writeable = False
            object.__setattr__(self, name, rows)

    @property
    def counts(self) -> tuple[int, int]:
        """How many anchors and controls were read."""
        if self.tower is not None:
            return len(self.anchor_places), len(self.control_places)
        return len(self.anchors), len(self.controls)

    @property
    def anchor_sentence(self) -> npt.NDArray[np.int64]:
        """The number of each anchor row's sentence."""
        return np.array([place.sentence for place in self.anchor_places])

    @property
    def control_sentence(self) -> npt.NDArray[np.int64]:
        """The number of each control row's sentence."""
        return np.array([place.sentence for place in self.control_places])

    def warnings(self, concept: Concept, tokenizer: str) -> Iterator[str]:
        """Warnings about what was read of a concept (`lmms_steer.extraction.tokens.token_warnings`), a line each."""
        anchors = [self.texts[place.sentence][place.start : place.end] for place in self.anchor_places]
        # several questions about an image may have one contrasting question, whose text is not among these
        repeated = [(number, first) for number, first in concept.repeated if number < len(self.texts)]
        yield from token_warnings(concept, tokenizer, self.skipped, self.unknown_words, anchors, repeated)


@dataclass(slots=True)
class _PairRows:
    """What was read from a list of pairs, collected batch by batch."""

    anchors: list[Rows]
    anchor_places: list[TokenSpan]
    others: list[Rows]
    other_places: list[TokenSpan]
    skipped: list[str]
    unknown: list[str]

    def add(self, pair: Pair, tokens: SentenceTokens, states: Rows) -> None:
        """Add one sentence. states: float32 [positions, layers, width]."""
        self.skipped.extend(tokens.skipped)
        self.unknown.extend(pair.sentence[slice(*tokens.spans[i])] for i in tokens.unknown)
        for place, positions in tokens.anchors:
            self.anchors.append(states[list(positions)].mean(0))
            self.anchor_places.append(place)
        for place, position in tokens.others:
            self.others.append(states[position])
            self.other_places.append(place)


def read_activations(
    model: "nn.Module",
    tokenizer: Any,
    concept: Concept,
    batch_size: int = 16,
    runner: "ShrinkingRunner | None" = None,
) -> Activations:
    """Run the concept's sentences through a text model.

    Args:
        model: the text model.
        tokenizer: its tokenizer.
        concept: the concept.
        batch_size: sentences per forward pass; fewer after an out-of-memory error.
        runner: remembers, from concept to concept, how many sentences fitted into memory.

    Raises:
        UserError: for a model that cannot read sentences (`lmms_steer.steering.support.check_backbone`); when no
            anchor is found in any sentence, there is no control token, or a single sentence does not fit into memory.
    """
    from lmms_steer.models.batches import ShrinkingRunner

    check_backbone(model.config, type(model).__name__)
    runner = runner or ShrinkingRunner("sentences")
    own = _read_pairs(model, tokenizer, concept.pairs, batch_size, concept.name, runner)
    controls, places = own.others, own.other_places
    if concept.contrast:
        contrast = _read_pairs(model, tokenizer, concept.contrast, batch_size, f"{concept.name} contrast", runner)
        # numbered after the concept's own sentences, so that a number means one sentence
        controls = contrast.anchors
        places = [replace(place, sentence=len(concept.pairs) + place.sentence) for place in contrast.anchor_places]
        own.skipped += (f"contrast {line}" for line in contrast.skipped)
        own.unknown += contrast.unknown
    check_token_counts(concept, len(own.anchors), len(controls), own.skipped)
    return Activations(
        np.stack(own.anchors),
        np.stack(controls),
        tuple(own.anchor_places),
        tuple(places),
        tuple(pair.sentence for pair in (*concept.pairs, *concept.contrast)),
        tuple(own.skipped),
        tuple(dict.fromkeys(own.unknown)),
    )


def out_of_memory(error: Exception, when: str) -> UserError:
    """The error for a model that does not fit into memory even with one sentence or question at a time."""
    remedy = "load the model smaller, with --dtype bfloat16, or use a --device with more memory"
    return UserError(f"out of memory {when}: {first_line(error)}; {remedy}")


def _read_pairs(
    model: "nn.Module", tokenizer: Any, pairs: Sequence[Pair], batch_size: int, title: str, runner: "ShrinkingRunner"
) -> _PairRows:
    import torch

    from lmms_steer.steering.recording import record_layers

    def read(numbers: list[int]) -> list[tuple[SentenceTokens, Rows]]:
        batch = tokenize(tokenizer, [pairs[number].sentence for number in numbers])
        with record_layers(model) as outputs, torch.inference_mode():
            device = next(model.parameters()).device
            # the decoder without its head: logits over the whole vocabulary would only take memory
            decoder: Any = model.get_decoder()  # type: ignore[operator]
            decoder(input_ids=batch["input_ids"].to(device), attention_mask=batch["attention_mask"].to(device))
        states = torch.stack(outputs, dim=2).float().cpu().numpy()  # [batch, positions, layers, width]
        unknown = tokenizer.unk_token_id
        tokens = [classify_tokens(pairs[number], number, batch, row, unknown) for row, number in enumerate(numbers)]
        return list(zip(tokens, states, strict=True))

    rows = _PairRows([], [], [], [], [], [])
    for start in progress_bar(range(0, len(pairs), batch_size), desc=title, leave=False):
        chunk = range(len(pairs))[start : start + batch_size]
        try:
            for number, (tokens, states) in zip(chunk, runner.run(chunk, read), strict=True):
                rows.add(pairs[number], tokens, states)
        except torch.OutOfMemoryError as error:
            raise out_of_memory(error, "with one sentence at a time") from error
    return rows
