"""What a search found: a choice, its worth, and beside it what means nothing but was searched alike.

A study as Optuna's journal: one trial a cell, for `optuna-dashboard` and Optuna's own plots.

A search's choice, kept where a spec that names the vector alone finds it.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from lmms_steer._util.io import write_atomically
from lmms_steer.errors import UserError
from lmms_steer.search.calibration import Calibration
from lmms_steer.search.plan import Plan
from lmms_steer.search.report import format_cell
from lmms_steer.search.selection import LEVEL, Floats, ScoreGrid, best_cell, cautious_cell, corrected_p
from lmms_steer.statistics.paired import Ints, compare_scores
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.vectors import store
from lmms_steer.vectors import store as choices
from lmms_steer.vectors.backbones import backbone_of, short_name


def study_result(plan: Plan, grid: ScoreGrid, calibrated: Calibration | None) -> dict[str, Any]:
    """`result.json`: the choice for each of the user's vectors, its controls, and the calibration."""
    found: dict[str, Any] = {"n": plan.n, **baseline(grid), "cells": len(grid.cells), "vectors": {}}
    if grid.images is not None:
        found["images"] = len(np.unique(grid.images))
    for name in plan.own:
        mine = grid.of(name)
        chosen = best_cell(mine)
        p = corrected_p(mine, chosen)
        gains = bool(mine.gains[chosen] > 0 and p < LEVEL)
        found["vectors"][name] = {
            "best": describe_cell(mine, chosen)
            | {"p_corrected": p, "winner": gains, "cells_tried": len(mine.cells)}
            | {"finalists": len(mine.finalists), "counted_on": len(mine.unspent)},
            "one_standard_error": describe_cell(mine, cautious_cell(mine)),
            "controls": {
                control: describe_cell(theirs, best_cell(theirs))
                for control, named in plan.controls_of(name).items()
                for theirs in [grid.of(named)]
            },
        }
    if calibrated is not None:
        # by the likeliest of the choices, however the cells are scored
        among = {"scored_by": "letters", "baseline": float(calibrated.base.mean())}
        found["calibrated"] = among | paired_difference(calibrated.base, calibrated.scores, grid.images)
    return found


def baseline(grid: ScoreGrid) -> dict[str, Any]:
    """The unsteered model's accuracy, and the share of its answers that could not be read, where that is known."""
    return {"baseline": float(grid.base.mean()), **_known("baseline_unparsed", grid.unparsed_by(None))}


def describe_cell(grid: ScoreGrid, index: int) -> dict[str, Any]:
    """A cell, its accuracy, what its gain over the baseline is worth taken alone, and its unparsed share."""
    cell = grid.cells[index]
    return {
        **{"layer": cell.layer, "alpha": cell.alpha, "tokens": cell.tokens},
        **paired_difference(grid.base, grid.scores[index], grid.images),
        **_known("unparsed", grid.unparsed_by(cell)),
    }


def _known(name: str, share: float) -> dict[str, float]:
    return {} if math.isnan(share) else {name: share}


def paired_difference(base: Floats, scores: Floats, images: Ints | None = None) -> dict[str, Any]:
    """A paired comparison of the same questions; `images`: of each, 0 …; None where each has its own."""
    paired = compare_scores(base, scores, images)
    return {
        **{"accuracy": paired.accuracy, "gain": paired.gain, "low": paired.low, "high": paired.high, "p": paired.p},
        **{"fixed": paired.fixed, "broken": paired.broken},
    }


def study_sha256(plan: Plan, grid: ScoreGrid) -> str:
    """Of what was searched and of all that was found."""
    found = hashlib.sha256(plan.sha256.encode())
    order = sorted(range(len(grid.cells)), key=lambda i: grid.cells[i])
    found.update(json.dumps([str(grid.cells[i]) for i in order]).encode())
    found.update(np.ascontiguousarray(grid.scores[order]).tobytes() + grid.base.tobytes())
    return found.hexdigest()


def choice_spec(plan: Plan, study: str, some: str, name: str, cell: dict[str, Any]) -> SteeringSpec:
    """A cell of `told` as a spec, with where it comes from; `some` are hashes of questions."""
    vector, _, control = name.partition(",control=")
    made = {"chosen_on": plan.task, "questions": plan.n, "model": f"{plan.model} {plan.model_args}", "study": study,
            "vector_sha256": plan.vectors[name], "some_questions": some}  # fmt: skip
    intervention = Intervention(vector, cell["layer"], cell["alpha"], cell["tokens"], control=control or None)
    return SteeringSpec((intervention,), made)


def write_choices(folder: Path, plan: Plan, some: str, name: str, grid: ScoreGrid, found: dict[str, Any]) -> None:
    """The files that `--model_args steering=…` takes: the choice, the cautious one, and the controls' best."""
    study, chosen = study_sha256(plan, grid), found["vectors"][name]
    files = {"choice": (name, chosen["best"]), "choice_1se": (name, chosen["one_standard_error"])}
    for control, cell in chosen["controls"].items():
        files[f"control_{control.replace(':', '_')}"] = (f"{name},control={control}", cell)
    for file, (vector, cell) in files.items():
        write_atomically(folder / f"{file}.yaml", choice_spec(plan, study, some, vector, cell).to_yaml().encode())


def write_bias(folder: Path, calibrated: Calibration) -> None:
    """`answer_bias.yaml`, for `--model_args answer_bias=…`."""
    text = yaml.safe_dump({word: round(bias, 4) for word, bias in calibrated.biases.items()}, allow_unicode=True)
    write_atomically(folder / "answer_bias.yaml", text.encode())


def write_cells(folder: Path, grid: ScoreGrid) -> None:
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


def write_journal(folder: Path, grid: ScoreGrid) -> None:
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


def save_winners(plan: Plan, found: dict[str, Any], model: str) -> Iterator[str]:
    """Keep what won, vector by vector; a line for each.

    Args:
        plan, found: of the search.
        model: the checkpoint that was searched.
    """
    for name in plan.own:
        best = found["vectors"][name]["best"]
        if not best["winner"]:
            yield f"nothing is kept for {name}: no cell won"
            continue
        path = save_choice(choice_spec(plan, "", "", name, best), model)
        yield f"kept in {path}: on {short_name(model)}, vector={name} alone now means {format_cell(best)}"


def save_choice(spec: SteeringSpec, model: str) -> Path:
    """File a choice of `study.spec_of` beside its vector, or in the user's store for one that ships.

    Raises:
        UserError: for a spec that says more than a choice holds.
    """
    first = spec.interventions[0]
    if spec.interventions != (Intervention(first.vector, first.layer, first.alpha, first.tokens),):
        raise UserError(f"{spec}: a vector's choice holds layer, alpha and tokens alone: name the file, steering=…")
    made = spec.provenance
    chosen_on = f"{made['chosen_on']} ({made['questions']} questions)"
    choice = {"layer": first.layer, "alpha": first.alpha, "tokens": first.tokens, "chosen_on": chosen_on}
    path = choices.choices_path(store.find(first.vector, backbone_of(model)))
    choices.write_choice(path, model, choice | {"vector_sha256": made["vector_sha256"]})
    return path
