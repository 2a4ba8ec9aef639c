"""The sentences in which an SAE feature fires most, for a judge to read."""

import re

import numpy as np
import numpy.typing as npt

from lmms_steer import concepts
from lmms_steer.concepts import Concept, Pair
from lmms_steer.errors import UserError, reason
from lmms_steer.extraction.activations import Activations, Rows
from lmms_steer.extraction.job import ExtractionJob
from lmms_steer.extraction.tokens import TokenSpan

MAX_CONTEXTS = 6
_PAIRS_PER_CONCEPT = 8


def neutral_concept(job: ExtractionJob) -> Concept:
    """Sentences that are not about the concept: the user's, else some of every other concept that ships.

    Raises:
        UserError: when the user's file cannot be read or is empty.
    """
    path = job.settings.neutral
    if path is None:
        others = (c for c in concepts.shipped() if not c.contrast and c.name != job.concept.name)
        own = {pair.sentence for pair in job.concept.pairs}
        pairs = [pair for c in others for pair in c.pairs[:_PAIRS_PER_CONCEPT] if pair.sentence not in own]
        return Concept("neutral", "", tuple(pairs))
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the neutral text {str(path)!r}: {reason(error)}") from error
    # the activations of every token are used here, so any word will do as the anchor, but the first one: a tokenizer
    # without BOS has none there
    words = ((re.findall(r"\w+", line), line) for line in lines)
    pairs = [Pair(found[-1], line.strip()) for found, line in words if found]
    if not pairs:
        raise UserError(f"the neutral text {str(path)!r} contains no sentence: expected one per line")
    return Concept("neutral", "", tuple(pairs))


class Contexts:
    """The sentences in which features fire, from the concept's activations and from neutral ones.

    Args:
        sources: activations of the same backbone.
    """

    def __init__(self, *sources: Activations) -> None:
        self._sources = sources
        self._places: list[tuple[str, TokenSpan]] = [
            (source.texts[place.sentence] if place.text is None else place.text, place)
            for source in sources
            for place in (*source.anchor_places, *source.control_places)
        ]

    def rows(self, layer: int) -> Rows:
        """One layer's activations at all tokens of all sources: float32 [tokens, width]."""
        return np.concatenate(
            [part[:, layer] for source in self._sources for part in (source.anchors, source.controls)]
        )

    def strongest(self, activations: npt.NDArray[np.float32]) -> list[str]:
        """At most `MAX_CONTEXTS` sentences, each once, with the token marked: `The cup is <<left>> of it. (4.1)`.

        Args:
            activations: of one feature [tokens], in the order of `rows`.
        """
        shown: dict[str, str] = {}
        for row in np.argsort(-activations, kind="stable").tolist():
            text, place = self._places[row]
            if activations[row] <= 0 or len(shown) == MAX_CONTEXTS:
                break
            if text not in shown:
                marked = f"{text[: place.start]}<<{text[place.start : place.end]}>>{text[place.end :]}"
                shown[text] = f"{marked} ({activations[row]:.2g})"
        return list(shown.values())
