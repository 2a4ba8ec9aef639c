"""A backbone, a concept and a method ▸ `SteeringVectors` with their provenance."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmms_steer import __version__, concepts
from lmms_steer._util.logging import quiet_in_logs
from lmms_steer.concepts import Concept
from lmms_steer.errors import UserError, first_line
from lmms_steer.extraction.activations import Activations, read_activations
from lmms_steer.extraction.methods import DEFAULT_SETTINGS, ExtractionJob, ExtractionSettings, Method, MethodResult
from lmms_steer.extraction.methods.linear_probe import linear_probe
from lmms_steer.extraction.methods.mean_shift import mean_shift
from lmms_steer.extraction.methods.pca import pca
from lmms_steer.extraction.methods.sae import sae, sae_denoised
from lmms_steer.models.loading import usable_device
from lmms_steer.steering.anatomy import text_config
from lmms_steer.vectors.backbones import backbone_checkpoint, short_name
from lmms_steer.vectors.controls import CONTROLS, random_like, with_norms_of, wrong_concept_name
from lmms_steer.vectors.method_names import check_method
from lmms_steer.vectors.steering_vectors import LAYER_CONVENTION, SteeringVectors

METHODS: dict[str, Method] = {
    "mean_shift": mean_shift,
    "linear_probe": linear_probe,
    "pca": pca,
    "sae": sae,
    "sae_denoised": sae_denoised,
}


@dataclass(frozen=True, slots=True)
class Extracted:
    """A vector, and the lines that the user should read about it."""

    vectors: SteeringVectors
    notes: tuple[str, ...] = ()


class Backbone:
    """A text model, or an MLLM's language model, and its tokenizer: loaded once for many concepts.

    Args:
        name: a Hub id, a folder, `tiny-gemma2`, or the short name of a backbone in the table; an MLLM is read through
            its own language model.
        revision: of a Hub id.
        device: where to run; an accelerator where there is one.
        dtype: of the weights; float32 on a processor and the checkpoint's own elsewhere where unsaid.

    Raises:
        UserError: when it cannot be loaded.
    """

    def __init__(
        self, name: str, revision: str | None = None, device: str | None = None, dtype: str | None = None
    ) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

        self.name = short_name(name)
        self.checkpoint = backbone_checkpoint(name)
        self.device = usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        options: dict[str, Any] = {} if revision is None else {"revision": revision}
        try:
            with quiet_in_logs():
                config = AutoConfig.from_pretrained(self.checkpoint, **options)
                self.is_mllm = hasattr(config, "vision_config")
                self.tokenizer = AutoTokenizer.from_pretrained(self.checkpoint, **options)
                loader = AutoModelForImageTextToText if self.is_mllm else AutoModelForCausalLM
                dtype = dtype or ("float32" if self.device.type == "cpu" else "auto")
                model = loader.from_pretrained(self.checkpoint, dtype=dtype, **options)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot load the backbone {name!r}: {first_line(error)}") from error
        self.model = model.to(self.device).eval()
        self.source = {
            "model": self.name,
            "model_id": short_name(self.checkpoint) if Path(self.checkpoint).is_dir() else self.checkpoint,
            "revision": getattr(self.model.config, "_commit_hash", None) or revision,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "hidden_size": text_config(self.model).hidden_size,
            "n_layers": text_config(self.model).num_hidden_layers,
        }

    def read(self, concept: Concept, batch_size: int = 16) -> Activations:
        """One pass over the concept's sentences, for all methods."""
        return read_activations(self.model, self.tokenizer, concept, batch_size)

    def read_pictures(self, path: Path, name: str, batch_size: int = 16) -> tuple[Concept, Activations]:
        """Contrasting questions about pictures (`lmms_steer.extraction.image_pairs`), read in an MLLM.

        Raises:
            UserError: for a text model, or a file that holds no such questions.
        """
        from transformers import AutoProcessor

        from lmms_steer.extraction.image_pairs import image_pair_concept, read_image_pair_activations, read_image_pairs

        if not self.is_mllm:
            raise UserError(f"--questions needs a model that takes pictures, and {self.name} is a text model")
        asked = read_image_pairs(path)
        processor = AutoProcessor.from_pretrained(self.checkpoint)
        return image_pair_concept(name, asked), read_image_pair_activations(self.model, processor, asked, batch_size)

    def vectors(
        self, concept: Concept, method: str, activations: Activations, settings: ExtractionSettings = DEFAULT_SETTINGS
    ) -> SteeringVectors:
        """What `method` makes of activations that `read` gave; `extract` without its notes."""
        return self.extract(concept, method, activations, settings).vectors

    def extract(
        self, concept: Concept, method: str, activations: Activations, settings: ExtractionSettings = DEFAULT_SETTINGS
    ) -> Extracted:
        """What `method` makes of activations that `read` gave.

        Args:
            concept: whose sentences were read.
            method: as `check_method` takes it.
            activations: of the concept, in this backbone.
            settings: what the user chose.

        Raises:
            UserError: for a method that does not exist, or one that finds nothing in these activations.
        """
        check_method(method)
        base, _, control = ("mean_shift", "", method) if method in CONTROLS else method.partition("-")
        job = ExtractionJob(
            self.name, self.source["model_id"], self.source["n_layers"], self.source["hidden_size"], concept, self.read,
            settings,
        )  # fmt: skip
        if not control:
            return self._filed(job, method, METHODS[base](activations, job), activations)
        true = self._filed(job, base, METHODS[base](activations, job), activations).vectors
        stated: dict[str, Any] = {"control": control, "of": base}
        if control == "random":
            drawn = random_like(true, settings.seed)
            return self._filed(
                job, method, MethodResult(drawn.directions, {**stated, "seed": settings.seed}), activations
            )
        if control == "shuffled":
            made = METHODS[base](shuffle_labels(activations, settings.seed), job)
            stated = {**stated, "seed": settings.seed}
        else:
            other = concepts.load(wrong_concept_name(concept.name, concepts.names()))
            made = METHODS[base](self.read(other), replace(job, concept=other))
            stated = {**stated, "concept": other.name}
        found = self._filed(job, method, made, activations)
        same_norms = with_norms_of(true, found.vectors)
        settings_made = {**found.vectors.provenance["settings"], **stated}
        provenance = {**found.vectors.provenance, "settings": settings_made}
        return Extracted(SteeringVectors(same_norms.directions, provenance), found.notes)

    def _filed(self, job: ExtractionJob, method: str, made: MethodResult, activations: Activations) -> Extracted:
        counts = {"anchors": len(activations.anchors), "controls": len(activations.controls)}
        versions = {name: version(name) for name in ("transformers", *made.libraries)}
        provenance: Mapping[str, Any] = {
            **self.source,
            "layer_convention": LAYER_CONVENTION,
            "method": method,
            "settings": {**counts, **made.settings},
            "concept": job.concept.name,
            "sentences_sha256": job.concept.sentences_sha256,
            "skipped": list(activations.skipped),
            "versions": {"lmms-steer": __version__, "torch": torch.__version__, **versions},
        }
        return Extracted(SteeringVectors(made.directions, provenance), made.notes)


def shuffle_labels(activations: Activations, seed: int) -> Activations:
    """The same rows, the labels permuted: within each sentence, or over all rows for a concept with a contrast."""
    rows = np.concatenate([activations.anchors, activations.controls])
    places = (*activations.anchor_places, *activations.control_places)
    labels = np.repeat([True, False], [len(activations.anchors), len(activations.controls)])
    sentence = np.array([place.sentence for place in places])
    contrast = not set(activations.anchor_sentence.tolist()) & set(activations.control_sentence.tolist())
    generator = np.random.default_rng(seed)
    for group in [np.arange(len(rows))] if contrast else [np.flatnonzero(sentence == s) for s in np.unique(sentence)]:
        labels[group] = generator.permutation(labels[group])
    pick = [
        tuple(p for p, label in zip(places, labels.tolist(), strict=True) if label is wanted)
        for wanted in (True, False)
    ]
    return replace(
        activations, anchors=rows[labels], controls=rows[~labels], anchor_places=pick[0], control_places=pick[1]
    )
