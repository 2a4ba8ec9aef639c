"""`lmms-steer concepts show`: a concept's sentences, with the anchor as a backbone's tokenizer splits it.

What is an anchor, left out or unknown is said by the rule that `extract` reads by (`lmms_steer.extraction.tokens`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lmms_steer import concepts
from lmms_steer._util.formatting import count_noun
from lmms_steer.concepts import Concept, Pair
from lmms_steer.errors import UserError, first_line
from lmms_steer.vectors.backbones import backbone_checkpoint, short_name

if TYPE_CHECKING:
    from lmms_steer.extraction.tokens import SentenceTokens


def show_concept(name: str, backbone: str | None) -> Iterator[str]:
    """A line a sentence, `The cup is [left] of it.`, and what is to be known of the whole.

    Args:
        name: of a concept, or its file.
        backbone: whose tokenizer is asked; None: the words as they stand, without tokens.

    Raises:
        UserError: for a concept that does not exist, or a tokenizer that cannot be loaded; after the sentences, for a
            concept that `extract` would refuse.
    """
    concept = concepts.load(name)
    tokenizer = None if backbone is None else _tokenizer(backbone)
    yield f"{concept.name}: {concept.about}".rstrip(": ")
    groups: list[list[SentenceTokens]] = []
    for title, pairs in (("anchor", concept.pairs), ("control (contrast)", concept.contrast)):
        groups.append([] if tokenizer is None else [_parted(pair, i, tokenizer) for i, pair in enumerate(pairs)])
        if not pairs:
            continue
        found = sum(len(pair.spans) for pair in pairs) if tokenizer is None else _anchors(groups[-1])
        yield f"\n{count_noun(len(pairs), 'sentence')}, {count_noun(found, title)}"
        if tokenizer is None:
            yield from (f"  {mark_anchors(pair)}" for pair in pairs)
        else:
            both = zip(pairs, groups[-1], strict=True)
            yield from (f"  {mark_anchors(pair, parted, tokenizer.unk_token)}" for pair, parted in both)
    if tokenizer is not None and backbone is not None:
        yield ""
        yield from _summary(concept, short_name(backbone), tokenizer, *groups)


def mark_anchors(pair: Pair, parted: SentenceTokens | None = None, unknown: str = "") -> str:
    """The sentence with its anchors in brackets.

    Args:
        pair: the sentence.
        parted: its tokens, where they are to be parted by `|`; None: the words as they stand.
        unknown: stands behind a word that the tokenizer does not know: `[dim=<unk>]`.
    """
    text, spans = pair.sentence, pair.spans
    if not spans:
        return f"{text}   <- {pair.anchor!r} does not occur"
    if parted is None:
        anchors = [(start, end, text[start:end]) for start, end in spans]
    else:
        anchors = [
            (place.start, place.end, "|".join(_pieces(pair, i, parted, unknown)))
            for i, (place, _) in enumerate(parted.anchors)
        ]
    for start, end, shown in reversed(anchors):
        text = f"{text[:start]}[{shown}]{text[end:]}"
    return text if parted is None or not parted.skipped else f"{text}   <- left out: {parted.skipped[0]}"


def _parted(pair: Pair, number: int, tokenizer: Any) -> SentenceTokens:
    from lmms_steer.extraction.tokens import classify_tokens, tokenize

    return classify_tokens(pair, number, tokenize(tokenizer, [pair.sentence]), 0, tokenizer.unk_token_id)


def _pieces(pair: Pair, anchor: int, parted: SentenceTokens, unknown: str) -> Iterator[str]:
    place, tokens = parted.anchors[anchor]
    for token in tokens:
        start, end = parted.spans[token]
        piece = pair.sentence[max(start, place.start) : min(end, place.end)]
        yield f"{piece}={unknown}" if token in parted.unknown else piece


def _anchors(parted: Sequence[SentenceTokens]) -> int:
    return sum(len(sentence.anchors) for sentence in parted)


def _summary(
    concept: Concept, backbone: str, tokenizer: Any, pairs: list[SentenceTokens], contrast: list[SentenceTokens]
) -> Iterator[str]:
    from lmms_steer.extraction.tokens import check_token_counts, token_warnings, tokenize

    both = [*zip(concept.pairs, pairs, strict=True), *zip(concept.contrast, contrast, strict=True)]
    skipped = [line for _, parted in both for line in parted.skipped]
    unknown = [pair.sentence[slice(*parted.spans[i])] for pair, parted in both for i in parted.unknown]
    split = {
        pair.anchor: "|".join(_pieces(pair, i, parted, tokenizer.unk_token))
        for pair, parted in both
        for i, (_, tokens) in enumerate(parted.anchors)
        if len(tokens) > 1
    }
    lost = any(i in parted.unknown for _, parted in both for _, tokens in parted.anchors for i in tokens)
    anchors = [
        pair.sentence[place.start : place.end]
        for pair, parted in zip(concept.pairs, pairs, strict=True)
        for place, _ in parted.anchors
    ]
    yield from token_warnings(concept, backbone, skipped, unknown, anchors)
    if split:
        more = "is more than one token and counts" if len(split) == 1 else "are more than one token and count"
        yield f"WARNING: {count_noun(len(split), 'anchor')} {more} once, as the mean: {', '.join(split.values())}"
    elif not skipped and not lost:
        yield "every anchor is one token"
    if not tokenize(tokenizer, ["a"])["special_tokens_mask"][0, 0]:
        yield "this tokenizer has no BOS: the first token of each sentence is neither anchor nor control"
    controls = _anchors(contrast) if concept.contrast else sum(len(parted.others) for parted in pairs)
    check_token_counts(concept, _anchors(pairs), controls, skipped)


def _tokenizer(backbone: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(backbone_checkpoint(backbone))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load the tokenizer of {backbone!r}: {first_line(error)}") from error
