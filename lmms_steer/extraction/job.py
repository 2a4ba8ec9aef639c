"""What an extraction method is given, and what it returns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lmms_steer.concepts import Concept
from lmms_steer.errors import UserError
from lmms_steer.extraction.activations import Activations


class NoDirection(UserError):
    """A concept whose anchors do not differ from its controls, or of which nothing is left."""


@dataclass(frozen=True, slots=True)
class ExtractionSettings:
    """What a user can choose, for all methods of one command.

    Attributes:
        seed: of every random choice.
        layers: the decoder blocks that the vector is made for; None: all of them.
        paper_exact: for `sae`: select features as the paper's released code does, where ours corrects it.
        sae: an SAE release of sae-lens, or a folder with one SAE that sae-lens saved per layer; None: the default for
            the backbone.
        judge: how SAE features are checked: `llm`, `ask` or `none`.
        neutral: a text file with one sentence per line, for the contexts that a judge sees; None: sentences of the
            other concepts that ship.
        image_contrast: for questions about images: what the controls are shown (`IMAGE_CONTRASTS` of
            `lmms_steer.extraction.image_contrasts`); None: the questions' own contrast.
        at: for questions about images: the tokens that are read, `last`, `image`, `text` or `both`, or `patches` of the
            vision tower.
        orthogonal_to: the name or the file of vectors; at each layer the component along them is removed.
    """

    seed: int = 0
    layers: tuple[int, ...] | None = None
    paper_exact: bool = False
    sae: str | None = None
    judge: str = "llm"
    neutral: Path | None = None
    image_contrast: str | None = None
    at: str = "last"
    orthogonal_to: str | None = None


DEFAULT_SETTINGS = ExtractionSettings()


@dataclass(frozen=True, slots=True)
class ExtractionJob:
    """One concept in one backbone.

    Attributes:
        model: the backbone's short name.
        model_id: as it was loaded (a Hub id, or the short name of a folder).
        n_layers, hidden_size: the decoder's.
        concept: the concept whose sentences were read.
        read: reads another concept's sentences with the same backbone.
        settings: what the user chose.
    """

    model: str
    model_id: str
    n_layers: int
    hidden_size: int
    concept: Concept
    read: Callable[[Concept], Activations]
    settings: ExtractionSettings = DEFAULT_SETTINGS


@dataclass(frozen=True, slots=True)
class MethodResult:
    """What a method returns.

    Attributes:
        directions: layer ▸ float array [width].
        settings: parameters and measurements for the provenance, as plain JSON.
        notes: lines for the user to read.
        libraries: distributions whose versions go into the provenance.
    """

    directions: Mapping[int, npt.NDArray[np.floating[Any]]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()


MethodFunction = Callable[[Activations, ExtractionJob], MethodResult]
"""An extraction method: activations of the anchor and control tokens in, one direction per layer out."""
