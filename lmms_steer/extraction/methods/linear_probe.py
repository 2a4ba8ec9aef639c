"""Linear probe (the paper's section 3.2): the normal of the plane that separates anchor from control tokens."""

import numpy as np
import numpy.typing as npt

from lmms_steer.extraction.methods import Activations, ExtractionJob, MethodResult, register_method

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

# As in the paper's released code: minibatch SGD on the mean loss. SGDClassifier steps once per sample, so each step
# gets the learning rate divided by the batch size.
LEARNING_RATE, BATCH, EPOCHS = 0.003, 32, 400
FOLDS = 5


@register_method("linear_probe", description="normal of a logistic regression between anchor and control tokens")
def linear_probe(activations: Activations, job: ExtractionJob) -> MethodResult:
    """PCA to max(sentences / 2, 10) axes, logistic regression without intercept, mapped back, unit norm.

    For each layer the settings give the accuracy of probes on sentences that they were not fitted on (cross-validated
    over whole sentences): over all tokens, and balanced over the two classes, where 0.5 is chance. `majority` is the
    accuracy of always answering "control". `weight_norm` and `bias` make the unit normals a classifier: h is an anchor
    with the probability σ(weight_norm · (v·h) + bias).
    """
    rows, labels, _ = _ordered(activations, job.settings.seed)
    axes = _axes(activations)
    fitted = {layer: _fit(rows[:, layer], labels, axes) for layer in range(rows.shape[1])}
    lengths = {layer: max(float(np.linalg.norm(weights)), 1e-12) for layer, (_, weights) in fitted.items()}
    directions = {layer: weights / lengths[layer] for layer, (_, weights) in fitted.items()}
    accuracies = cross_validated(activations, job.settings.seed)
    lacking = f"{job.concept.name}: too few sentences to hold any out, so the probe has no accuracy"
    notes = () if accuracies else (lacking,)
    settings = {
        "axes": axes,
        "learning_rate": LEARNING_RATE,
        "batch": BATCH,
        "epochs": EPOCHS,
        "seed": job.settings.seed,
        "held_out_accuracy": {str(layer): plain for layer, (plain, _) in accuracies.items()},
        "held_out_balanced_accuracy": {str(layer): balanced for layer, (_, balanced) in accuracies.items()},
        "weight_norm": {str(layer): length for layer, length in lengths.items()},
        "bias": {str(layer): -float(centre @ weights) for layer, (centre, weights) in fitted.items()},
        "majority": round(float(1 - labels.mean()), 4),
    }
    return MethodResult(directions, settings, notes, ("scikit-learn",))


def cross_validated(activations: Activations, seed: int) -> dict[int, tuple[float, float]]:
    """Accuracy and balanced accuracy of probes on sentences that they were not fitted on, by layer.

    Args:
        activations: of the concept.
        seed: of the order of the rows.

    Returns:
        layer ▸ accuracy over all tokens, and balanced over the two classes; empty for too few sentences.
    """
    rows, labels, sentences = _ordered(activations, seed)
    folds, axes = _folds(labels, sentences), _axes(activations)
    return {layer: held_out(rows[:, layer], labels, folds, axes) for layer in range(rows.shape[1])} if folds else {}


def held_out(rows: Array, labels: Labels, folds: list[tuple[Labels, Labels]], axes: int) -> tuple[float, float]:
    """Accuracy and balanced accuracy over all tokens, each classified by a probe not fitted on its sentence."""
    from sklearn.metrics import accuracy_score, balanced_accuracy_score

    predicted = np.zeros_like(labels)
    for fitted, tested in folds:
        centre, weights = _fit(rows[fitted], labels[fitted], axes)
        predicted[tested] = (rows[tested] - centre) @ weights > 0
    plain, balanced = accuracy_score(labels, predicted), balanced_accuracy_score(labels, predicted)
    return round(float(plain), 4), round(float(balanced), 4)


def _ordered(activations: Activations, seed: int) -> tuple[Array, Labels, Labels]:
    """All rows [tokens, layers, width] in one random order, with their labels and sentences."""
    rows = np.concatenate([activations.anchors, activations.controls]).astype(np.float64)
    labels = np.repeat([1, 0], [len(activations.anchors), len(activations.controls)])
    sentences = np.concatenate([activations.anchor_sentence, activations.control_sentence])
    # one order for all layers, so that no epoch sees all anchors first
    order = np.random.default_rng(seed).permutation(len(rows))
    return rows[order], labels[order], sentences[order]


def _axes(activations: Activations) -> int:
    return max(len(np.unique(activations.anchor_sentence)) // 2, 10)


def _fit(rows: Array, labels: Labels, axes: int) -> tuple[Array, Array]:
    """The centre of the rows and the weights, both [width]. The weights point to the rows labelled 1."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import SGDClassifier

    reduced = PCA(min(axes, *rows.shape), svd_solver="full").fit(rows)
    classifier = SGDClassifier(
        loss="log_loss",
        penalty=None,
        fit_intercept=False,
        learning_rate="constant",
        eta0=LEARNING_RATE / BATCH,
        max_iter=EPOCHS,
        tol=None,
        shuffle=False,
    ).fit(reduced.transform(rows), labels)
    weights: Array = classifier.coef_[0] @ reduced.components_
    return reduced.mean_, weights


def _folds(labels: Labels, sentences: Labels) -> list[tuple[Labels, Labels]]:
    """Pairs of row numbers to fit on and to test on; none where a fold would lack one of the two classes."""
    from sklearn.model_selection import GroupKFold

    count = min(FOLDS, len(np.unique(sentences[labels == 1])), len(np.unique(sentences[labels == 0])))
    if count < 2:
        return []
    folds = list(GroupKFold(count, shuffle=True, random_state=0).split(labels, groups=sentences))
    return folds if all(len(np.unique(labels[fitted])) == 2 for fitted, _ in folds) else []
