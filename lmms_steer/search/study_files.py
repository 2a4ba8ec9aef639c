"""The files that a search writes for other commands: choices, answer biases, the table of cells, Optuna's journal.

A choice can also be saved as its vector's default for this model (`--keep`).
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from lmms_steer._util.io import write_atomically
from lmms_steer.errors import UserError
from lmms_steer.search.calibration import Calibration
from lmms_steer.search.fixed_keys import FixedKeys
from lmms_steer.search.plan import Cell, Plan, split_control
from lmms_steer.search.report import format_cell
from lmms_steer.search.results import CellResult, SearchResult, VectorResult
from lmms_steer.search.selection import ScoreGrid
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.vectors import store
from lmms_steer.vectors.backbones import backbone_of, short_name


def study_sha256(plan: Plan, grid: ScoreGrid) -> str:
    """Hash of a plan and of all scores that were measured for it."""
    digest = hashlib.sha256(plan.sha256.encode())
    order = sorted(range(len(grid.cells)), key=lambda i: grid.cells[i])
    digest.update(json.dumps([str(grid.cells[i]) for i in order]).encode())
    digest.update(np.ascontiguousarray(grid.scores[order]).tobytes() + grid.base.tobytes())
    return digest.hexdigest()


MoreProvenance = Callable[[Intervention, Cell], dict[str, Any]]
"""What the provenance of a chosen cell's spec says in addition."""


def choice_spec(
    plan: Plan, study: str, question_ids: str, name: str, cell: CellResult, more: MoreProvenance = lambda *_: {}
) -> SteeringSpec:
    """A chosen cell as a spec, with its provenance.

    Args:
        plan: the search.
        study: hash of the study.
        question_ids: ids of some of its questions (`questions.sample_ids`), by which a leaderboard recognises them.
        name: the vector, or a control by the name that cells use.
        cell: the chosen cell.
        more: further provenance.
    """
    vector, control = split_control(name)
    provenance = {"chosen_on": plan.task, "questions": plan.n, "model": f"{plan.model} {plan.model_args}",
                  "study": study, "vector_sha256": plan.vectors[name], "some_questions": question_ids}  # fmt: skip
    place = {"vector": vector, "layer": cell.layer, "alpha": cell.alpha, "tokens": cell.tokens, "control": control}
    intervention = replace(FixedKeys.parse(plan.spec).intervention, **place)  # type: ignore[arg-type]
    further = more(intervention, Cell(name, cell.layer, cell.alpha, cell.tokens))
    return SteeringSpec((intervention,), provenance | further)


def write_choices(
    folder: Path, plan: Plan, question_ids: str, name: str, grid: ScoreGrid, result: VectorResult,
    more: MoreProvenance = lambda *_: {},
) -> None:  # fmt: skip
    """Write the specs that `--model_args steering=…` takes: the choice, the cautious choice, each control's choice.

    Where a cell was chosen for each token target, the files of a target end in its name: `choice_image.yaml`.

    Args:
        folder: the vector's folder.
        plan, question_ids, name: as for `choice_spec`.
        grid: the scores of all vectors.
        result: the vector's result.
        more: as for `choice_spec`.
    """
    study = study_sha256(plan, grid)
    files: dict[str, tuple[str, CellResult]] = {}
    for suffix, found in {"": result, **{f"_{tokens}": target for tokens, target in result.targets.items()}}.items():
        files[f"choice{suffix}"], files[f"choice_1se{suffix}"] = (name, found.best), (name, found.one_standard_error)
        for control, cell in found.controls.items():
            files[f"control_{control.replace(':', '_')}{suffix}"] = (f"{name},control={control}", cell)
    for file, (vector, cell) in files.items():
        spec = choice_spec(plan, study, question_ids, vector, cell, more)
        write_atomically(folder / f"{file}.yaml", spec.to_yaml().encode())


def write_bias(folder: Path, calibrated: Calibration) -> None:
    """Write `answer_bias.yaml`, for `--model_args answer_bias=…`."""
    text = yaml.safe_dump({word: round(bias, 4) for word, bias in calibrated.biases.items()}, allow_unicode=True)
    write_atomically(folder / "answer_bias.yaml", text.encode())


