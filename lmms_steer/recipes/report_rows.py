"""Read a recipe's folder for its report: one row for each task, model, method, concept and token target."""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import NamedTuple

from lmms_steer.comparison.leaderboard import LeaderboardRow, build_leaderboard
from lmms_steer.comparison.systems import read_comparison
from lmms_steer.errors import UserError
from lmms_steer.recipes.cells import Cell
from lmms_steer.recipes.layout import evaluate_cell_name
from lmms_steer.recipes.ledger import Ledger
from lmms_steer.recipes.published import paper_task
from lmms_steer.recipes.systems import BESIDE
from lmms_steer.search.results import RESULT_FILE, SearchResult, VectorResult
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.spec import SteeringSpec

BEST = "best of all"
"""The target of a choice among all token targets."""
_UNSTEERED = {"baseline": "baseline", "prompted": "prompting", "calibrated": "answer bias"}
"""System without a vector ▸ what a report calls it."""
_RANDOM = re.compile(r"-random-\d+$")
"""End of the name of a random vector that went through the same choice."""
_BESIDE = re.compile(rf"{BESIDE}\d+$")
"""End of the name of a random vector at the place of a choice."""


@dataclass(frozen=True)
class ReportRow:
    """One system on one task. The fields are the columns of `report.csv`; scores that are shares are between 0 and 1.

    Attributes:
        title: the task's name in the paper, else its own.
        task: the task.
        study: the study of the recipe.
        model: the model's name in the recipe.
        checkpoint: the checkpoint that was run, without owner or folder.
        system: the system's name in the recipe.
        method: the method that a search chose a cell of; baseline, prompting or answer bias; the name of any other
            system.
        concept: the concept; "" without a vector.
        target: the token target that the cell was chosen for; "" for a system that no search chose.
        n: questions.
        metric: the score.
        score: its mean.
        gain: the mean difference from the baseline, question by question; NaN for the baseline.
        low: the lower end of its 95% interval.
        high: the upper end.
        p: the p-value of the gain.
        p_holm: p, corrected over all systems of the model's study.
        random: the gains of the random vectors that went through the same choice.
        tokens: the tokens that are steered.
        layer, alpha: the chosen cell.
        train_gain: its gain on the questions that it was chosen on; NaN where another study chose it.
        train_p: p-value of that gain, corrected for all cells that were tried (max-T).
        scale: 100 if all scores of the task are shares, which tables show in percent and points; else 1.
    """

    title: str
    task: str
    study: str
    model: str
    checkpoint: str
    system: str
    method: str
    concept: str
    target: str
    n: int
    metric: str
    score: float
    gain: float
    low: float
    high: float
    p: float
    p_holm: float
    random: tuple[float, ...] = ()
    tokens: str = ""
    layer: int | None = None
    alpha: float = math.nan
    train_gain: float = math.nan
    train_p: float = math.nan
    scale: float = 100.0


class _Steered(NamedTuple):
    """What tells the steered systems of a study apart; the target is "" for a system that no search chose."""

    method: str
    concept: str
    target: str


def read_report(root: Path, metric: str | None) -> tuple[list[ReportRow], list[str]]:
    """Read the evaluations of a recipe.

    Args:
        root: the recipe's folder.
        metric: the score to compare by; None for each task's own.

    Returns:
        the rows, by model and study; a line for everything that could not be compared.

    Raises:
        UserError: for a folder without evaluations.
    """
    rows: list[ReportRow] = []
    lines: list[str] = []
    for folder in study_folders(root):
        model, study = folder.parts[-2:]
        try:
            board, left_out = read_study(folder, metric)
        except UserError as error:
            lines.append(f"not compared: {model}, {study}: {error}")
            continue
        lines += [f"not compared: {model}, {study}: {line}" for line in left_out]
        lines += [f"not compared: {model}, {row.system} on {row.task}: {row.refused}" for row in board if row.refused]
        compared = [row for row in board if not row.refused]
        stale = {id(row): line for row in compared if (line := _stale(root, model, study, row))}
        lines += [f"not compared: {model}, {line}" for line in stale.values()]
        rows += _rows_of(root, model, study, [row for row in compared if id(row) not in stale])
    return rows, lines


def study_folders(root: Path) -> list[Path]:
    """The folders of a recipe's evaluations, `runs/MODEL/STUDY`.

    Raises:
        UserError: where there are none.
    """
    folders = sorted(path for path in (root / "runs").glob("*/*") if path.is_dir())
    if not folders:
        raise UserError(f"no evaluations of a recipe in {str(root)!r}: expected {root / 'runs'}/MODEL/STUDY/SYSTEM")
    return folders


def read_study(folder: Path, metric: str | None) -> tuple[list[LeaderboardRow], Sequence[str]]:
    """Compare the systems of one study with its baseline.

    Args:
        folder: of its evaluations.
        metric: the score to compare by; None for each task's own.

    Returns:
        the rows of single tasks; a line for every run that was left out.

    Raises:
        UserError: for runs that cannot be read, or without a baseline.
    """
    runs, unplanned = _runs(folder)
    comparison = read_comparison([f"{run.name}={run}" for run in runs], "baseline", metric)
    left_out = [*comparison.left_out, *(f"{run.name}: it is not in the plan of the last run" for run in unplanned)]
    return [row for row in build_leaderboard(comparison.systems) if row.scope == "task"], left_out


def _runs(folder: Path) -> tuple[list[Path], list[Path]]:
    """The evaluations of a study that the last plan has, and those that an earlier one left.

    All count where the plan has none of the study, as after a run of other studies alone.
    """
    root, (model, study) = folder.parents[2], folder.parts[-2:]
    runs = sorted(path for path in folder.iterdir() if path.is_dir())
    plan = _evaluations(root, model, study)
    planned = [run for run in runs if run.name in plan]
    return (planned, [run for run in runs if run not in planned]) if planned else (runs, [])


