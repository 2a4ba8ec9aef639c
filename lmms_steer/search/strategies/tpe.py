"""TPE: Optuna proposes layer, token target and a continuous alpha from the results of earlier trials.

Trials come in rounds, so that the trials of a round share their base passes. Each vector has an Optuna study of its
own. All trials are measured on all questions, so the p-value does not account for later trials following earlier ones.
"""

from typing import Any

import numpy as np

from lmms_steer.search.plan import Cell
from lmms_steer.search.strategies import Rung, Strategy, StrategyContext, register_strategy

ROUND = 8
"""Trials of a vector that are proposed together."""


def planned_answers(search: StrategyContext) -> int:
    """The largest number of answers that the trials ask for, one cell and one question each."""
    return search.trials * len(search.vectors) * search.n


def summary(search: StrategyContext) -> str:
    """The line that is printed when the search begins."""
    return f"{search.trials} trials of each of {len(search.vectors)} vectors, {search.n} questions"


@register_strategy(
    "tpe",
    description="Optuna proposes --trials cells of each vector; alpha is continuous",
    planned_answers=planned_answers,
    summary=summary,
    adaptive=True,
)
def tpe(search: StrategyContext) -> Strategy:
    """Propose trials in rounds. The smallest and the largest of `alphas` bound alpha."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    low, high = min(search.alphas), max(search.alphas)
    space: dict[str, Any] = {
        # by its place, as the layers need not be evenly spaced
        "layer": optuna.distributions.IntDistribution(0, len(search.layers) - 1),
        "alpha": optuna.distributions.FloatDistribution(low, high, log=low > 0 and high / low >= 10),
        "tokens": optuna.distributions.CategoricalDistribution(tuple(search.tokens)),
    }
    studies = {vector: _study(optuna, search.seed + number) for number, vector in enumerate(search.vectors)}
    for first in range(0, search.trials, ROUND):
        size = min(ROUND, search.trials - first)
        trials = [(vector, studies[vector].ask(space)) for vector in search.vectors for _ in range(size)]
        cells = [
            Cell(vector, search.layers[t.params["layer"]], round(t.params["alpha"], 6), t.params["tokens"])
            for vector, t in trials
        ]
        distinct = list(dict.fromkeys(cells))
        scores, _ = yield Rung(distinct, range(search.n))
        means = dict(zip(distinct, np.mean(scores, axis=1), strict=True))
        for (vector, trial), cell in zip(trials, cells, strict=True):
            studies[vector].tell(trial, float(means[cell]))


def _study(optuna: Any, seed: int) -> Any:
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=2 * ROUND)
    return optuna.create_study(direction="maximize", sampler=sampler)
