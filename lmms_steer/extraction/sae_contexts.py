"""The sentences in which a feature fires most, as a judge is shown them.

Neuronpedia's explanation of a feature, where the SAE is there and the site can be reached.
"""

import json
import re
import urllib.request
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmms_steer import concepts
from lmms_steer.concepts import Concept, Pair
from lmms_steer.errors import UserError, first_line
from lmms_steer.extraction.activations import Activations, Rows
from lmms_steer.extraction.methods import ExtractionJob
from lmms_steer.extraction.tokens import TokenSpan

MAX_CONTEXTS = 6
_PAIRS_OF_EACH = 8


def neutral_concept(job: ExtractionJob) -> Concept:
    """Sentences that are not about the concept: the user's, else some of each of the other concepts that ship.

    Raises:
        UserError: when the user's file cannot be read or is empty.
    """
    path = job.settings.neutral
    if path is None:
        others = (c for c in concepts.shipped() if not c.contrast and c.name != job.concept.name)
        own = {pair.sentence for pair in job.concept.pairs}
        pairs = [pair for c in others for pair in c.pairs[:_PAIRS_OF_EACH] if pair.sentence not in own]
        return Concept("neutral", "", tuple(pairs))
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the neutral text {str(path)!r}: {first_line(error)}") from error
    # a row of every token is wanted here, and which of them is called the anchor does not matter
    words = ((re.search(r"\w+", line), line) for line in lines)
    pairs = [Pair(word[0], line.strip()) for word, line in words if word]
    if not pairs:
        raise UserError(f"the neutral text {str(path)!r} holds no sentence: expected one a line")
    return Concept("neutral", "", tuple(pairs))


class Contexts:
    """Rows of one layer at a time, from the concept's sentences and from neutral ones."""

    def __init__(self, *sources: Activations) -> None:
        self._sources = sources
        self._places: list[tuple[str, TokenSpan]] = [
            (source.texts[place.sentence], place)
            for source in sources
            for place in (*source.anchor_places, *source.control_places)
        ]

    def rows(self, layer: int) -> Rows:
        """float32 [tokens, width], of all sources."""
        return np.concatenate(
            [part[:, layer] for source in self._sources for part in (source.anchors, source.controls)]
        )

    def strongest(self, activations: npt.NDArray[np.float32]) -> list[str]:
        """At most `SHOWN` sentences, each once, the token marked: `The cup is <<left>> of it. (4.1)`.

        Args:
            activations: one feature's, in the order of `rows`.
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


_URL = "https://www.neuronpedia.org/api/feature/{sae}/{feature}"
_SECONDS = 10


@dataclass(slots=True)
class Explanations:
    """Asks for explanations until the site fails once; then there are none for the rest of the command."""

    reached: bool = True

    def of(self, neuronpedia: str | None, feature: int) -> str | None:
        """The explanation, or None. `neuronpedia`: the SAE's id there, `gemma-2-2b/12-gemmascope-res-16k`."""
        if neuronpedia is None or not self.reached:
            return None
        try:
            with urllib.request.urlopen(_URL.format(sae=neuronpedia, feature=feature), timeout=_SECONDS) as reply:
                found = json.load(reply).get("explanations") or []
            return str(found[0]["description"])[:500] if found else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.reached = False
            return None
