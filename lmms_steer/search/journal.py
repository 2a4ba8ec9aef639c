"""A study as Optuna's journal: one trial a cell, for `optuna-dashboard` and Optuna's own plots."""

from pathlib import Path

import numpy as np

from lmms_steer.search.selection import Grid


def write(folder: Path, grid: Grid) -> None:
    """`study.log`, written anew, as all of it comes from the batches.

    A cell that was asked everything is a complete trial, one that was not (yet, or was dropped) a pruned one;
    intermediate values are its accuracy after so many questions.
    """
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    unfinished, path = folder / "study.log.unfinished", folder / "study.log"
    unfinished.unlink(missing_ok=True)
    storage = JournalStorage(JournalFileBackend(str(unfinished)))
    study = optuna.create_study(storage=storage, study_name="lmms-steer", direction="maximize")
    layers, alphas = ([getattr(cell, name) for cell in grid.cells] for name in ("layer", "alpha"))
    distributions = {
        "vector": CategoricalDistribution(sorted({cell.vector for cell in grid.cells})),
        "layer": IntDistribution(min(layers), max(layers)),
        "alpha": FloatDistribution(min(alphas), max(alphas)),
        "tokens": CategoricalDistribution(sorted({cell.tokens for cell in grid.cells})),
    }
    gains, asked, ends = grid.gains, grid.asked, sorted(set(grid.asked.tolist()))
    study.add_trials(
        [
            create_trial(
                state=TrialState.COMPLETE if asked[i] == grid.scores.shape[1] else TrialState.PRUNED,
                params={"vector": c.vector, "layer": c.layer, "alpha": c.alpha, "tokens": c.tokens},
                distributions=distributions,
                value=float(np.nanmean(grid.scores[i])),
                intermediate_values={end: float(grid.scores[i, :end].mean()) for end in ends if end <= asked[i]},
                user_attrs={"gain": float(gains[i]), "questions": int(asked[i])},
            )
            for i, c in enumerate(grid.cells)
        ]
    )
    unfinished.replace(path)
