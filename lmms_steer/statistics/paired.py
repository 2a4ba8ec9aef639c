"""What a difference between two systems on the same questions is worth."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmms_steer.errors import UserError
from lmms_steer.statistics.effects import Ints, of_one_task

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Comparison:
    """`gain` and its 95% interval are shares (0.01 is a point).

    The interval is Tango's score interval and `p` McNemar's mid-p (binary.py says why), for graded scores and for
    questions that share images a t interval and sign flips.
    """

    n: int
    accuracy: float
    gain: float
    low: float
    high: float
    fixed: int
    broken: int
    p: float


def compare(
    baseline: Mapping[str, float], system: Mapping[str, float], clusters: Ints | None = None, seed: int = 0
) -> Comparison:
    """Pair two runs' scores by document.

    Args:
        baseline: document ▸ score.
        system: document ▸ score, of the same documents.
        clusters: the image of each of the baseline's documents, 0 …; None where each has its own.
        seed: of the sign flips.

    Raises:
        UserError: when the documents are not the same.
    """
    if baseline.keys() != system.keys():
        missing = len(baseline.keys() ^ system.keys())
        raise UserError(f"the runs were not made on the same questions: {missing} are in only one of them")
    before = np.array(list(baseline.values()), dtype=float)
    after = np.array([system[key] for key in baseline], dtype=float)
    return of_scores(before, after, clusters, seed)


def of_scores(before: Floats, after: Floats, clusters: Ints | None = None, seed: int = 0) -> Comparison:
    """As `compare`, of scores in one order, float [questions]."""
    found = of_one_task((after - before)[None], clusters, seed)
    gain, low, high, p = (float(x[0]) for x in (found.gain, found.low, found.high, found.p))
    return Comparison(len(before), float(after.mean()), gain, low, high, int(found.fixed[0]), int(found.broken[0]), p)