def write_cells(folder: Path, grid: ScoreGrid) -> None:
    """Write `cells.parquet`, one row a cell.

    Everything is over the questions that the cell was measured on; `kl` and `unparsed` are NaN where they are unknown.
    """
    measured, changed = grid.question_counts, [grid.changed(i) for i in range(len(grid.cells))]
    columns = {
        "vector": [c.vector for c in grid.cells],
        "layer": [c.layer for c in grid.cells],
        "alpha": [c.alpha for c in grid.cells],
        "tokens": [c.tokens for c in grid.cells],
        "n": measured.tolist(),
        "accuracy": np.nanmean(grid.scores, axis=1).tolist(),
        "gain": grid.gains.tolist(),
        "dropped": (measured < grid.scores.shape[1]).tolist(),
        "unparsed": [grid.unparsed_by(c) for c in grid.cells],
        "kl": [grid.mean_kl(i) for i in range(len(grid.cells))],
        "mended": [mended for mended, _ in changed],
        "broken": [broken for _, broken in changed],
    }
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), buffer)
    write_atomically(folder / "cells.parquet", buffer.getvalue().to_pybytes())


def save_winners(
    plan: Plan, result: SearchResult, model: str, more: MoreProvenance = lambda *_: {}, revision: str | None = None
) -> Iterator[str]:
    """Save each winner as its vector's default for a model.

    Args:
        plan, result: the search.
        model: the checkpoint that was searched.
        more: as for `choice_spec`.
        revision: of the checkpoint, if it is a Hub id.

    Yields:
        a line for each vector.
    """
    for name in plan.user_vectors:
        vector = result.vectors[name]
        if not vector.winner:
            yield f"{name}: no winner, so no default is saved"
            continue
        spec = choice_spec(plan, "", "", name, vector.best, more)
        path = save_choice(spec, model, revision)
        cell = format_cell(vector.best)
        cell += f" ({spec.provenance['budget']})" if "budget" in spec.provenance else ""
        yield f"saved in {path}: on {short_name(model)}, vector={name} alone now means {cell}"


def save_choice(spec: SteeringSpec, model: str, revision: str | None = None) -> Path:
    """Save a choice next to its vector, or in the user's store for a vector that ships with the package.

    Args:
        spec: made by `choice_spec`.
        model: the checkpoint that it was chosen for.
        revision: of the checkpoint, if it is a Hub id.

    Returns:
        the file of choices.

    Raises:
        UserError: for a spec that sets more than a choice holds.
    """
    first = spec.interventions[0]
    if spec.interventions != (Intervention(first.vector, first.layer, first.alpha, first.tokens),):
        raise UserError(
            f"{spec}: a vector's choice holds layer, alpha and tokens alone: evaluate the file instead, steering=…"
        )
    provenance = spec.provenance
    chosen_on = f"{provenance['chosen_on']} ({provenance['questions']} questions)"
    choice = {"layer": first.layer, "alpha": first.alpha, "tokens": first.tokens, "chosen_on": chosen_on}
    choice |= {key: provenance[key] for key in store.BUDGET_KEYS if key in provenance}
    path = store.choices_path(store.find(first.vector, backbone_of(model)))
    store.write_choice(path, model, choice | {"vector_sha256": provenance["vector_sha256"]}, revision)
    return path


def write_journal(folder: Path, grid: ScoreGrid) -> None:
    """Write `study.log` anew from the scores so far.

    A cell that was measured on all questions is a complete trial; one that was not (yet, or because it was dropped) is
    a pruned one. Intermediate values are its accuracy after so many questions.

    Args:
        folder: the study's folder, where no other process may write the journal at the same time.
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
    # a process that was killed while it wrote leaves Optuna's lock, on which the next one would wait, perhaps for ever;
    # the caller's own lock, which ends with its process, keeps others out
    unfinished.with_name(f"{unfinished.name}.lock").unlink(missing_ok=True)
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
