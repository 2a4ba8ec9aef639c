"""TPE: layer, target and a continuous alpha, proposed by Optuna from what earlier trials gave.

Trials come in rounds, so that a round shares its base passes; each vector has a study of its own.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lmms_steer.search.plan import Cell
from lmms_steer.search.strategies import Rung, Strategy

ROUND = 8


def tpe(vectors: Sequence[str], layers: Sequence[int], alphas: Sequence[float], tokens: Sequence[str], n: int,
        trials: int, seed: int) -> Strategy:  # fmt: skip
    """
    Args:
        vectors, layers, tokens: what there is to choose from.
        alphas: the smallest and the largest of them bound alpha.
        n: questions; every trial is asked all of them.
        trials: of each vector.
        seed: of the proposals.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    low, high = min(alphas), max(alphas)
    space: dict[str, Any] = {
        # by its place, as the layers need not be evenly spaced
        "layer": optuna.distributions.IntDistribution(0, len(layers) - 1),
        "alpha": optuna.distributions.FloatDistribution(low, high, log=low > 0 and high / low >= 10),
        "tokens": optuna.distributions.CategoricalDistribution(tuple(tokens)),
    }
    studies = {vector: _study(optuna, seed + number) for number, vector in enumerate(vectors)}
    for first in range(0, trials, ROUND):
        asked = [(vector, studies[vector].ask(space)) for vector in vectors for _ in range(min(ROUND, trials - first))]
        cells = [
            Cell(vector, layers[t.params["layer"]], round(t.params["alpha"], 6), t.params["tokens"])
            for vector, t in asked
        ]
        alike = list(dict.fromkeys(cells))
        scores, _ = yield Rung(alike, range(n))
        means = dict(zip(alike, np.mean(scores, axis=1), strict=True))
        for (vector, trial), cell in zip(asked, cells, strict=True):
            studies[vector].tell(trial, float(means[cell]))


def _study(optuna: Any, seed: int) -> Any:
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=2 * ROUND)
    return optuna.create_study(direction="maximize", sampler=sampler)
