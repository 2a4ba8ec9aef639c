"""The study as an Optuna journal, one trial a cell, for `optuna-dashboard` and Optuna's own plots."""

from pathlib import Path

import numpy as np

from lmms_steer.search.selection import ScoreGrid


def write_journal(folder: Path, grid: ScoreGrid) -> None:
    """Write `study.log` anew from the scores so far.

    A cell that was measured on all questions is a complete trial; one that was not (yet, or because it was dropped) is
    a pruned one. Intermediate values are its accuracy after so many questions.

    Args:
        folder: the study's folder.
        grid: the scores so far.
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
    layers, alphas = [cell.layer for cell in grid.cells], [cell.alpha for cell in grid.cells]
    distributions = {
        "vector": CategoricalDistribution(sorted({cell.vector for cell in grid.cells})),
        "layer": IntDistribution(min(layers), max(layers)),
        "alpha": FloatDistribution(min(alphas), max(alphas)),
        "tokens": CategoricalDistribution(sorted({cell.tokens for cell in grid.cells})),
    }
    gains, measured, ends = grid.gains, grid.question_counts, sorted(set(grid.question_counts.tolist()))
    study.add_trials(
        [
            create_trial(
                state=TrialState.COMPLETE if measured[i] == grid.scores.shape[1] else TrialState.PRUNED,
                params={"vector": c.vector, "layer": c.layer, "alpha": c.alpha, "tokens": c.tokens},
                distributions=distributions,
                value=float(np.nanmean(grid.scores[i])),
                intermediate_values={end: float(grid.scores[i, :end].mean()) for end in ends if end <= measured[i]},
                user_attrs={"gain": float(gains[i]), "questions": int(measured[i])},
            )
            for i, c in enumerate(grid.cells)
        ]
    )
    unfinished.replace(path)
