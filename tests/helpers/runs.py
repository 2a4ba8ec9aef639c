"""Write runs as lmms-eval 0.7.3 does, and studies as `lmms-steer search` does, for tests and benchmarks."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lmms_steer.comparison.leaderboard import LeaderboardRow, build_leaderboard
from lmms_steer.comparison.systems import read_comparison

STAMP = "20260101_000000"
BASE = [1.0] * 60 + [0.0] * 40
"""Scores of a baseline on 100 questions."""
STEERED = [1.0] * 55 + [0.0] * 5 + [1.0] * 15 + [0.0] * 25
"""Scores that fix 15 of the questions and break 5."""


TASK_CONFIG: dict[str, Any] = {
    "metric_list": [{"metric": "acc"}],
    "score_key": "score",
    "output_type": "generate_until",
    "generation_kwargs": {"max_new_tokens": 20, "do_sample": False, "until": ["\n\n"]},
    "repeats": 1,
}
"""What a results file says of a task."""


def write_run(
    folder: Path,
    scores: Mapping[str, Sequence[float]],
    answer: Callable[[int, float], str] = lambda number, score: "A" if score else "B",
    spec: str | None = "",
    stamp: str = STAMP,
    config: dict[str, Any] | None = None,
    results: dict[str, Any] | None = None,
    sample: dict[str, Any] | Callable[[int], dict[str, Any]] | None = None,
) -> Path:
    """Write an lmms-eval run.

    Args:
        folder: the run's folder.
        scores: task ▸ the score of each document.
        answer: document and score ▸ the model's answer.
        spec: the steering spec; None for a model that records no steering.
        stamp: the time in the files' names.
        config: entries of the results file's `config` to add or replace.
        results: entries of the results file to add or replace.
        sample: entries of each sample to add or replace, or a function from its number to them.

    Returns:
        The folder.
    """
    seeds = {"random_seed": 0, "numpy_seed": 1234, "torch_seed": 1234, "fewshot_seed": 1234}
    args = {"model": "steered_paligemma", "model_args": "pretrained=tiny,vector=v", "tasks": ",".join(scores)}
    content: dict[str, Any] = {
        "results": {task: {"alias": task, "acc,none": sum(s) / len(s)} for task, s in scores.items()},
        "configs": {task: {**TASK_CONFIG, "task": task} for task in scores},
        "system_instruction": None,
        "chat_template_sha": None,
        "fewshot_as_multiturn": False,
        "versions": dict.fromkeys(scores, 1.0),
        "n-shot": dict.fromkeys(scores, 0),
        "higher_is_better": {task: {"acc": True} for task in scores},
        "n-samples": {task: {"original": len(s), "effective": len(s)} for task, s in scores.items()},
        "config": {**args, **seeds, "resolved_cli_args": {**args, "batch_size": "16"}, **(config or {})},
        "total_evaluation_time_seconds": "5.5",
        "date": stamp,
        **(results or {}),
    }
    if spec is not None:
        content["steering"] = {"model": "tiny", "spec": spec, "sha256": "5" * 64 if spec else None, "vectors": []}
    below = folder / "tiny"
    below.mkdir(parents=True, exist_ok=True)
    (below / f"{stamp}_results.json").write_text(json.dumps(content))
    for task, values in scores.items():
        with (below / f"{stamp}_samples_{task}.jsonl").open("w") as file:
            for number, score in enumerate(values):
                row = {
                    "doc_id": number,
                    "target": "A",
                    "filtered_resps": answer(number, score),
                    "token_counts": [{"input_tokens": 30, "output_tokens": 1}],
                    "doc_hash": "7" * 64,
                    "acc": score,
                    "score": score,
                    "unparsed": 0.0,
                    "parsed": "A" if score else "B",
                    "input": f"Is the orange shape {number} above or below the green shape?",
                }
                row |= (sample(number) if callable(sample) else sample) or {}
                file.write(json.dumps(row) + "\n")
    return folder


def write_chosen_runs(folder: Path, task: str, provenance: dict[str, str], **more: Any) -> Path:
    """Write a baseline and a steered run whose record says where its settings were chosen.

    Args:
        folder: the folder of both runs.
        task: the task of both.
        provenance: of the steering record.
        more: arguments of `write_run`.
    """
    write_run(folder / "baseline", {task: BASE}, **more)
    steering = {"spec": "vector=v,layer=1", "sha256": "5" * 64, "vectors": [{"name": "v", "sha256": "6" * 64}]}
    results = {"steering": {**steering, "provenance": provenance}}
    write_run(folder / "<b>steered", {task: STEERED}, spec=None, results=results, **more)
    return folder


def write_study(
    folder: Path, gains: dict[tuple[int, float], float], dropped: Sequence[tuple[int, float]] = (),
    kl: dict[tuple[int, float], float] | None = None,
) -> Path:  # fmt: skip
    """Write a search's cells: (layer, alpha) ▸ gain, and ▸ KL if given; without it as an older version did."""
    cells = [
        {"vector": "v", "layer": cell[0], "alpha": cell[1], "tokens": "image", "n": 50, "gain": gain,
         "dropped": cell in dropped, **({} if kl is None else {"kl": kl[cell]})}
        for cell, gain in gains.items()
    ]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(cells), folder / "cells.parquet")
    return folder


def leaderboard(
    *runs: Path | str, allowed: Sequence[str] = (), **options: Any
) -> dict[tuple[str, str], LeaderboardRow]:
    """Compare runs: (task, system) ▸ row. `allowed` is for `build_leaderboard`, the rest for `read_comparison`."""
    rows = build_leaderboard(read_comparison([str(run) for run in runs], **options).systems, allowed)
    return {(row.task, row.system): row for row in rows}


def by_document(scores: Sequence[float]) -> dict[str, float]:
    """Number the scores: document ▸ score."""
    return {str(number): float(score) for number, score in enumerate(scores)}
