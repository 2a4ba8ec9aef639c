"""Which tokens of a concept's sentences are anchors and which are controls: a tokenizer is enough to tell."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmms_steer._util.formatting import count_noun
from lmms_steer.concepts import Concept, Pair
from lmms_steer.errors import UserError

MIN_ANCHORS = 10
"""With fewer anchors than this a mean is mostly what few sentences say besides; those that ship have 20 and more."""


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """Where a row was read: the sentence's number, and the characters of its text that the row stands for."""

    sentence: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class SentenceTokens:
    """A sentence's tokens.

    Attributes:
        anchors: where each anchor stands, and the numbers of its tokens.
        others: every other token but BOS, special tokens and padding, with its number.
        spans: token ▸ its characters.
        unknown: numbers of the tokens that stand for a word that the tokenizer does not know.
        skipped: why an anchor counts nowhere.
    """

    anchors: tuple[tuple[TokenSpan, tuple[int, ...]], ...] = ()
    others: tuple[tuple[TokenSpan, int], ...] = ()
    spans: tuple[tuple[int, int], ...] = ()
    unknown: tuple[int, ...] = ()
    skipped: tuple[str, ...] = ()


def tokenize(tokenizer: Any, texts: list[str]) -> dict[str, Tensor]:
    """Right-padded ids, attention_mask, offset_mapping and special_tokens_mask, a BOS first where the model knows one.

    A processor may have switched the tokenizer's own BOS off (PaliGemma's does, and puts it after the image tokens):
    without it the model reads a text that it was never trained on.
    """
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
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


def classify_tokens(
    pair: Pair, number: int, batch: dict[str, Tensor], row: int, unk_token_id: int | None
) -> SentenceTokens:
    """Part one sentence's tokens.

    Args:
        pair: the sentence.
        number: its place in the concept.
        batch: what `tokens_of` gave.
        row: the sentence's row in it.
        unk_token_id: the tokenizer's, where it has one.
    """
    if not pair.spans:
        return SentenceTokens(skipped=(f"sentence {number + 1}: {pair.anchor!r} is not in {pair.sentence!r}",))
    ids, special, kept, spans = (
        batch[key][row].tolist() for key in ("input_ids", "special_tokens_mask", "attention_mask", "offset_mapping")
    )
    real = [bool(k) and not s for k, s in zip(kept, special, strict=True)]
    if not special[0]:
        # without a BOS the first token takes its part: what it holds is of no use to its neighbours' average
        real[0] = False
    unknown = [i for i, known in enumerate(ids) if unk_token_id is not None and known == unk_token_id and real[i]]
    anchors, skipped = [], []
    for start, end in pair.spans:
        tokens = tuple(i for i, (a, b) in enumerate(spans) if real[i] and a < end and b > start and b > a)
        if tokens:
            anchors.append((TokenSpan(number, start, end), tokens))
        else:
            skipped.append(f"sentence {number + 1}: {pair.anchor!r} comes first, and the tokenizer has no BOS")
    taken = {i for _, tokens in anchors for i in tokens}
    others = tuple((TokenSpan(number, *spans[i]), i) for i in range(len(ids)) if real[i] and i not in taken)
    return SentenceTokens(tuple(anchors), others, tuple((a, b) for a, b in spans), tuple(unknown), tuple(skipped))


def check_token_counts(concept: Concept, anchors: int, controls: int, skipped: Iterable[str]) -> None:
    """See that there is something to compare, and something to compare it with.

    Raises:
        UserError: when no anchor is found in any sentence, or there is no control token.
    """
    first = f"First: {next(iter(skipped), 'none')}"
    if not anchors:
        raise UserError(f"concept {concept.name!r}: no sentence holds its anchor. {first}")
    if not controls and concept.contrast:
        raise UserError(f"concept {concept.name!r}: no contrast sentence holds its anchor. {first}")
    if not controls:
        raise UserError(
            f"concept {concept.name!r}: its sentences hold nothing but anchors, there is nothing to compare with"
        )


def token_warnings(
    concept: Concept, tokenizer: str, skipped: Iterable[str], unknown: Iterable[str], anchors: Iterable[str]
) -> Iterator[str]:
    """What a user should know of the tokens: a line for each sentence that was left out, one for the words that the
    tokenizer lacks, and one for too few anchors.

    Args:
        concept: whose sentences were read.
        tokenizer: its name.
        skipped, unknown: as in `Activations`.
        anchors: the text of each anchor that was read.
    """
    yield from (f"skipped, {concept.name} {line}" for line in skipped)
    words = list(dict.fromkeys(unknown))
    if words:
        asked = dict.fromkeys(pair.anchor.lower() for pair in (*concept.pairs, *concept.contrast))
        lost = [anchor for anchor in asked if {word.lower() for word in words} & set(anchor.split())]
        but = f"; anchors among them, which it cannot tell apart: {', '.join(lost)}" if lost else ""
        yield f"WARNING: {concept.name}: {tokenizer} does not know {', '.join(words)}{but}"
    lacking = {word.lower() for word in words}
    known = sum(not lacking & set(anchor.lower().split()) for anchor in anchors)
    if known < MIN_ANCHORS:
        yield (
            f"WARNING: {concept.name}: {count_noun(known, 'anchor')} that {tokenizer} can tell apart, fewer than"
            f" {MIN_ANCHORS}: the direction is mostly what else these few sentences say; write more of them"
        )
