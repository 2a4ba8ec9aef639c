"""What a method is: activations in, one direction a layer out, with the settings that go into the provenance."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lmms_steer.concepts import Concept

if TYPE_CHECKING:
    from lmms_steer.extraction.activations import Activations


@dataclass(frozen=True, slots=True)
class ExtractionSettings:
    """What a user can choose for all methods of one command.

    Attributes:
        seed: of every random choice.
        paper_exact: the arithmetic of the paper's released code where ours puts it right (`sae`).
        sae: an SAE release of sae-lens, or a folder with one that sae-lens saved for each layer; None: the table's.
        judge: who says whether a feature means the concept: `llm`, `ask` or `none`.
        neutral: a text file with one sentence a line, for the contexts that a judge sees; None: the sentences of the
            other concepts that ship.
    """

    seed: int = 0
    paper_exact: bool = False
    sae: str | None = None
    judge: str = "llm"
    neutral: Path | None = None


DEFAULT_SETTINGS = ExtractionSettings()


@dataclass(frozen=True, slots=True)
class ExtractionJob:
    """One concept in one backbone.

    Attributes:
        model: the backbone's short name.
        model_id: as it was loaded (a Hub id, or the short name of a folder).
        n_layers, hidden_size: the decoder's.
        concept: whose sentences were read.
        read: reads another concept's sentences with the same backbone.
        settings: what the user chose.
    """

    model: str
    model_id: str
    n_layers: int
    hidden_size: int
    concept: Concept
    read: "Callable[[Concept], Activations]"
    settings: ExtractionSettings = DEFAULT_SETTINGS


@dataclass(frozen=True, slots=True)
class MethodResult:
    """What a method gives back.

    Attributes:
        directions: layer ▸ float array [width].
        settings: what it was made with and what was found on the way; plain JSON, for the provenance.
        notes: lines that the user should read.
        libraries: distributions whose version goes into the provenance.
    """

    directions: Mapping[int, npt.NDArray[np.floating[Any]]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()


Method = Callable[["Activations", ExtractionJob], MethodResult]
