"""What the batches add up to: a grid of answers, an Optuna study that `optuna-dashboard` opens, a choice, its worth."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from lmms_steer.comparison.paired import Comparison, compare
from lmms_steer.search.calibration import fit_answer_bias
from lmms_steer.search.plan import Cell, Plan
from lmms_steer.search.selection import Grid, best, corrected_p, one_standard_error
from lmms_steer.search.work import Work
from lmms_steer.spec import Intervention, SteeringSpec
from lmms_steer.vectors import write_atomically


def gathered(work: Work) -> tuple[Grid, dict[str, Any]]:
    """All batches' answers, questions in the order of their documents; and the calibration's, fitted on the same."""
    rows: list[dict[str, Any]] = []
    for number in range(len(work.batches)):
        rows += pq.read_table(work.path(number)).to_pylist()
    rows.sort(key=lambda row: row["doc_id"])
    hits = np.array([row["hits"] for row in rows], dtype=float).T
    return Grid(work.cells, hits[1:], hits[0]), {"calibrated": _calibrated(rows, hits[0])}


def result(plan: Plan, grid: Grid, more: dict[str, Any]) -> dict[str, Any]:
    """The choice for each of the user's vectors, and beside it what means nothing but was searched alike."""
    found: dict[str, Any] = {"n": plan.n, "baseline": float(grid.base.mean()), "cells": len(grid.cells), "vectors": {}}
    own = [name for name in plan.vectors if ",control=" not in name]
    for name in own:
        mine = grid.of(name)
        chosen = best(mine)
        controls = {}
        for control in (other for other in plan.vectors if other.startswith(f"{name},control=")):
            theirs = grid.of(control)
            controls[control.split("=")[1]] = _told(theirs, best(theirs))
        found["vectors"][name] = {
            "best": _told(mine, chosen) | {"p_corrected": corrected_p(mine, chosen), "cells_tried": len(mine.cells)},
            "one_standard_error": _told(mine, one_standard_error(mine)),
            "controls": controls,
        }
    return found | more


def choice_yaml(plan: Plan, name: str, cell: dict[str, Any]) -> str:
    """A file for `steering=FILE.yaml`, with where it comes from."""
    intervention = Intervention(name, cell["layer"], cell["alpha"], cell["tokens"])
    spec = SteeringSpec((intervention,)).to_yaml()
    head = (
        f"# chosen by lmms-steer search on {plan.task} ({plan.n} questions), model {plan.model} {plan.model_args}\n"
        f"# study {plan.sha256}, vector {plan.vectors[name]}\n"
    )
    return head + spec


def write_optuna(folder: Path, grid: Grid) -> None:
    """`study.log`: a journal with one finished trial a cell; written anew, as all of it comes from the batches."""
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    unfinished, path = folder / "study.log.unfinished", folder / "study.log"
    unfinished.unlink(missing_ok=True)
    storage = JournalStorage(JournalFileBackend(str(unfinished)))
    study = optuna.create_study(storage=storage, study_name="lmms-steer", direction="maximize")
    layers = [cell.layer for cell in grid.cells]
    alphas = [cell.alpha for cell in grid.cells]
    distributions = {
        "vector": CategoricalDistribution(sorted({cell.vector for cell in grid.cells})),
        "layer": IntDistribution(min(layers), max(layers)),
        "alpha": FloatDistribution(min(alphas), max(alphas)),
        "tokens": CategoricalDistribution(sorted({cell.tokens for cell in grid.cells})),
    }
    study.add_trials(
        [
            optuna.trial.create_trial(
                params={"vector": c.vector, "layer": c.layer, "alpha": c.alpha, "tokens": c.tokens},
                distributions=distributions,
                value=float(grid.hits[i].mean()),
                user_attrs={"gain": float(grid.gains[i])},
            )
            for i, c in enumerate(grid.cells)
        ]
    )
    unfinished.replace(path)


def write_result(folder: Path, found: dict[str, Any]) -> None:
    """`result.json`."""
    write_atomically(folder / "result.json", json.dumps(found, indent=1).encode())


def _told(grid: Grid, index: int) -> dict[str, Any]:
    cell: Cell = grid.cells[index]
    paired = _paired(grid.base, grid.hits[index])
    return {
        **{"layer": cell.layer, "alpha": cell.alpha, "tokens": cell.tokens, "accuracy": paired.accuracy},
        **{"gain": paired.gain, "low": paired.low, "high": paired.high, "p": paired.p},
        **{"fixed": paired.fixed, "broken": paired.broken},
    }


def _calibrated(rows: list[dict[str, Any]], base: Any) -> dict[str, float]:
    width = max(len(row["base_logits"]) for row in rows)
    scores = torch.full((len(rows), width), -1e9)
    for number, row in enumerate(rows):
        scores[number, : len(row["base_logits"])] = torch.tensor(row["base_logits"])
    possible, right = scores > -1e8, [row["right"] for row in rows]
    bias = fit_answer_bias(scores, possible, right)
    hits = ((scores + bias).masked_fill(~possible, -1e9).argmax(1) == torch.tensor(right)).double().numpy()
    paired = _paired(base, hits)
    return {"gain": paired.gain, "low": paired.low, "high": paired.high, "p": paired.p}


def _paired(base: Any, hits: Any) -> Comparison:
    before, after = ({str(i): float(v) for i, v in enumerate(values)} for values in (base, hits))
    return compare(before, after)


def control_names(name: str, controls: int) -> list[str]:
    """A vector's controls, as cells name them: `spatial,control=random:0`, …"""
    return [f"{name},control=random:{seed}" for seed in range(controls)]
