"""Which gain a paired comparison could show, and how many questions it takes.

Where a share psi of n questions changes between right and wrong, a mean difference has the standard error sqrt(psi / n)
without an effect, and sqrt((psi - gain²) / n) with one. Connor (1987), "Sample size for testing differences in
proportions for the paired-sample design", Biometrics 43, gives the number of questions from both. For the best of
several cells the critical value is Bonferroni's, an upper bound of max-T's: cells that resemble each other need fewer
questions. For graded scores, and for images that share questions, the same holds with the mean squared change in the
place of psi.
"""

import math
from bisect import bisect_left
from statistics import NormalDist

POWER = 0.8
"""The chance of finding a gain that counts as enough."""
LEVEL = 0.05
"""The level of the one-sided test, corrected for the cells."""
STEPS = 10_000
"""Gains are found to this part of 1: a hundredth of a point."""
_NORMAL = NormalDist()


def questions_needed(
    gain: float, discordant: float, cells: int = 1, level: float = LEVEL, most: float | None = None
) -> float:
    """The number of questions on which a gain is found with 80% probability.

    Args:
        gain: as a share (0.01 is a point), above 0.
        discordant: the share of questions whose answer changes between right and wrong; of graded scores the mean
            squared change.
        cells: the number of cells that the test accounts for.
        level: of the one-sided test; half of that of a two-sided one.
        most: the largest gain that can be; default: `discordant`, for answers that are right or wrong.

    Returns:
        a whole number; infinite for a gain that cannot be.
    """
    if gain > (discordant if most is None else most):
        return math.inf
    critical, quantile = -_NORMAL.inv_cdf(level / cells), _NORMAL.inv_cdf(POWER)
    errors = critical * math.sqrt(discordant) + quantile * math.sqrt(max(0.0, discordant - gain**2))
    return float(math.ceil((errors / gain) ** 2))


def power(gain: float, n: int, discordant: float, cells: int = 1) -> float:
    """The probability that a gain is found.

    Args:
        gain: as a share (0.01 is a point), above 0.
        n: number of questions.
        discordant, cells: as for `questions_needed`.
    """
    return _exceeds(-_NORMAL.inv_cdf(LEVEL / cells), gain, n, discordant)


def stays(gain: float, n: int, discordant: float, share: float) -> float:
    """The probability that a cell with a gain is in the best share of cells, of which the others have no effect.

    Args:
        gain: as a share of the questions, above 0.
        n: number of questions on which cells are compared.
        discordant: the share of questions whose answer changes between right and wrong, in every cell.
        share: of the cells, above 0. The cells count as independent.
    """
    return 1.0 if share >= 1 else _exceeds(-_NORMAL.inv_cdf(share), gain, n, discordant)


def _exceeds(critical: float, gain: float, n: int, discordant: float) -> float:
    """The probability that a mean difference exceeds the critical value, in its standard errors without an effect."""
    if gain > discordant:
        return 0.0
    spread = math.sqrt(discordant - gain**2)
    return _NORMAL.cdf((gain * math.sqrt(n) - critical * math.sqrt(discordant)) / spread)


def detectable_gain(
    n: int, discordant: float, cells: int = 1, level: float = LEVEL, most: float | None = None
) -> float:
    """The smallest gain, as a share, that is found with 80% probability; NaN where no possible gain is.

    Args:
        n: number of questions.
        discordant, cells, level, most: as for `questions_needed`.
    """

    def suffices(step: int) -> bool:
        return questions_needed(step / STEPS, discordant, cells, level, most) <= n

    largest = math.floor((discordant if most is None else most) * STEPS + 1e-9)
    step = bisect_left(range(largest + 1), True, lo=1, key=suffices)
    return step / STEPS if step <= largest else math.nan