def _evaluations(root: Path, model: str, study: str) -> dict[str, Cell]:
    """System ▸ its evaluation in the last plan; none without a plan."""
    before = evaluate_cell_name(model, study, "")
    try:
        return {cell.name.removeprefix(before): cell for cell in Ledger(root).cells if cell.name.startswith(before)}
    except (OSError, ValueError, TypeError):
        return {}


def _rows_of(root: Path, model: str, study: str, board: list[LeaderboardRow]) -> Iterator[ReportRow]:
    plan = _evaluations(root, model, study)
    steered = {id(row): _steered(row, plan.get(row.system)) for row in board}
    for row in board:
        own = steered[id(row)]
        if row.role == "control" and _BESIDE.search(row.system):
            # the comparison ranks the choice among them
            continue
        if own is None:
            yield _report_row(row, model, study, _Steered(_UNSTEERED.get(row.system, row.system), "", ""))
        elif not own.target:
            yield _report_row(row, model, study, own)
        elif not _RANDOM.search(row.system):
            controls = [other for other in board if other.role == "control" and other.task == row.task]
            random = tuple(other.gain for other in controls if steered[id(other)] == own)
            chosen = _chosen(root / "search" / model / study, own)
            train = (chosen.best.gain, chosen.p_corrected) if chosen is not None else (math.nan, math.nan)
            yield _report_row(row, model, study, own, random, train)


def _report_row(
    row: LeaderboardRow,
    model: str,
    study: str,
    own: _Steered,
    random: tuple[float, ...] = (),
    train: tuple[float, float] = (math.nan, math.nan),
) -> ReportRow:
    run, cell, known = row.samples[0], _intervention(row), paper_task(row.task)
    return ReportRow(
        title=known.title if known else row.task,
        task=row.task,
        study=study,
        model=model,
        checkpoint=run.results.model,
        system=row.system,
        method=own.method,
        concept=own.concept,
        target=own.target,
        n=row.n,
        metric=run.metric,
        score=row.score,
        gain=row.gain,
        low=row.low,
        high=row.high,
        p=row.p,
        p_holm=row.p_holm,
        random=random,
        tokens=str(cell.tokens) if cell else "",
        layer=cell.layer if cell else None,
        alpha=float(cell.alpha) if cell and cell.alpha is not None else math.nan,
        train_gain=train[0],
        train_p=train[1],
        scale=row.scale,
    )


def _intervention(row: LeaderboardRow) -> Intervention | None:
    line = row.samples[0].results.steering.get("spec")
    return SteeringSpec.parse(line).interventions[0] if line else None


def _steered(row: LeaderboardRow, planned: Cell | None) -> _Steered | None:
    """What a report calls a steered system.

    Args:
        row: the system on a task.
        planned: its evaluation; None where the last plan has none.

    Returns:
        method, concept and target of a choice and of its random vectors; the name and the concept of any other system;
        None for a system without a vector.
    """
    cell = _intervention(row)
    if cell is None:
        return None
    # stores and the recipe's folder keep vectors as BACKBONE/CONCEPT/METHOD.safetensors
    vector = PurePath(cell.vector.removesuffix(".safetensors"))
    method, concept = vector.name, vector.parent.name
    label = _RANDOM.sub("", row.system)
    cautious = label.endswith("-1se")
    label = label.removesuffix("-1se")
    overall = label.removesuffix(f"-{cell.tokens}")
    # a system of the recipe's own may have such a name too, but gives its settings in the command
    from_file = planned is None or any(",steering=" in word for word in planned.command)
    if overall not in (method, f"{concept}-{method}") or not from_file:
        return _Steered(row.system, concept, "")
    return _Steered(f"{method} (1 SE)" if cautious else method, concept, BEST if overall == label else str(cell.tokens))


def _stale(root: Path, model: str, study: str, row: LeaderboardRow) -> str:
    """Why a row is not of what its search has chosen since, or of a search that was made anew; "" if it is."""
    own, cell = _steered(row, _evaluations(root, model, study).get(row.system)), _intervention(row)
    if own is None or cell is None or not own.target:
        return ""
    searches = root / "search" / model / study
    before, now = row.samples[0].results.steering.get("provenance", {}).get("study"), _search_hash(searches, own)
    if before and now and before != now:
        return f"{row.system} on {row.task}: it was measured before its search was made anew"
    chosen = _chosen(searches, own)
    if chosen is None or row.role == "control":
        return ""
    best = chosen.best
    if (best.layer, best.tokens) == (cell.layer, cell.tokens) and math.isclose(best.alpha, float(cell.alpha or 0)):
        return ""
    place = f"layer {best.layer}, alpha {best.alpha:g}, tokens {best.tokens}"
    return f"{row.system} on {row.task}: it was measured before its search chose {place}"


def _search_hash(searches: Path, own: _Steered) -> str | None:
    """The hash of a search and its scores, which its choices carry; None without one."""
    for path in sorted((searches / f"{own.concept}-{own.method}").glob("choice*.yaml")):
        with suppress(UserError):
            return SteeringSpec.from_yaml(path).provenance.get("study")
    return None


def _chosen(searches: Path, own: _Steered) -> VectorResult | None:
    """What a search has found for a target; None without such a search."""
    folder = searches / f"{own.concept}-{own.method}"
    if not (folder / RESULT_FILE).is_file():
        return None
    (found,) = SearchResult.read(folder).vectors.values()
    return found if own.target == BEST else found.targets.get(own.target)
