"""A backbone, a concept and a method ▸ `SteeringVectors` with their provenance."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lmms_steer import __version__
from lmms_steer.backbones import backbone_checkpoint, short_name
from lmms_steer.concepts import Concept
from lmms_steer.errors import UserError, one_line, unknown
from lmms_steer.extraction.activations import Activations, Rows, read
from lmms_steer.extraction.mean_shift import mean_shift
from lmms_steer.intervention.anatomy import text_config
from lmms_steer.vectors import LAYER_CONVENTION, SteeringVectors

METHODS: dict[str, Callable[[Activations], Rows]] = {"mean_shift": mean_shift}
"""name ▸ function from activations to directions [layers, width]."""


class Backbone:
    """A text model and its tokenizer, loaded once for many concepts.

    Args:
        name: a Hub id, a folder, `tiny-gemma2`, or the short name of a backbone in the table.
        revision: of a Hub id.
        device: where to run; an accelerator where there is one.

    Raises:
        UserError: when it cannot be loaded.
    """

    def __init__(self, name: str, revision: str | None = None, device: str | None = None) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.name = short_name(name)
        source = backbone_checkpoint(name)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        options: dict[str, Any] = {} if revision is None else {"revision": revision}
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(source, **options)
            dtype = "float32" if self.device.type == "cpu" else "auto"
            model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **options)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot load the backbone {name!r}: {one_line(error)}") from error
        self.model = model.to(self.device).eval()
        self.source = {
            "model": self.name,
            "model_id": short_name(source) if Path(source).is_dir() else source,
            "revision": getattr(self.model.config, "_commit_hash", None) or revision,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "hidden_size": text_config(self.model).hidden_size,
            "n_layers": text_config(self.model).num_hidden_layers,
        }

    def read(self, concept: Concept, batch_size: int = 16) -> Activations:
        """One pass over the concept's sentences, for all methods."""
        return read(self.model, self.tokenizer, concept, batch_size)

    def vectors(self, concept: Concept, method: str, activations: Activations) -> SteeringVectors:
        """What `method` makes of activations that `read` gave.

        Raises:
            UserError: for a method that does not exist.
        """
        if method not in METHODS:
            raise unknown("method", method, METHODS)
        directions = METHODS[method](activations)
        provenance = {
            **self.source,
            "layer_convention": LAYER_CONVENTION,
            "method": method,
            "settings": {"anchors": len(activations.anchors), "controls": len(activations.controls)},
            "concept": concept.name,
            "sentences_sha256": concept.sentences_sha256,
            "skipped": list(activations.skipped),
            "versions": {
                "lmms-steer": __version__,
                "torch": torch.__version__,
                "transformers": version("transformers"),
            },
        }
        return SteeringVectors(dict(enumerate(directions)), provenance)
