"""Assess what a search measured: the choice for each vector, its gain, and the controls for comparison."""

import math
from dataclasses import asdict, replace

import numpy as np

from lmms_steer.search.calibration import Calibration
from lmms_steer.search.plan import Plan
from lmms_steer.search.results import (
    CalibrationResult,
    CellResult,
    ConfirmationResult,
    Gain,
    SearchResult,
    VectorResult,
)
from lmms_steer.search.selection import LEVEL, ScoreGrid, best_index, cautious_index, corrected_p
from lmms_steer.statistics import Floats, Ints
from lmms_steer.statistics.paired import compare_scores


def assess_search(
    plan: Plan, grid: ScoreGrid, calibrated: Calibration | None, per_target: bool = False
) -> SearchResult:
    """The result of a search, not yet confirmed.

    Args:
        plan: the search.
        grid: the scores of all cells; some cell of each vector and control was measured on all questions.
        calibrated: answer biases that were fitted on the same questions.
        per_target: choose a cell for each token target as well; then some cell of each target was measured on all
            questions.
    """
    return SearchResult(
        n=plan.n,
        baseline=float(grid.base.mean()),
        baseline_unparsed=_known(grid.unparsed_by(None)),
        cells=len(grid.cells),
        n_images=None if grid.image_of is None else len(np.unique(grid.image_of)),
        vectors={name: _assess_targets(plan, grid, name, per_target) for name in plan.user_vectors},
        calibrated=None if calibrated is None else _assess_calibration(calibrated, grid.image_of),
    )


def assess_confirmation(task: str, grid: ScoreGrid) -> ConfirmationResult:
    """The result of measuring the chosen cells on another task, one cell for each vector and control."""
    return ConfirmationResult(
        task=task,
        n=len(grid.base),
        baseline=float(grid.base.mean()),
        baseline_unparsed=_known(grid.unparsed_by(None)),
        vectors={cell.vector: cell_result(grid, i) for i, cell in enumerate(grid.cells)},
    )


def cell_result(grid: ScoreGrid, index: int) -> CellResult:
    """The result of one cell that was measured on all questions, taken alone.

    Args:
        grid: the scores.
        index: the cell's place in the grid.
    """
    cell = grid.cells[index]
    gain = paired_gain(grid.base, grid.scores[index], grid.image_of)
    unparsed, kl = _known(grid.unparsed_by(cell)), _known(grid.mean_kl(index))
    return CellResult(**asdict(gain), layer=cell.layer, alpha=cell.alpha, tokens=cell.tokens, unparsed=unparsed, kl=kl)


def paired_gain(base: Floats, scores: Floats, image_of: Ints | None = None) -> Gain:
    """Compare scores with the baseline's on the same questions.

    Args:
        base, scores: float [questions].
        image_of: the image of each question, numbered from 0; None where no two questions share one.
    """
    paired = compare_scores(base, scores, image_of)
    return Gain(paired.accuracy, paired.gain, paired.low, paired.high, paired.p, paired.fixed, paired.broken)


def _assess_targets(plan: Plan, grid: ScoreGrid, name: str, per_target: bool) -> VectorResult:
    targets = plan.tokens if per_target else ()
    found = {tokens: _assess_vector(plan, grid.of_target(tokens), name) for tokens in targets}
    return replace(_assess_vector(plan, grid, name), targets=found)


def _assess_vector(plan: Plan, grid: ScoreGrid, name: str) -> VectorResult:
    own = grid.of(name)
    best = best_index(own)
    p = corrected_p(own, best)
    return VectorResult(
        best=cell_result(own, best),
        p_corrected=p,
        winner=bool(own.gains[best] > 0 and p < LEVEL),
        cells_tried=len(own.cells),
        finalists=len(own.finalists),
        counted_on=len(own.unspent),
        one_standard_error=cell_result(own, cautious_index(own)),
        discordant=_discordant(own),
        counted_gain=_counted_gain(own, best),
        controls={control: _best_of(grid.of(full)) for control, full in plan.controls_of(name).items()},
    )


def _counted_gain(grid: ScoreGrid, index: int) -> float | None:
    """A cell's gain on the questions that a corrected p is computed on; None where these are all questions or none."""
    unspent = grid.unspent
    if len(unspent) in (0, len(grid.base)):
        return None
    return float((grid.scores[index] - grid.base)[unspent].mean())


def _discordant(grid: ScoreGrid) -> float | None:
    """The median share of answers that change between right and wrong; None for graded scores, which change a bit."""
    scores = grid.scores[grid.finalists]
    graded = not all(np.isin(values, (0, 1)).all() for values in (scores, grid.base))
    return None if graded else float(np.median((scores != grid.base).mean(1)))


def _best_of(grid: ScoreGrid) -> CellResult:
    return cell_result(grid, best_index(grid))


def _assess_calibration(calibrated: Calibration, image_of: Ints | None) -> CalibrationResult:
    gain = paired_gain(calibrated.base, calibrated.scores, image_of)
    return CalibrationResult(**asdict(gain), baseline=float(calibrated.base.mean()))


def _known(share: float) -> float | None:
    return None if math.isnan(share) else share
