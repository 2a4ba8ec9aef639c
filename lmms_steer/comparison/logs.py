"""The samples that `lmms-eval --log_samples` wrote."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmms_steer.errors import UserError


@dataclass(frozen=True, slots=True)
class Run:
    """One evaluation: its results file, and each task's samples by document.

    A document is known by its number and its target: `doc_hash` is the same for all of them in lmms-eval 0.7.3, which
    hashes an empty document.
    """

    results: dict[str, Any]
    samples: dict[str, dict[str, dict[str, Any]]]

    def scores(self, task: str) -> dict[str, float]:
        """document ▸ score of each sample of a task."""
        return {key: float(sample["score"]) for key, sample in self.samples[task].items()}


def read_run(folder: Path) -> Run:
    """The newest evaluation below a folder.

    Raises:
        UserError: when there is none, or it was cut off.
    """
    found = sorted(folder.rglob("*_results.json"), key=lambda path: path.name)
    if not found:
        raise UserError(f"no finished evaluation in {str(folder)!r}: there is no *_results.json")
    newest = found[-1]
    stamp = newest.name.removesuffix("_results.json")
    samples: dict[str, dict[str, dict[str, Any]]] = {}
    try:
        results = json.loads(newest.read_text(encoding="utf-8"))
        for path in newest.parent.glob(f"{stamp}_samples_*.jsonl"):
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            task = path.name.removeprefix(f"{stamp}_samples_").removesuffix(".jsonl")
            samples[task] = {f"{row['doc_id']}:{row['target']}": row for row in rows}
    except (ValueError, KeyError) as error:
        raise UserError(f"the evaluation in {str(newest.parent)!r} is cut off: {error}") from error
    return Run(results, samples)
