"""What a search found: a choice, its worth, and beside it what means nothing but was searched alike."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from lmms_steer.files import write_atomically
from lmms_steer.search.calibration import Calibrated
from lmms_steer.search.plan import Plan
from lmms_steer.search.selection import LEVEL, Floats, Grid, best, corrected_p, one_standard_error
from lmms_steer.spec import Intervention, SteeringSpec
from lmms_steer.statistics.effects import Ints
from lmms_steer.statistics.paired import of_scores


def result(plan: Plan, grid: Grid, calibrated: Calibrated | None) -> dict[str, Any]:
    """`result.json`: the choice for each of the user's vectors, its controls, and the calibration."""
    found: dict[str, Any] = {"n": plan.n, **baseline(grid), "cells": len(grid.cells), "vectors": {}}
    if grid.images is not None:
        found["images"] = len(np.unique(grid.images))
    for name in plan.own:
        mine = grid.of(name)
        chosen = best(mine)
        p = corrected_p(mine, chosen)
        gains = bool(mine.gains[chosen] > 0 and p < LEVEL)
        found["vectors"][name] = {
            "best": told(mine, chosen)
            | {"p_corrected": p, "winner": gains, "cells_tried": len(mine.cells)}
            | {"finalists": len(mine.finalists), "counted_on": len(mine.unspent)},
            "one_standard_error": told(mine, one_standard_error(mine)),
            "controls": {
                control: told(theirs, best(theirs))
                for control, named in plan.controls_of(name).items()
                for theirs in [grid.of(named)]
            },
        }
    if calibrated is not None:
        # by the likeliest of the choices, however the cells are scored
        among = {"scored_by": "letters", "baseline": float(calibrated.base.mean())}
        found["calibrated"] = among | difference(calibrated.base, calibrated.scores, grid.images)
    return found


def baseline(grid: Grid) -> dict[str, Any]:
    """The unsteered model's accuracy, and the share of its answers that could not be read, where that is known."""
    return {"baseline": float(grid.base.mean()), **_known("baseline_unparsed", grid.unparsed_by(None))}


def told(grid: Grid, index: int) -> dict[str, Any]:
    """A cell, its accuracy, what its gain over the baseline is worth taken alone, and its unparsed share."""
    cell = grid.cells[index]
    return {
        **{"layer": cell.layer, "alpha": cell.alpha, "tokens": cell.tokens},
        **difference(grid.base, grid.scores[index], grid.images),
        **_known("unparsed", grid.unparsed_by(cell)),
    }


def _known(name: str, share: float) -> dict[str, float]:
    return {} if math.isnan(share) else {name: share}


def difference(base: Floats, scores: Floats, images: Ints | None = None) -> dict[str, Any]:
    """A paired comparison of the same questions; `images`: of each, 0 …; None where each has its own."""
    paired = of_scores(base, scores, images)
    return {
        **{"accuracy": paired.accuracy, "gain": paired.gain, "low": paired.low, "high": paired.high, "p": paired.p},
        **{"fixed": paired.fixed, "broken": paired.broken},
    }


def sha256(plan: Plan, grid: Grid) -> str:
    """Of what was searched and of all that was found."""
    found = hashlib.sha256(plan.sha256.encode())
    order = sorted(range(len(grid.cells)), key=lambda i: grid.cells[i])
    found.update(json.dumps([str(grid.cells[i]) for i in order]).encode())
    found.update(np.ascontiguousarray(grid.scores[order]).tobytes() + grid.base.tobytes())
    return found.hexdigest()


def spec_of(plan: Plan, study: str, some: str, name: str, cell: dict[str, Any]) -> SteeringSpec:
    """A cell of `told` as a spec, with where it comes from; `some` are hashes of questions."""
    vector, _, control = name.partition(",control=")
    made = {"chosen_on": plan.task, "questions": plan.n, "model": f"{plan.model} {plan.model_args}", "study": study,
            "vector_sha256": plan.vectors[name], "some_questions": some}  # fmt: skip
    intervention = Intervention(vector, cell["layer"], cell["alpha"], cell["tokens"], control=control or None)
    return SteeringSpec((intervention,), made)


def write(folder: Path, plan: Plan, some: str, name: str, grid: Grid, found: dict[str, Any]) -> None:
    """The files that `--model_args steering=…` takes: the choice, the cautious one, and the controls' best."""
    study, chosen = sha256(plan, grid), found["vectors"][name]
    files = {"choice": (name, chosen["best"]), "choice_1se": (name, chosen["one_standard_error"])}
    for control, cell in chosen["controls"].items():
        files[f"control_{control.replace(':', '_')}"] = (f"{name},control={control}", cell)
    for file, (vector, cell) in files.items():
        write_atomically(folder / f"{file}.yaml", spec_of(plan, study, some, vector, cell).to_yaml().encode())


def write_bias(folder: Path, calibrated: Calibrated) -> None:
    """`answer_bias.yaml`, for `--model_args answer_bias=…`."""
    text = yaml.safe_dump({word: round(bias, 4) for word, bias in calibrated.biases.items()}, allow_unicode=True)
    write_atomically(folder / "answer_bias.yaml", text.encode())


def write_cells(folder: Path, grid: Grid) -> None:
    """`cells.parquet`: one row a cell; accuracy, gain and unparsed (nan: unknown) are on the questions that it was
    asked."""
    asked = grid.asked
    columns = {
        "vector": [c.vector for c in grid.cells],
        "layer": [c.layer for c in grid.cells],
        "alpha": [c.alpha for c in grid.cells],
        "tokens": [c.tokens for c in grid.cells],
        "n": asked.tolist(),
        "accuracy": np.nanmean(grid.scores, axis=1).tolist(),
        "gain": grid.gains.tolist(),
        "dropped": (asked < grid.scores.shape[1]).tolist(),
        "unparsed": [grid.unparsed_by(c) for c in grid.cells],
    }
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), buffer)
    write_atomically(folder / "cells.parquet", buffer.getvalue().to_pybytes())


def as_json(found: dict[str, Any]) -> bytes:
    """`result.json`."""
    return json.dumps(found, indent=1).encode()
