"""`lmms-steer concepts show`: a concept's sentences, with the anchor as a backbone's tokenizer splits it."""

from collections.abc import Iterator
from typing import Any

from lmms_steer import concepts
from lmms_steer.backbones import backbone_checkpoint
from lmms_steer.concepts import Concept, Pair
from lmms_steer.errors import UserError, one_line


def show(name: str, backbone: str | None) -> Iterator[str]:
    """A line a sentence, `The cup is [left] of it.`, and what is to be known of the whole.

    Args:
        name: of a concept, or its file.
        backbone: whose tokenizer is asked; None: the words as they stand, without tokens.

    Raises:
        UserError: for a concept that does not exist, or a tokenizer that cannot be loaded.
    """
    concept = concepts.load(name)
    tokenizer = None if backbone is None else _tokenizer(backbone)
    yield f"{concept.name}: {concept.about}".rstrip(": ")
    for title, pairs in (("anchors", concept.pairs), ("controls (contrast)", concept.contrast)):
        if pairs:
            yield f"\n{len(pairs)} {title}"
            yield from (f"  {marked(pair, tokenizer)}" for pair in pairs)
    if tokenizer is not None:
        yield ""
        yield from _summary(concept, tokenizer)


def marked(pair: Pair, tokenizer: Any = None) -> str:
    """The sentence with its anchors in brackets, their tokens parted by `|` where a tokenizer is given."""
    text, spans = pair.sentence, pair.spans
    if not spans:
        return f"{text}   <- {pair.anchor!r} does not occur"
    for start, end in reversed(spans):
        pieces = [text[start:end]] if tokenizer is None else _pieces(pair.sentence, start, end, tokenizer)
        text = f"{text[:start]}[{'|'.join(pieces)}]{text[end:]}"
    return text


def _pieces(text: str, start: int, end: int, tokenizer: Any) -> list[str]:
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    return [text[max(a, start) : min(b, end)] for a, b in offsets if a < end and b > start and b > a]


def _summary(concept: Concept, tokenizer: Any) -> Iterator[str]:
    from lmms_steer.extraction.activations import tokens_of

    split = {}
    for pair in concept.pairs:
        for start, end in pair.spans:
            pieces = _pieces(pair.sentence, start, end, tokenizer)
            if len(pieces) > 1:
                split[pair.anchor] = "|".join(pieces)
    yield (
        f"{len(split)} anchors are more than one token and count once, as their mean: {', '.join(split.values())}"
        if split
        else "every anchor is one token"
    )
    if not tokens_of(tokenizer, ["a"])["special_tokens_mask"][0, 0]:
        yield "this tokenizer has no BOS: the first token of each sentence is neither anchor nor control"


def _tokenizer(backbone: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(backbone_checkpoint(backbone))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load the tokenizer of {backbone!r}: {one_line(error)}") from error
