"""Which tokens of a concept's sentences are anchors and which are controls. A tokenizer is enough to find out."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lmms_steer._util.formatting import count_noun
from lmms_steer.concepts import Concept, Pair
from lmms_steer.errors import UserError, shorten

if TYPE_CHECKING:
    from torch import Tensor

MIN_ANCHORS = 10
"""With fewer anchors a mean mostly reflects what else the few sentences say. Concepts that ship have 20 or more."""


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """The sentence's number, and the range of its characters that one row of activations was read at.

    Attributes:
        sentence: number.
        start, end: the range.
        text: what was read, where it is not the sentence of that number but its contrasting question.
    """

    sentence: int
    start: int
    end: int
    text: str | None = None


@dataclass(frozen=True, slots=True)
class SentenceTokens:
    """A sentence's tokens, by kind.

    Attributes:
        anchors: the span of each anchor, and the positions of its tokens.
        others: the span and position of every other token except BOS, special tokens and padding; none where no anchor
            is left.
        spans: the range of characters of the token at each position.
        unknown: positions of the tokens for words that the tokenizer does not know.
        skipped: for each anchor that is left out, the reason.
    """

    anchors: tuple[tuple[TokenSpan, tuple[int, ...]], ...] = ()
    others: tuple[tuple[TokenSpan, int], ...] = ()
    spans: tuple[tuple[int, int], ...] = ()
    unknown: tuple[int, ...] = ()
    skipped: tuple[str, ...] = ()


def tokenize(tokenizer: Any, texts: list[str]) -> "dict[str, Tensor]":
    """Tokenize sentences, with a BOS first if the tokenizer has one.

    A processor may have switched the tokenizer's own BOS off (PaliGemma's does, and puts it after the image tokens).
    Without BOS the model would read a text of a kind that it was never trained on.

    Returns:
        Right-padded `input_ids`, `attention_mask`, `offset_mapping` and `special_tokens_mask`.

    Raises:
        UserError: for a tokenizer that does not know the characters of its tokens.
    """
    import torch

    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            f"a {type(tokenizer).__name__} does not say which characters its tokens are of, and so not which are"
            " anchors: a fast tokenizer of transformers is needed (tokenizer.json)"
        )
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
    pair: Pair, number: int, batch: "dict[str, Tensor]", row: int, unk_token_id: int | None
) -> SentenceTokens:
    """Find one sentence's anchor and other tokens.

    Args:
        pair: the sentence.
        number: its number in the concept.
        batch: what `tokenize` returned.
        row: the sentence's row in it.
        unk_token_id: the tokenizer's, if it has one.
    """
    if not pair.spans:
        return SentenceTokens(skipped=(f"sentence {number + 1}: {pair.anchor!r} is not in {pair.sentence!r}",))
    ids, special, attended, spans = (
        batch[key][row].tolist() for key in ("input_ids", "special_tokens_mask", "attention_mask", "offset_mapping")
    )
    real = [bool(a) and not s for a, s in zip(attended, special, strict=True)]
    if not special[0]:
        # without a BOS the first token takes over its role, and its activations would distort a mean
        real[0] = False
    unknown = [i for i, token in enumerate(ids) if unk_token_id is not None and token == unk_token_id and real[i]]
    anchors, skipped, taken = [], [], set[int]()
    for start, end in pair.spans:
        tokens = tuple(i for i, (a, b) in enumerate(spans) if a < end and b > start and b > a)
        taken.update(tokens)
        # one whose first piece only is left out would be read as another word
        if tokens and all(real[i] for i in tokens):
            anchors.append((TokenSpan(number, start, end), tokens))
        else:
            skipped.append(f"sentence {number + 1}: {pair.anchor!r} comes first, and the tokenizer has no BOS")
    free = [i for i in range(len(ids)) if anchors and real[i] and i not in taken]
    others = tuple((TokenSpan(number, *spans[i]), i) for i in free)
    return SentenceTokens(tuple(anchors), others, tuple((a, b) for a, b in spans), tuple(unknown), tuple(skipped))


def check_token_counts(concept: Concept, anchors: int, controls: int, skipped: Iterable[str]) -> None:
    """Check that there are anchors, and control tokens to compare them with.

    Raises:
        UserError: when no anchor is found in any sentence, or there is no control token.
    """
    first = f"First: {next(iter(skipped), 'none')}"
    if not anchors:
        raise UserError(f"concept {concept.name!r}: no sentence contains its anchor. {first}")
    if not controls and concept.contrast:
        raise UserError(f"concept {concept.name!r}: no contrast sentence contains its anchor. {first}")
    if not controls:
        raise UserError(
            f"concept {concept.name!r}: its sentences contain only anchors, and no other token to compare them with"
        )


def token_warnings(
    concept: Concept,
    tokenizer: str,
    skipped: Iterable[str],
    unknown: Iterable[str],
    anchors: Iterable[str],
    repeated: Sequence[tuple[int, int]],
) -> Iterator[str]:
    """Warnings about a concept's tokens.

    Yields a line for each sentence that was left out, one for sentences that are given twice, one for the words that
    the tokenizer does not know, and one for too few anchors.

    Args:
        concept: whose sentences were read.
        tokenizer: its name.
        skipped, unknown: as in `Activations`.
        anchors: the text of each anchor that was read.
        repeated: as `Concept.repeated`.
    """
    yield from (f"skipped, {concept.name} {line}" for line in skipped)
    if repeated:
        number, first = repeated[0]
        sentence = (*concept.pairs, *concept.contrast)[number].sentence
        of, before = ("contrast ", len(concept.pairs)) if number >= len(concept.pairs) else ("", 0)
        number, first = number - before, first - before
        yield (
            f"WARNING: {concept.name}: {count_noun(len(repeated), 'sentence')} given before, which count more than"
            f" the others; the first: {of}sentence {number + 1} is {of}sentence {first + 1}, {shorten(sentence)!r}"
        )
    words = list(dict.fromkeys(unknown))
    if words:
        all_anchors = dict.fromkeys(pair.anchor.lower() for pair in (*concept.pairs, *concept.contrast))
        lost = [anchor for anchor in all_anchors if {word.lower() for word in words} & set(anchor.split())]
        among = f"; among them these anchors, which it cannot distinguish: {', '.join(lost)}" if lost else ""
        yield f"WARNING: {concept.name}: {tokenizer} does not know {', '.join(words)}{among}"
    unknown_words = {word.lower() for word in words}
    known = sum(not unknown_words & set(anchor.lower().split()) for anchor in anchors)
    if known < MIN_ANCHORS:
        yield (
            f"WARNING: {concept.name}: {count_noun(known, 'anchor')} that {tokenizer} knows, fewer than"
            f" {MIN_ANCHORS}: the direction mostly reflects what else these few sentences say; write more of them"
        )
