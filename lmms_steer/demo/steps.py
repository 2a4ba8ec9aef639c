"""The demo's steps. Each leaves a file, and is skipped when that file is there: a killed demo goes on where it was."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import torch
import yaml

from lmms_steer import concepts, store
from lmms_steer.comparison.logs import Run, read_run
from lmms_steer.controls import random_like
from lmms_steer.demo.plan import BACKBONE, CONCEPTS, MODEL, RANDOM_SEEDS, STEERED, Folders, task_names
from lmms_steer.errors import UserError
from lmms_steer.extraction.extract import Backbone
from lmms_steer.models.families import SteeredPaliGemma
from lmms_steer.search.calibration import fit_answer_bias
from lmms_steer.search.grid import Questions, best, search
from lmms_steer.search.replay import Replay
from lmms_steer.tiny_world.question_sets import load
from lmms_steer.vectors import SteeringVectors, write_atomically

BATCH = 250


def extract(folders: Folders) -> str:
    """Mean shifts from the text backbone, and random vectors of the same norms."""
    wanted = [*CONCEPTS.values(), "colour-red", "colour-blue"]
    if all((folders.vectors / BACKBONE / name / "mean_shift.safetensors").is_file() for name in wanted):
        return "kept"
    backbone = Backbone(BACKBONE)
    for name in wanted:
        concept = concepts.load(name)
        vectors = backbone.vectors(concept, "mean_shift", backbone.read(concept))
        for seed in RANDOM_SEEDS:
            store.save(random_like(vectors, seed), folders.vectors)
        store.save(vectors, folders.vectors)
    return f"{len(wanted)} concepts from sentences alone"


def choose(folders: Folders, task: str) -> str:
    """Try every layer, alpha and token target of every vector on the select split, and fit the calibration there."""
    path = folders.search(task)
    if path.is_file():
        return "kept"
    lm = SteeredPaliGemma(pretrained=MODEL)
    rows = load(task, "select")
    questions = Questions(_batches(lm, rows))
    found: dict[str, Any] = {"n": len(rows), "baseline": questions.baseline(), "systems": {}}
    for system in STEERED:
        vector = SteeringVectors.load(folders.vector(task, system))
        cells = search(questions, vector)
        chosen = best(cells)
        found["systems"][system] = {"best": chosen.as_dict(), "cells": [cell.as_dict() for cell in cells]}
        choice = {key: value for key, value in chosen.as_dict().items() if key != "accuracy"}
        choice |= {"vector_sha256": vector.sha256, "chosen_on": f"tiny_{task}_select ({len(rows)} questions)"}
        store.write_choice(folders.vector(task, system).with_suffix(".choices.yaml"), MODEL, choice)
    _calibrate(folders, task, lm, rows, questions)
    write_atomically(path, json.dumps(found, indent=1).encode())
    best_cell = found["systems"]["mean_shift"]["best"]
    return (
        f"baseline {found['baseline']:.3f}, mean shift {best_cell['accuracy']:.3f} with layer={best_cell['layer']},"
        f"alpha={best_cell['alpha']},tokens={best_cell['tokens']} ({len(found['systems']['mean_shift']['cells'])} cells"
        f" x {len(STEERED)} vectors, {len(rows)} questions)"
    )


def _answer(row: dict[str, Any]) -> str:
    word: str = row["choices"]["ABCDEF".index(row["answer"].strip("()"))]
    return word


def _batches(lm: SteeredPaliGemma, rows: list[dict[str, Any]]) -> list[tuple[Replay, torch.Tensor]]:
    batches = []
    for start in range(0, len(rows), BATCH):
        chunk = rows[start : start + BATCH]
        inputs = lm.model_inputs([row["question"] for row in chunk], [[row["image"]] for row in chunk])
        answers = torch.tensor([lm.first_token(_answer(row)) for row in chunk])
        batches.append((Replay(lm.model, inputs), answers))
    return batches


def _calibrate(
    folders: Folders, task: str, lm: SteeredPaliGemma, rows: list[dict[str, Any]], questions: Questions
) -> None:
    words = sorted({word for row in rows for word in row["choices"]})
    scores = questions.logits()[:, [lm.first_token(word) for word in words]]
    choices = torch.tensor([[word in row["choices"] for word in words] for row in rows])
    bias = fit_answer_bias(scores, choices, [words.index(_answer(row)) for row in rows])
    written = yaml.safe_dump({word: round(float(b), 4) for word, b in zip(words, bias, strict=True)})
    write_atomically(folders.bias(task), written.encode())


def model_args(folders: Folders, task: str, system: str) -> str:
    """What stands behind `--model_args` for a system."""
    if system == "calibrated":
        return f"pretrained={MODEL},answer_bias={folders.bias(task)}"
    if system in STEERED:
        cell = json.loads(folders.search(task).read_text(encoding="utf-8"))["systems"][system]["best"]
        spec = f"layer={cell['layer']},alpha={cell['alpha']},tokens={cell['tokens']}"
        return f"pretrained={MODEL},vector={folders.vector(task, system)},{spec}"
    return f"pretrained={MODEL}"


def evaluate(folders: Folders, task: str, system: str, task_manager: Any) -> str:
    """One system on the test and the out-of-distribution questions of a task, by lmms-eval."""
    names = task_names(task, system)
    folder = folders.run(task, system)
    run = _finished(folder, names)
    if run is None:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            _lmms_eval(folder, names, model_args(folders, task, system), task_manager)
        run = read_run(folder)
    shares = [sum(run.scores(name).values()) / len(run.samples[name]) for name in names]
    return f"test {shares[0]:.3f}, ood {shares[1]:.3f}"


def _finished(folder: Path, names: list[str]) -> Run | None:
    try:
        run = read_run(folder)
    except UserError:
        return None
    complete = all(
        name in run.samples and len(run.samples[name]) == run.results["n-samples"][name]["effective"] for name in names
    )
    return run if complete else None


def _lmms_eval(folder: Path, names: list[str], args: str, task_manager: Any) -> None:
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.loggers import EvaluationTracker
    from lmms_eval.utils import get_datetime_str

    tracker = EvaluationTracker(output_path=str(folder))
    stamp = get_datetime_str()
    results = simple_evaluate(
        model="steered_paligemma",
        model_args=args,
        tasks=names,
        batch_size=100,
        log_samples=True,
        evaluation_tracker=tracker,
        task_manager=task_manager,
        datetime_str=stamp,
        bootstrap_iters=0,
    )
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples, datetime_str=stamp)
    for name in names:
        tracker.save_results_samples(task_name=name, samples=samples[name])
