"""Extract steering vectors: load a backbone, read a concept's sentences, apply a method, record the provenance."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmms_steer import __version__, concepts
from lmms_steer._util.formatting import format_layers
from lmms_steer._util.logging import quiet_in_logs
from lmms_steer.concepts import Concept
from lmms_steer.errors import UserError, shorten
from lmms_steer.extraction.activations import Activations, out_of_memory, read_activations
from lmms_steer.extraction.directions import check_result, without_component
from lmms_steer.extraction.image_contrasts import SEEDED, no_shuffled_images
from lmms_steer.extraction.job import (
    DEFAULT_SETTINGS,
    ExtractionJob,
    ExtractionSettings,
    MethodFunction,
    MethodResult,
    NoDirection,
)
from lmms_steer.extraction.shuffled_labels import notes_of_shuffled, shuffle_labels
from lmms_steer.models.batches import ShrinkingRunner
from lmms_steer.models.loading import UNLOADABLE, load_or_refuse, loading_problem, resolve_dtype, usable_device
from lmms_steer.steering.anatomy import text_config
from lmms_steer.steering.support import check_backbone
from lmms_steer.vectors import store
from lmms_steer.vectors.backbones import backbone_checkpoint, model_name, short_name
from lmms_steer.vectors.controls import random_like, with_norms_of, wrong_concept_name
from lmms_steer.vectors.methods import methods, split_method
from lmms_steer.vectors.steering_vectors import LAYER_CONVENTION, SteeringVectors
from lmms_steer.vectors.weights import commit_of, describe_source, model_source, same_weights

logger = logging.getLogger(__name__)


_OF_A_PROBE = ("weight_norm", "bias", "held_out_accuracy", "held_out_balanced_accuracy")
"""Settings that describe the direction of a linear probe, and no other one."""


@dataclass(frozen=True, slots=True)
class Extracted:
    """A vector, and notes about it for the user to read."""

    vectors: SteeringVectors
    notes: tuple[str, ...] = ()


class Backbone:
    """A text model, or a multimodal model's language model, and its tokenizer: loaded once for many concepts.

    Args:
        name: a Hub id, a folder, `tiny-gemma2`, or the short name of a backbone in the table; a multimodal
            model is read through its own language model.
        revision: of a Hub id.
        device: where to run; by default a GPU if there is one.
        dtype: of the weights: auto, float32, bfloat16 or float16; auto, the default, is float32 on a CPU, and the
            checkpoint's own on other devices.
        store_name: the name that its vectors are stored under; by default the last part of `name`.

    Raises:
        UserError: for an unknown device or dtype; when it cannot be loaded, does not fit into memory, or the files of
            its weights change meanwhile.
    """

    def __init__(
        self,
        name: str | os.PathLike[str],
        revision: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        store_name: str | None = None,
    ) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

        self._warned_of: set[str] = set()
        name = model_name(name)
        self.name = store_name or short_name(name)
        self.checkpoint = backbone_checkpoint(name)
        self.device = usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = resolve_dtype(dtype or "auto", self.device)
        self._runner = ShrinkingRunner("sentences")
        options: dict[str, Any] = {} if revision is None else {"revision": revision}
        before = model_source(name, revision, store_name)
        try:
            with quiet_in_logs():
                config = AutoConfig.from_pretrained(self.checkpoint, **options)
                check_backbone(config, name)
                self.is_mllm = hasattr(config, "vision_config")
                self.tokenizer = AutoTokenizer.from_pretrained(self.checkpoint, **options)
                loader = AutoModelForImageTextToText if self.is_mllm else AutoModelForCausalLM
                model = loader.from_pretrained(self.checkpoint, dtype=dtype, **options)
                self.model = model.to(self.device).eval()
        except UserError:
            raise
        except torch.OutOfMemoryError as error:
            raise out_of_memory(error, f"while loading {name!r} with dtype {dtype}") from error
        except UNLOADABLE as error:
            whole = f" ({self.checkpoint})" if self.checkpoint.endswith(f"/{name}") else ""
            raise UserError(f"cannot load the backbone {name!r}{whole}: {loading_problem(error)}") from error
        revision = commit_of(name, revision) or revision
        source = model_source(name, revision, store_name)
        if "model_path" in source and source != before:
            raise UserError(f"the weights in {source['model_path']!r} changed while they were read: try again")
        self.source = {
            **source,
            "revision": revision,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "hidden_size": text_config(self.model).hidden_size,
            "n_layers": text_config(self.model).num_hidden_layers,
        }

    def read(self, concept: Concept, batch_size: int = 16) -> Activations:
        """Read the concept's sentences in one pass; every method can use the result."""
        return read_activations(self.model, self.tokenizer, concept, batch_size, self._runner)

    def read_image_pairs(
        self, path: Path, name: str, batch_size: int = 16, settings: ExtractionSettings = DEFAULT_SETTINGS
    ) -> tuple[Concept, Activations]:
        """Read pairs of questions about images in a multimodal model (`lmms_steer.extraction.image_pairs`).

        Raises:
            UserError: for a text model, one whose processor cannot be loaded, or a file that contains no such
                questions.
        """
        from transformers import AutoProcessor

        from lmms_steer.extraction.image_pairs import read_image_pair_activations, read_image_pairs

        if not self.is_mllm:
            raise UserError(f"--questions needs a model that takes images, and {self.name} is a text model")
        pairs = read_image_pairs(path, settings)
        # the revision that the weights were read from
        revision = {"revision": self.source["revision"]} if self.source["revision"] is not None else {}
        processor = load_or_refuse(self.checkpoint, AutoProcessor.from_pretrained, self.checkpoint, **revision)
        runner = ShrinkingRunner("questions")
        activations = read_image_pair_activations(self.model, processor, pairs, settings, batch_size, runner)
        return pairs.concept(name), activations

    def vectors(
        self,
        concept: Concept,
        method: str | MethodFunction,
        activations: Activations,
        settings: ExtractionSettings = DEFAULT_SETTINGS,
    ) -> SteeringVectors:
        """The vectors that `extract` makes, without the notes."""
        return self.extract(concept, method, activations, settings).vectors

    def extract(
        self,
        concept: Concept,
        method: str | MethodFunction,
        activations: Activations,
        settings: ExtractionSettings = DEFAULT_SETTINGS,
        log_warnings: bool = True,
    ) -> Extracted:
        """Compute a concept's vectors from activations that `read` returned.

        Sentences that were left out or given twice, unknown words and too few anchors are logged as warnings, once for
        each concept.

        Args:
            concept: the concept whose sentences were read.
            method: METHOD, METHOD-CONTROL or CONTROL (`lmms_steer.vectors.methods`); or a function, whose name then
                stands for the method in the vector's name.
            activations: of the concept, in this backbone.
            settings: what the user chose.
            log_warnings: False for a caller that prints `Activations.warnings` itself.

        Raises:
            UserError: for activations of another concept, or of a backbone of another shape; for a method that does
                not exist, one that finds no direction in these activations, or layers that the backbone does not have.
        """
        self._check_own(concept, activations)
        n_layers = self.source["n_layers"] if activations.tower is None else activations.tower[0]
        if settings.layers is not None and max(settings.layers) >= n_layers:
            raise UserError(f"--layers {format_layers(settings.layers)}: {self.name} has the layers 0-{n_layers - 1}")
        if log_warnings and concept.sentences_sha256 not in self._warned_of:
            self._warned_of.add(concept.sentences_sha256)
            for line in activations.warnings(concept, self.name):
                logger.warning(line.removeprefix("WARNING: "))
        function: MethodFunction
        if isinstance(method, str):
            base, control = split_method(method)
            name, function = method, methods.get(base).function
        else:
            name, function, control = _function_name(method), method, ""
        job = ExtractionJob(
            self.name, self.source["model_id"], self.source["n_layers"], self.source["hidden_size"], concept, self.read,
            settings,
        )  # fmt: skip
        if not control:
            return self._with_provenance(job, name, function(activations, job), activations)
        return self._control(job, name, function, activations)

    def _check_own(self, concept: Concept, activations: Activations) -> None:
        """Check that activations can be those of a concept in this backbone: their vector will say so."""
        sentences = tuple(pair.sentence for pair in (*concept.pairs, *concept.contrast))
        if activations.texts != sentences[: len(activations.texts)]:
            raise UserError(
                f"these activations are not of {concept.name!r}: their first sentence is"
                f" {shorten(repr(activations.texts[0]))}"
            )
        shape, own = activations.anchors.shape[1:], (self.source["n_layers"], self.source["hidden_size"])
        if activations.tower is None and shape != own:
            read, here = (f"{n} layers of width {width}" for n, width in (shape, own))
            raise UserError(f"these activations are of another backbone: {read}, and {self.name} has {here}")

    def _control(self, job: ExtractionJob, name: str, function: MethodFunction, activations: Activations) -> Extracted:
        """The control `name` of a method: directions without the concept's meaning, with the norms of the true ones."""
        base, control = split_method(name)
        true = self._with_provenance(job, base, function(activations, job), activations).vectors
        seed = job.settings.seed
        description: dict[str, Any] = {"control": control, "of": base}
        if control == "random":
            drawn = MethodResult(random_like(true, seed).directions, {**description, "seed": seed})
            extracted = self._with_provenance(job, name, drawn, activations)
            if job.settings.orthogonal_to is None:
                return extracted
            # a component was removed from the drawn directions too
            rescaled = with_norms_of(true, extracted.vectors).directions
            return Extracted(SteeringVectors(rescaled, extracted.vectors.provenance), extracted.notes)
        if control == "shuffled":
            result = function(shuffle_labels(activations, seed), job)
            description = {**description, "seed": seed}
        elif control == "shuffled_images":
            if activations.shuffled_images is None:
                raise no_shuffled_images(name, job.settings.image_contrast)
            result = function(activations.shuffled_images, job)
            description = {**description, "seed": seed}
        else:
            other = concepts.load(wrong_concept_name(job.concept.name, concepts.names()))
            result = function(self.read(other), replace(job, concept=other))
            description = {**description, "concept": other.name}
        extracted = self._with_provenance(job, name, result, activations)
        same_norms = with_norms_of(true, extracted.vectors)
        settings = {**extracted.vectors.provenance["settings"], **description}
        provenance = {**extracted.vectors.provenance, "settings": settings}
        vectors = SteeringVectors(same_norms.directions, provenance)
        notes = tuple(notes_of_shuffled(vectors, true)) if control == "shuffled" else ()
        return Extracted(vectors, (*extracted.notes, *notes))

    def _with_provenance(
        self, job: ExtractionJob, method: str, result: MethodResult, activations: Activations
    ) -> Extracted:
        check_result(result, f"{job.concept.name}, {method}", activations)
        counts: dict[str, Any] = dict(zip(("anchors", "controls"), activations.counts, strict=True))
        if activations.at is not None:
            counts["at"] = activations.at
        if job.settings.image_contrast is not None:
            counts["image_contrast"] = job.settings.image_contrast
            if job.settings.image_contrast in SEEDED:
                counts["image_seed"] = job.settings.seed
        versions = {name: version(name) for name in ("transformers", *result.libraries)}
        provenance: Mapping[str, Any] = {
            **self.source,
            "layer_convention": LAYER_CONVENTION,
            **_about_tower(activations),
            "method": method,
            "settings": {**counts, **result.settings},
            "concept": job.concept.name,
            "sentences_sha256": job.concept.sentences_sha256,
            "skipped": list(activations.skipped),
            "versions": {"lmms-steer": __version__, "torch": torch.__version__, **versions},
        }
        layers = job.settings.layers
        directions = {layer: v for layer, v in result.directions.items() if layers is None or layer in layers}
        if activations.tower is not None:
            directions = {layer: np.reshape(v, activations.tower[1:]) for layer, v in directions.items()}
        notes: list[str] = []
        if job.settings.orthogonal_to is not None:
            removed = SteeringVectors.load(store.find(job.settings.orthogonal_to, self.name).path)
            directions = without_component(directions, removed)
            if not _may_be_of(removed, self.source):
                whose = describe_source(removed.provenance)
                notes.append(f"WARNING: {removed.name}, whose component is removed, is of another model: {whose}")
            kept = {k: v for k, v in provenance["settings"].items() if k not in _OF_A_PROBE}
            settings = {**kept, "orthogonal_to": removed.name, "orthogonal_to_sha256": removed.sha256}
            provenance = {**provenance, "settings": settings}
        if not result.directions:
            raise UserError(f"{job.concept.name}, {method}: the method returned no direction")
        if not directions:
            wanted, made = (format_layers(tuple(numbers)) for numbers in (layers or (), result.directions))
            raise UserError(f"{job.concept.name}, {method}: no direction at --layers {wanted}, only at {made}")
        try:
            vectors = SteeringVectors(directions, provenance)
        except UserError as error:
            raise UserError(f"{job.concept.name}, {method}: {error}") from error
        zero = tuple(layer for layer in vectors if not vectors[layer].any())
        if zero == vectors.layers:
            asked = "do the anchors differ from the controls?"
            if job.settings.orthogonal_to is not None:
                asked = f"is it parallel to {job.settings.orthogonal_to}, whose component is removed?"
            raise NoDirection(f"{job.concept.name}, {method}: the direction has norm 0 at every layer: {asked}")
        if zero:
            notes.append(f"{vectors.name}: norm 0 at layer {format_layers(zero)}: it cannot steer there")
        return Extracted(vectors, (*result.notes, *notes))


def _may_be_of(vectors: SteeringVectors, source: Mapping[str, Any]) -> bool:
    """Whether vectors can be of a backbone: of the same weights, or of the same name if those are not known."""
    same = same_weights(source, vectors.provenance)
    return same if same is not None else vectors.provenance.get("model") == source["model"]


def _about_tower(activations: Activations) -> dict[str, Any]:
    """The provenance of directions that were read in a vision tower; empty for others."""
    if activations.tower is None:
        return {}
    n_layers, patches, width = activations.tower
    convention = "output of the 0-based layer of the vision tower"
    return {"n_layers": n_layers, "hidden_size": width, "patches": patches, "layer_convention": convention}


def _function_name(function: MethodFunction) -> str:
    """The name under which a function's vectors are stored."""
    name = getattr(function, "__name__", "")
    if not name.isidentifier():
        raise UserError(f"{function!r} has no name for its vectors: use a function made with def, or register it")
    if name in methods and methods.get(name).function is not function:
        raise UserError(f"the function {name!r} has the name of a registered method: rename it")
    return name
