"""Which gain a paired comparison could show, and how many questions it takes.

Where a share psi of n questions changes between right and wrong, a mean difference has the standard error sqrt(psi / n)
without an effect, and sqrt((psi - gain²) / n) with one. Connor (1987), "Sample size for testing differences in
proportions for the paired-sample design", Biometrics 43, gives the number of questions from both. For the best of
several cells the critical value is Bonferroni's, an upper bound of max-T's: cells that resemble each other need fewer
questions.
"""

import math
from statistics import NormalDist

POWER = 0.8
"""The chance of finding a gain that counts as enough."""
LEVEL = 0.05
"""The level of the one-sided test, corrected for the cells."""
STEPS = 10_000
"""Gains are found to this part of 1: a hundredth of a point."""
_NORMAL = NormalDist()


def questions_needed(gain: float, discordant: float, cells: int = 1) -> float:
    """The number of questions on which a gain is found with 80% probability.

    Args:
        gain: as a share (0.01 is a point), above 0.
        discordant: the share of questions whose answer changes between right and wrong, at least `gain`.
        cells: the number of cells that the test accounts for.

    Returns:
        a whole number; infinite for a gain that is larger than `discordant`, which cannot be.
    """
    if gain > discordant:
        return math.inf
    critical, quantile = -_NORMAL.inv_cdf(LEVEL / cells), _NORMAL.inv_cdf(POWER)
    errors = critical * math.sqrt(discordant) + quantile * math.sqrt(discordant - gain**2)
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
    """The probability that a mean difference is beyond so many of the standard errors that it has without an effect."""
    if gain > discordant:
        return 0.0
    spread = math.sqrt(discordant - gain**2)
    return _NORMAL.cdf((gain * math.sqrt(n) - critical * math.sqrt(discordant)) / spread)


def detectable_gain(n: int, discordant: float, cells: int = 1) -> float:
    """The smallest gain, as a share, that is found with 80% probability; NaN where no possible gain is.

    Args:
        n: number of questions.
        discordant, cells: as for `questions_needed`.
    """
    low, high = 0, math.floor(discordant * STEPS + 1e-9)
    if not high or questions_needed(high / STEPS, discordant, cells) > n:
        return math.nan
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if questions_needed(middle / STEPS, discordant, cells) <= n else (middle, high)
    return high / STEPS
