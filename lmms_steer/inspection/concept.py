"""`lmms-steer concepts show`: a concept's sentences, with the anchors as a backbone's tokenizer splits them.

Anchors, skipped sentences and unknown words are found by the code that `extract` uses (`lmms_steer.extraction.tokens`).
"""

from collections.abc import Iterator, Sequence
from typing import Any

from lmms_steer import concepts
from lmms_steer._util.formatting import count_noun
from lmms_steer.concepts import Concept, Pair
from lmms_steer.errors import UserError
from lmms_steer.extraction.tokens import SentenceTokens, check_token_counts, classify_tokens, token_warnings, tokenize
from lmms_steer.vectors.backbones import backbone_checkpoint, short_name


def show_concept(name: str, backbone: str | None) -> Iterator[str]:
    """Yields a line per sentence, `The cup is [left] of it.`, then a summary with `extract`'s warnings.

    Args:
        name: of a concept that ships, or the path of its file.
        backbone: the model whose tokenizer splits the anchors; None: plain words, without a summary.

    Raises:
        UserError: for a concept that does not exist, or a tokenizer that cannot be loaded; after the sentences, for a
            concept that `extract` would refuse.
    """
    concept = concepts.load(name)
    tokenizer = None if backbone is None else _tokenizer(backbone)
    yield f"{concept.name}: {concept.about}".rstrip(": ")
    groups: list[list[SentenceTokens]] = []
    for title, pairs in (("anchor", concept.pairs), ("control (contrast)", concept.contrast)):
        groups.append([] if tokenizer is None else [_tokens(pair, i, tokenizer) for i, pair in enumerate(pairs)])
        if not pairs:
            continue
        count = sum(len(pair.spans) for pair in pairs) if tokenizer is None else _count_anchors(groups[-1])
        yield f"\n{_count_sentences(pairs, None if tokenizer is None else groups[-1])}, {count_noun(count, title)}"
        if tokenizer is None:
            yield from (f"  {mark_anchors(pair)}" for pair in pairs)
        else:
            both = zip(pairs, groups[-1], strict=True)
            yield from (f"  {mark_anchors(pair, tokens, tokenizer.unk_token)}" for pair, tokens in both)
    if tokenizer is not None and backbone is not None:
        yield ""
        yield from _summary(concept, short_name(backbone), tokenizer, *groups)


def mark_anchors(pair: Pair, tokens: SentenceTokens | None = None, unknown: str = "") -> str:
    """The sentence with its anchors in brackets.

    Args:
        pair: the sentence.
        tokens: its tokens, to separate those of an anchor by `|`; None: plain words.
        unknown: the tokenizer's unknown token, to be written after a word that the tokenizer lacks: `[dim=<unk>]`.
    """
    text, spans = pair.sentence, pair.spans
    if not spans:
        return f"{text}   <- {pair.anchor!r} does not occur"
    if tokens is None:
        anchors = [(start, end, text[start:end]) for start, end in spans]
    else:
        anchors = [
            (place.start, place.end, "|".join(_pieces(pair, i, tokens, unknown)))
            for i, (place, _) in enumerate(tokens.anchors)
        ]
    for start, end, shown in reversed(anchors):
        text = f"{text[:start]}[{shown}]{text[end:]}"
    return text if tokens is None or not tokens.skipped else f"{text}   <- left out: {tokens.skipped[0]}"


def _tokens(pair: Pair, number: int, tokenizer: Any) -> SentenceTokens:
    return classify_tokens(pair, number, tokenize(tokenizer, [pair.sentence]), 0, tokenizer.unk_token_id)


def _pieces(pair: Pair, anchor: int, tokens: SentenceTokens, unknown: str) -> Iterator[str]:
    """The text of each token of one anchor."""
    place, positions = tokens.anchors[anchor]
    for position in positions:
        start, end = tokens.spans[position]
        piece = pair.sentence[max(start, place.start) : min(end, place.end)]
        yield f"{piece}={unknown}" if position in tokens.unknown else piece


def _count_anchors(sentences: Sequence[SentenceTokens]) -> int:
    return sum(len(tokens.anchors) for tokens in sentences)


def _count_sentences(pairs: Sequence[Pair], sentences: Sequence[SentenceTokens] | None) -> str:
    """`12 sentences`, or `11 of 12 sentences (left out: sentence 3, …)` where some have no anchor that is read."""
    if sentences is None:
        missing = [f"sentence {i}: {p.anchor!r} is not in it" for i, p in enumerate(pairs, start=1) if not p.spans]
    else:
        missing = [tokens.skipped[0] for tokens in sentences if not tokens.anchors]
    total = count_noun(len(pairs), "sentence")
    if not missing:
        return total
    more = f"; and {len(missing) - 1} more, marked below" if len(missing) > 1 else ""
    return f"{len(pairs) - len(missing)} of {total} (left out: {missing[0]}{more})"


def _summary(
    concept: Concept, backbone: str, tokenizer: Any, pairs: list[SentenceTokens], contrast: list[SentenceTokens]
) -> Iterator[str]:
    both = [*zip(concept.pairs, pairs, strict=True), *zip(concept.contrast, contrast, strict=True)]
    skipped = [line for tokens in pairs for line in tokens.skipped]
    skipped += [f"contrast {line}" for tokens in contrast for line in tokens.skipped]
    unknown = [pair.sentence[slice(*tokens.spans[i])] for pair, tokens in both for i in tokens.unknown]
    split = {
        pair.anchor: "|".join(_pieces(pair, i, tokens, tokenizer.unk_token))
        for pair, tokens in both
        for i, (_, positions) in enumerate(tokens.anchors)
        if len(positions) > 1
    }
    has_unknown_anchor = any(
        i in tokens.unknown for _, tokens in both for _, positions in tokens.anchors for i in positions
    )
    anchors = [
        pair.sentence[place.start : place.end]
        for pair, tokens in zip(concept.pairs, pairs, strict=True)
        for place, _ in tokens.anchors
    ]
    yield from token_warnings(concept, backbone, skipped, unknown, anchors, concept.repeated)
    if split:
        verbs = "is more than one token and counts" if len(split) == 1 else "are more than one token and count"
        yield f"WARNING: {count_noun(len(split), 'anchor')} {verbs} once, as the mean: {', '.join(split.values())}"
    elif not skipped and not has_unknown_anchor:
        yield "every anchor is one token"
    if not tokenize(tokenizer, ["a"])["special_tokens_mask"][0, 0]:
        yield "this tokenizer has no BOS: the first token of each sentence is neither anchor nor control"
    controls = _count_anchors(contrast) if concept.contrast else sum(len(tokens.others) for tokens in pairs)
    check_token_counts(concept, _count_anchors(pairs), controls, skipped)


def _tokenizer(backbone: str) -> Any:
    from transformers import AutoTokenizer

    from lmms_steer.models.loading import UNLOADABLE, loading_problem

    try:
        return AutoTokenizer.from_pretrained(backbone_checkpoint(backbone))
    except UNLOADABLE as error:
        raise UserError(f"cannot load the tokenizer of {backbone!r}: {loading_problem(error)}") from error
