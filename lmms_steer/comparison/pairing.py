"""Decide whether two runs can be compared question by question, and which questions share an image."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from lmms_steer.comparison.samples import Samples
from lmms_steer.comparison.settings import Difference, describe
from lmms_steer.statistics import Ints
from lmms_steer.statistics.clustered import cluster_ids

_BY_CONTENT = "images"
"""The `images_source` of samples whose images are hashes of the pixels."""


def pairing_problem(
    run: Samples,
    baseline: Samples,
    differences: Sequence[Difference],
    allowed: Collection[str],
    text_may_differ: bool = False,
    hint: bool = True,
) -> str:
    """Explain why a run's task cannot be compared with the baseline's, question by question; "" if it can.

    Args:
        run: the samples to compare.
        baseline: the samples to compare with.
        differences: between the two.
        allowed: kinds of differences that do not prevent a comparison.
        text_may_differ: whether the system is another prompt.
        hint: whether the user can allow a difference, and is told how.
    """
    n = len(run.keys)
    if not np.array_equal(run.keys, baseline.keys):
        common = len(np.intersect1d(run.keys, baseline.keys, assume_unique=True))
        # one --limit apart: each question of the shorter run is the longer one's, too
        remedy = "; evaluate both with the same --limit" if common == min(n, len(baseline.keys)) else ""
        return f"other samples: {common} of its {n} are among the baseline's {len(baseline.keys)}{remedy}"
    refused = [
        one
        for one in differences
        if one.decisive and one.kind not in allowed and not (text_may_differ and one.questions)
    ]
    if refused:
        kinds = ",".join(dict.fromkeys([*allowed, *(one.kind for one in refused)]))
        return describe(refused) + (f" (--allow-different {kinds} compares them anyway)" if hint else "")
    images = int(((run.images != baseline.images) & (run.images != 0) & (baseline.images != 0)).sum())
    if images and run.images_source == baseline.images_source:
        return f"other images: on {images} of {n} questions"
    if run.metric != baseline.metric:
        return f"another score: {run.metric or 'none'}, the baseline's is {baseline.metric or 'none'}"
    missing = int(np.isnan(run.scores + baseline.scores).sum())
    if missing:
        return f"no score on {missing} of {n} questions; choose another with --metric"
    return ""


def shared_images(tasks: Sequence[Mapping[str, Samples]]) -> Ints | None:
    """Number the images of all questions of one or more tasks.

    Args:
        tasks: for each task, system ▸ its samples; one system that logs images is enough.

    Returns:
        The image of each question, as 0, 1, …, for the tasks' questions in turn; None if no two questions share an
        image, or no log names images. A question without an image stands alone. A single image groups all questions
        where it is known by its content; file names that are all the same group none.
    """
    columns = []
    for number, runs in enumerate(tasks):
        by_content_first = sorted(runs.values(), key=lambda run: run.images_source != _BY_CONTENT)
        found = max(by_content_first, key=lambda run: np.count_nonzero(run.images))
        images = found.images
        alone = np.arange(len(images)) - (number + 2) * 10_000_000
        # where all images have the same name, it does not tell them apart
        usable = found.images_source == _BY_CONTENT or len(np.unique(images[images != 0])) > 1
        columns.append(np.where(images != 0, images, alone) if usable else alone)
    return cluster_ids(np.concatenate(columns))
