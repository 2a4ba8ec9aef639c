"""`lmms-steer vectors show` and `vectors compare`: norms, probe accuracy, cosines and words, layer by layer."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from lmms_steer._util.formatting import format_layers
from lmms_steer.errors import UserError
from lmms_steer.vectors import store
from lmms_steer.vectors.steering_vectors import SteeringVectors

NEAREST = 3


@dataclass(frozen=True, slots=True)
class Description:
    """What is to be seen of a vector.

    Attributes:
        probe: layer ▸ held-out balanced accuracy of the concept's linear probe in this backbone, where one is stored.
        cosines: name of another vector of the same model ▸ layer ▸ cosine.
        words: layer ▸ words that it makes likelier, and less likely; empty where the model was not read.
        notes: why something is missing.
    """

    vectors: SteeringVectors
    norms: dict[int, float]
    probe: dict[int, float]
    cosines: dict[str, dict[int, float]]
    words: dict[int, tuple[list[str], list[str]]]
    notes: tuple[str, ...]


def describe_vector(path: Path, with_words: bool = True) -> Description:
    """Read a vector, and whatever the store and its model have to say about it.

    Raises:
        UserError: when the vector cannot be read.
    """
    vectors = SteeringVectors.load(path)
    notes: list[str] = []
    words = {}
    if with_words:
        from lmms_steer.inspection.logit_lens import logit_lens

        try:
            words = logit_lens(vectors)
        except UserError as error:
            notes.append(f"no words: {error}")
    probe = _probe(vectors)
    if not probe:
        notes.append("no probe accuracy: extract the concept with --method linear_probe to see it here")
    norms = {layer: float(np.linalg.norm(vectors[layer])) for layer in vectors}
    return Description(vectors, norms, probe, _cosines(vectors), words, tuple(notes))


def cosine_by_layer(a: SteeringVectors, b: SteeringVectors) -> dict[int, float]:
    """The cosine at each layer that both have.

    Raises:
        UserError: for vectors of different width, or without a common layer.
    """
    if a.hidden_size != b.hidden_size:
        raise UserError(f"{a.name} has width {a.hidden_size}, {b.name} {b.hidden_size}: they cannot be compared")
    common = [layer for layer in a if layer in b.directions]
    if not common:
        raise UserError(f"{a.name} and {b.name} have no layer in common")
    pairs = ((layer, a[layer].astype(np.float64), b[layer].astype(np.float64)) for layer in common)
    return {layer: float(x @ y / max(float(np.linalg.norm(x) * np.linalg.norm(y)), 1e-12)) for layer, x, y in pairs}


def description_lines(shown: Description) -> Iterator[str]:
    """For a terminal: the provenance, then one row a layer."""
    made = {"name": shown.vectors.name, "sha256": shown.vectors.sha256, **shown.vectors.provenance}
    yield yaml.safe_dump(_brief(made), sort_keys=False, allow_unicode=True, width=110).rstrip()
    yield ""
    yield f"{'layer':>5}  {'norm':>8}  {'probe':>5}  nearest other vectors (cosine)"
    for layer in shown.vectors:
        probe = f"{shown.probe[layer]:.2f}" if layer in shown.probe else "-"
        near = sorted(((c[layer], n) for n, c in shown.cosines.items() if layer in c), key=lambda x: (-abs(x[0]), x[1]))
        listed = ", ".join(f"{name} {cosine:+.2f}" for cosine, name in near[:NEAREST]) or "-"
        yield f"{layer:>5}  {shown.norms[layer]:>8.4g}  {probe:>5}  {listed}"
    if shown.probe:
        yield (
            "probe: balanced accuracy of the concept's stored linear_probe, whichever vector is shown: anchor from"
            " control tokens, on sentences that it was not fitted on (0.5 is chance)"
        )
    if shown.words:
        yield "\nwords that it points to through the unembedding (+), and away from (-)"
        for layer, (toward, away) in shown.words.items():
            yield f"{layer:>5}  + {' '.join(toward)}\n       - {' '.join(away)}"
    yield from (f"\n{note}" for note in shown.notes)


def comparison_lines(a: SteeringVectors, b: SteeringVectors) -> Iterator[str]:
    """`vectors compare`: a row a layer that both have, then which layers only one has."""
    yield f"{'layer':>5}  {'cosine':>7}  {'norm of the first':>17}  {'of the second':>13}"
    for layer, cosine in cosine_by_layer(a, b).items():
        yield f"{layer:>5}  {cosine:>+7.3f}  {np.linalg.norm(a[layer]):>17.4g}  {np.linalg.norm(b[layer]):>13.4g}"
    for which, vectors, other in (("first", a, b), ("second", b, a)):
        alone = tuple(layer for layer in vectors if layer not in other.directions)
        if alone:
            noun = "layer" if len(alone) == 1 else "layers"
            yield f"only the {which}, {vectors.name}, has the {noun} {format_layers(alone)}"


def _probe(vectors: SteeringVectors) -> dict[int, float]:
    model, concept = (str(vectors.provenance.get(key)) for key in ("model", "concept"))
    for entry in store.entries():
        if entry.name == f"{model}/{concept}/linear_probe":
            try:
                settings = SteeringVectors.load(entry.path).provenance.get("settings", {})
            except UserError:
                break  # a damaged file: `vectors list` says so
            return {int(k): float(v) for k, v in settings.get("held_out_balanced_accuracy", {}).items()}
    return {}


def _cosines(vectors: SteeringVectors) -> dict[str, dict[int, float]]:
    found = {}
    for entry in store.entries():
        if entry.name == vectors.name or entry.name.split("/")[0] != vectors.provenance.get("model"):
            continue
        try:
            found[entry.name.split("/", 1)[1]] = cosine_by_layer(vectors, SteeringVectors.load(entry.path))
        except UserError:
            continue  # a damaged file or another width: `vectors list` says so
    return found


def _brief(made: dict[str, object]) -> dict[str, object]:
    """The features of an SAE vector as one line a layer: all of them stand in the file."""
    settings = made.get("settings")
    if isinstance(settings, dict) and isinstance(settings.get("layers"), dict):
        layers = {
            layer: ", ".join(f"{f['feature']}{_MARK[f['means']]}" for f in told["features"]) + f"  ({told['sae']})"
            for layer, told in settings["layers"].items()
        }
        made = {**made, "settings": {**settings, "layers": {"features (+ kept, - dropped, ? unchecked)": layers}}}
    return made


_MARK = {True: "+", False: "-", None: "?"}
