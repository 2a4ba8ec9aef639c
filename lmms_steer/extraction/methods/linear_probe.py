"""Linear probe: the normal of the plane that parts anchor from control tokens (the paper's section 3.2)."""

import numpy as np
import numpy.typing as npt

from lmms_steer.extraction.activations import Activations
from lmms_steer.extraction.methods import ExtractionJob, MethodResult

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

# Of the paper's released code: minibatch SGD on the mean loss. A sample alone takes the batch's share of the step.
LEARNING_RATE, BATCH, EPOCHS = 0.003, 32, 400
FOLDS = 5


def linear_probe(activations: Activations, job: ExtractionJob) -> MethodResult:
    """PCA to max(sentences / 2, 10) axes, logistic regression without intercept, mapped back, unit norm.

    The settings say, for each layer, how many tokens a probe labels rightly in sentences that it was not fitted on
    (cross-validated over whole sentences): of all tokens, and as the mean of the two classes' shares, where 0.5 is
    chance. `majority` is what always saying "control" would reach of all tokens.
    """
    rows = np.concatenate([activations.anchors, activations.controls]).astype(np.float64)
    labels = np.repeat([1, 0], [len(activations.anchors), len(activations.controls)])
    sentences = np.concatenate([activations.anchor_sentence, activations.control_sentence])
    # one order for all layers, so that no epoch sees all anchors first
    order = np.random.default_rng(job.settings.seed).permutation(len(rows))
    rows, labels, sentences = rows[order], labels[order], sentences[order]
    axes = max(len(np.unique(activations.anchor_sentence)) // 2, 10)
    directions = {layer: fit(rows[:, layer], labels, axes) for layer in range(rows.shape[1])}
    folds = _folds(labels, sentences)
    told = {str(layer): held_out(rows[:, layer], labels, folds, axes) for layer in directions} if folds else {}
    notes = (
        () if folds else (f"{job.concept.name}: too few sentences to hold any out, the probe's accuracy is not known",)
    )
    settings = {
        "axes": axes,
        "learning_rate": LEARNING_RATE,
        "batch": BATCH,
        "epochs": EPOCHS,
        "seed": job.settings.seed,
        "held_out_accuracy": {layer: plain for layer, (plain, _) in told.items()},
        "held_out_balanced_accuracy": {layer: balanced for layer, (_, balanced) in told.items()},
        "majority": round(float(1 - labels.mean()), 4),
    }
    return MethodResult(directions, settings, notes, ("scikit-learn",))


def fit(rows: Array, labels: Labels, axes: int) -> Array:
    """The unit normal [width], pointing to the rows labelled 1. rows: [tokens, width]; labels: 1 anchor, 0 control."""
    return _fit(rows, labels, axes)[1]


def held_out(rows: Array, labels: Labels, folds: list[tuple[Labels, Labels]], axes: int) -> tuple[float, float]:
    """Accuracy and balanced accuracy over all tokens, each told by the probe of a fold that its sentence is not in."""
    from sklearn.metrics import accuracy_score, balanced_accuracy_score

    told = np.zeros_like(labels)
    for fitted, tested in folds:
        centre, normal = _fit(rows[fitted], labels[fitted], axes)
        told[tested] = (rows[tested] - centre) @ normal > 0
    return round(float(accuracy_score(labels, told)), 4), round(float(balanced_accuracy_score(labels, told)), 4)


def _fit(rows: Array, labels: Labels, axes: int) -> tuple[Array, Array]:
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
    normal: Array = classifier.coef_[0] @ reduced.components_
    return reduced.mean_, normal / max(float(np.linalg.norm(normal)), 1e-12)


def _folds(labels: Labels, sentences: Labels) -> list[tuple[Labels, Labels]]:
    from sklearn.model_selection import GroupKFold

    count = min(FOLDS, len(np.unique(sentences[labels == 1])), len(np.unique(sentences[labels == 0])))
    if count < 2:
        return []
    folds = list(GroupKFold(count, shuffle=True, random_state=0).split(labels, groups=sentences))
    return folds if all(len(np.unique(labels[fitted])) == 2 for fitted, _ in folds) else []
