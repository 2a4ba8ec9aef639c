"""Small searches on the tiny model, in this process or in one that can be killed."""

import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from lmms_steer.harness import tasks as lmms_eval_tasks
from lmms_steer.search.command import run_search
from lmms_steer.search.options import SearchOptions
from lmms_steer.search.scorers import LetterScorer

GRID = {"layers": "1-3:2", "alphas": "0.5,1.5", "controls": 1, "limit": 64, "score": "letters"}


def search_into(folder: Path, **options: Any) -> list[str]:
    """Run the command in this process; the lines that it prints. It draws no figures without the option `figures`."""
    # they take as long as a small search
    drawn = nullcontext() if options.pop("figures", False) else mock.patch("lmms_steer.search.run.draw_study")
    task, vectors = options.pop("task", "tiny_counting_select"), options.pop("vectors", ("counting",))
    model = ("steered_paligemma", options.pop("model_args", "pretrained=tiny-paligemma2"), vectors)
    settings: dict[str, Any] = {**GRID, **options}
    with drawn:
        return list(run_search(SearchOptions(*model, task, folder, **settings)))


def search_in_fork(folder: Path, **options: Any) -> int:
    """Run the command in a process that shares what is loaded here, and that may be killed; its id."""
    # datasets that this process has locked cannot be loaded in another one
    loaded = lmms_eval_tasks.load_task("tiny_counting_select", "steered_paligemma")
    process = os.fork()
    if process == 0:
        torch.set_num_threads(1)
        lmms_eval_tasks.load_task = lambda *_: loaded
        status = 1
        try:
            search_into(folder, **options)
            status = 0
        finally:
            os._exit(status)
    return process


def with_approximate_kl(value: Any) -> Any:
    """A result, or rows of cells, to compare with: batches of other sizes, and hooks, round a KL in other ways."""
    if isinstance(value, list):
        return [with_approximate_kl(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: pytest.approx(item, rel=1e-3, abs=1e-9, nan_ok=True)
        if isinstance(item, float) and (name == "kl" or item != item)  # noqa: PLR0124  NaN equals nothing
        else with_approximate_kl(item)
        for name, item in value.items()
    }


def reject_replays(monkeypatch: pytest.MonkeyPatch, after: int) -> list[Any]:
    """Let the check of a replay fail after some cells that it compares truly; the cells that it has compared."""
    true, compared = LetterScorer.agrees, list[Any]()

    def agrees(*cell: Any) -> bool:
        compared.append(cell)
        return len(compared) <= after and true(*cell)

    monkeypatch.setattr(LetterScorer, "agrees", staticmethod(agrees))
    return compared


def exit_status(process: int) -> int:
    """Wait for a process."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def result_of(folder: Path) -> dict[str, Any]:
    """The content of `result.json`."""
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def batch_files(folder: Path) -> list[Path]:
    """All batches of a study, those of its confirmation included."""
    return sorted(folder.rglob("*.parquet"))
