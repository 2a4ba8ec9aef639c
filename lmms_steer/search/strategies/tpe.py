"""TPE: Optuna proposes layer, token target and a continuous alpha from the results of earlier trials.

Trials come in rounds, so that the trials of a round share their base passes. Each vector has an Optuna study of its
own. All trials are measured on all questions, so the p-value does not account for later trials following earlier ones.
Where Optuna proposes a layer and target that the grid leaves out, the nearest that the grid has are tried instead.
"""

from itertools import product
from typing import Any

import numpy as np

from lmms_steer.search.plan import Cell
from lmms_steer.search.strategies import Rung, Strategy, StrategyContext, register_strategy

ROUND = 8
"""Trials of a vector that are proposed together."""

Place = tuple[int, str]
"""A layer, by its place among the layers that are searched, and a token target."""


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
    drops_targets=True,
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
    possible = _possible_places(search)
    studies = {vector: _study(optuna, search.seed + number) for number, vector in enumerate(search.vectors)}
    searched = [vector for vector in search.vectors if possible[vector]]
    for first in range(0, search.trials, ROUND):
        size = min(ROUND, search.trials - first)
        trials = [(v, _ask(optuna, studies[v], space, possible[v])) for v in searched for _ in range(size)]
        cells = [
            Cell(vector, search.layers[t.params["layer"]], round(t.params["alpha"], 6), t.params["tokens"])
            for vector, t in trials
        ]
        distinct = list(dict.fromkeys(cells))
        scores, _ = yield Rung(distinct, range(search.n))
        means = dict(zip(distinct, np.mean(scores, axis=1), strict=True))
        for (vector, trial), cell in zip(trials, cells, strict=True):
            studies[vector].tell(trial, float(means[cell]))


def _possible_places(search: StrategyContext) -> dict[str, list[Place]]:
    """Vector ▸ the places of its cells, in the order of layers and tokens."""
    occurring = {(cell.vector, cell.layer, cell.tokens) for cell in search.cells}
    places = list(product(enumerate(search.layers), search.tokens))
    return {
        vector: [(number, tokens) for (number, layer), tokens in places if (vector, layer, tokens) in occurring]
        for vector in search.vectors
    }


def _ask(optuna: Any, study: Any, space: dict[str, Any], possible: list[Place]) -> Any:
    """Ask for a trial. One at a place that is not possible fails, and the nearest possible place is tried instead."""
    trial = study.ask(space)
    layer, tokens = trial.params["layer"], trial.params["tokens"]
    if (layer, tokens) in possible:
        return trial
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    nearest = min(possible, key=lambda place: (abs(place[0] - layer), place[1] != tokens))
    study.enqueue_trial({**trial.params, "layer": nearest[0], "tokens": nearest[1]})
    return study.ask(space)


def _study(optuna: Any, seed: int) -> Any:
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=2 * ROUND)
    return optuna.create_study(direction="maximize", sampler=sampler)
