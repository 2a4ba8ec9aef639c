"""`lmms-steer vectors show` and `vectors compare`: norms, probe accuracy, cosines and words, layer by layer.

Only the words need a model, and so torch (`lmms_steer.inspection.words`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml

from lmms_steer._util.formatting import format_layers
from lmms_steer.errors import UserError
from lmms_steer.vectors import store
from lmms_steer.vectors.steering_vectors import SteeringVectors
from lmms_steer.vectors.weights import describe_source, recorded_sha256, same_weights

if TYPE_CHECKING:
    # it imports torch
    from lmms_steer.inspection.words import Words

NEAREST = 3
"""How many of the most similar vectors are listed per layer."""
_VERDICT_MARK = {True: "+", False: "-", None: "?"}


@dataclass(frozen=True, slots=True)
class Description:
    """What is known about a vector.

    Attributes:
        vectors: the vector itself.
        norms: layer ▸ norm of the direction.
        probe: layer ▸ held-out balanced accuracy of the concept's linear probe in this backbone, if one is stored.
        cosines: name of another vector of the same model ▸ layer ▸ cosine.
        words: layer ▸ its words; empty if the model was not read.
        notes: why something is missing, or what else to know.
    """

    vectors: SteeringVectors
    norms: dict[int, float]
    probe: dict[int, float]
    cosines: dict[str, dict[int, float]]
    words: "dict[int, Words]"
    notes: tuple[str, ...]


def describe_vector(path: Path, with_words: bool = True, backbone: str | None = None) -> Description:
    """Read a vector, and compare it with the stored vectors and its model's vocabulary.

    Args:
        path: of the vector's file.
        with_words: whether to load the model for the words.
        backbone: that model; None: the one that the vector was made from, if it is recorded and still the same.

    Raises:
        UserError: when the vector, or the `backbone` that is given, cannot be read.
    """
    vectors = SteeringVectors.load(path)
    notes: list[str] = []
    words = {}
    if with_words:
        from lmms_steer.inspection.words import read_words, source_model

        try:
            source, warning = source_model(vectors, backbone)
            words = read_words(vectors, source)
            notes += [f"the words are read in another model: {warning}"] if warning else []
        except UserError as error:
            if backbone is not None:
                raise
            notes.append(f"no words: {error}")
    probe = _probe(vectors)
    if not probe:
        notes.append("no probe accuracy: extract the concept with --method linear_probe to see it here")
    return Description(vectors, vectors.norms, probe, _cosines(vectors), words, tuple(notes))


def cosine_by_layer(a: SteeringVectors, b: SteeringVectors) -> dict[int, float]:
    """The cosine of two vectors at each layer that both have.

    Raises:
        UserError: for vectors of different shape, or without a common layer.
    """
    if a.patches != b.patches:
        counts = (f"{v.name} has {'one direction' if v.patches is None else f'{v.patches} patches'}" for v in (a, b))
        raise UserError(f"{', '.join(counts)}: they cannot be compared")
    if a.hidden_size != b.hidden_size:
        raise UserError(f"{a.name} has width {a.hidden_size}, {b.name} {b.hidden_size}: they cannot be compared")
    common = [layer for layer in a if layer in b.directions]
    if not common:
        raise UserError(f"{a.name} and {b.name} have no layer in common")
    pairs = ((k, a[k].astype(np.float64).ravel(), b[k].astype(np.float64).ravel()) for k in common)
    return {layer: float(x @ y / max(float(np.linalg.norm(x) * np.linalg.norm(y)), 1e-12)) for layer, x, y in pairs}


def description_lines(shown: Description) -> Iterator[str]:
    """The description as text: the provenance, then one row per layer."""
    provenance = {"name": shown.vectors.name, "sha256": shown.vectors.sha256, **shown.vectors.provenance}
    if recorded_sha256(provenance) is None and not provenance.get("revision"):
        provenance["weights_sha256"] = "not recorded"
    yield yaml.safe_dump(_with_short_features(provenance), sort_keys=False, allow_unicode=True, width=110).rstrip()
    yield ""
    yield f"{'layer':>5}  {'norm':>8}  {'probe':>5}  nearest other vectors (cosine)"
    for layer in shown.vectors:
        probe = f"{shown.probe[layer]:.2f}" if layer in shown.probe else "-"
        cosines = [(by_layer[layer], name) for name, by_layer in shown.cosines.items() if layer in by_layer]
        nearest = sorted(cosines, key=lambda pair: (-abs(pair[0]), pair[1]))[:NEAREST]
        listed = ", ".join(f"{name} {cosine:+.2f}" for cosine, name in nearest) or "-"
        yield f"{layer:>5}  {shown.norms[layer]:>8.4g}  {probe:>5}  {listed}"
    if shown.probe:
        yield (
            "probe: balanced accuracy of the concept's stored linear_probe at separating anchor from control tokens, on"
            " sentences that it was not fitted on (0.5 is chance); the same whichever vector is shown"
        )
    if shown.words:
        yield (
            "\nwords like the direction (=): tokens whose own states, after the first block, have the largest cosines"
            " with it (the first one's in brackets)\nnext words: what the direction promotes (+) and suppresses (-)"
            " through the final norm and the unembedding (logit lens)"
        )
        for layer, words in shown.words.items():
            yield f"{layer:>5}  = {' '.join(words.like)}  ({words.cosine:.2f})"
            yield f"       + {' '.join(words.promoted)}\n       - {' '.join(words.suppressed)}"
    yield from (f"\n{note}" for note in shown.notes)


def comparison_lines(a: SteeringVectors, b: SteeringVectors) -> Iterator[str]:
    """The comparison of two vectors as text: a row per common layer, then the layers that only one has.

    A line before them says so where they are of different weights.
    """
    if same_weights(a.provenance, b.provenance) is False:
        sources = " and ".join(describe_source(vectors.provenance) for vectors in (a, b))
        yield f"NOTE: these are of different models, {sources}: their cosines mean nothing"
    yield f"{'layer':>5}  {'cosine':>7}  {'norm of the first':>17}  {'of the second':>13}"
    for layer, cosine in cosine_by_layer(a, b).items():
        yield f"{layer:>5}  {cosine:>+7.3f}  {np.linalg.norm(a[layer]):>17.4g}  {np.linalg.norm(b[layer]):>13.4g}"
    for position, vectors, other in (("first", a, b), ("second", b, a)):
        extra = tuple(layer for layer in vectors if layer not in other.directions)
        if extra:
            noun = "layer" if len(extra) == 1 else "layers"
            yield f"only the {position}, {vectors.name}, has the {noun} {format_layers(extra)}"


def _probe(vectors: SteeringVectors) -> dict[int, float]:
    """layer ▸ accuracy of the concept's stored probe on the vector's own sentences, or nothing."""
    model, concept = (str(vectors.provenance.get(key)) for key in ("model", "concept"))
    for entry in store.entries():
        if entry.name == f"{model}/{concept}/linear_probe":
            try:
                provenance = SteeringVectors.load(entry.path).provenance
            except UserError:
                break  # damaged; `vectors list` reports it
            sentences = {
                one["sentences_sha256"] for one in (vectors.provenance, provenance) if "sentences_sha256" in one
            }
            if len(sentences) > 1:
                break
            accuracies = provenance.get("settings", {}).get("held_out_balanced_accuracy", {})
            return {int(layer): float(accuracy) for layer, accuracy in accuracies.items()}
    return {}


def _cosines(vectors: SteeringVectors) -> dict[str, dict[int, float]]:
    cosines = {}
    for entry in store.entries():
        if entry.name == vectors.name or entry.name.split("/")[0] != vectors.provenance.get("model"):
            continue
        try:
            cosines[entry.name.split("/", 1)[1]] = cosine_by_layer(vectors, SteeringVectors.load(entry.path))
        except UserError:
            continue  # damaged, or of another width; `vectors list` shows both
    return cosines


def _with_short_features(provenance: dict[str, object]) -> dict[str, object]:
    """The provenance with the features of an SAE vector as one line per layer; the file has all their details."""
    settings = provenance.get("settings")
    if not isinstance(settings, dict) or not isinstance(settings.get("layers"), dict):
        return provenance
    layers = {}
    for layer, row in settings["layers"].items():
        features = ", ".join(f"{f['feature']}{_VERDICT_MARK[f['means']]}" for f in row["features"])
        layers[layer] = f"{features}  ({row['sae']})"
    short = {**settings, "layers": {"features (+ kept, - dropped, ? unchecked)": layers}}
    return {**provenance, "settings": short}
