"""Folders as lmms-eval 0.7.3 and lm-eval 0.4.13 write them, for tests and benchmarks of comparisons."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

STAMP = "20260101_000000"


def write_run(
    folder: Path,
    scores: dict[str, Sequence[float]],
    answer: Callable[[int, float], str] = lambda number, score: "A" if score else "B",
    spec: str | None = "",
    stamp: str = STAMP,
    config: dict[str, Any] | None = None,
    results: dict[str, Any] | None = None,
    sample: dict[str, Any] | Callable[[int], dict[str, Any]] | None = None,
) -> Path:
    """An lmms-eval run: task ▸ a score for each document. `spec` None: a model that records no steering."""
    seeds = {"random_seed": 0, "numpy_seed": 1234, "torch_seed": 1234, "fewshot_seed": 1234}
    args = {"model": "steered_paligemma", "model_args": "pretrained=tiny,vector=v", "tasks": ",".join(scores)}
    said: dict[str, Any] = {
        "results": {task: {"alias": task, "acc,none": sum(s) / len(s)} for task, s in scores.items()},
        "configs": {task: {"metric_list": [{"metric": "acc"}], "score_key": "score"} for task in scores},
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
        said["steering"] = {"model": "tiny", "spec": spec, "sha256": "5" * 64 if spec else None, "vectors": []}
    place = folder / "tiny"
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{stamp}_results.json").write_text(json.dumps(said))
    for task, values in scores.items():
        with (place / f"{stamp}_samples_{task}.jsonl").open("w") as file:
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
