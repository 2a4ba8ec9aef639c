"""Small searches on the tiny model, in this process or in one of their own that can be killed."""

import json
import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from lmms_steer.search import required_questions
from lmms_steer.search.command import run_search
from lmms_steer.search.options import SearchOptions
from lmms_steer.search.scorers import LetterScorer
from tests.helpers import warm

GRID = {"layers": "1-3:2", "alphas": "0.5,1.5", "controls": 1, "limit": 64, "score": "letters"}


def search_into(folder: Path, **options: Any) -> list[str]:
    """Run the command in this process; the lines that it prints. It draws no figures without the option `figures`."""
    left_out = () if options.pop("figures", False) else ("draw_study", "draw_damage")
    task, vectors = options.pop("task", "tiny_counting_select"), options.pop("vectors", ("counting",))
    model = ("steered_paligemma", options.pop("model_args", "pretrained=tiny-paligemma2"), vectors)
    settings: dict[str, Any] = {**GRID, **options}
    with ExitStack() as skipped:
        # they take longer than a small search
        for name in left_out:
            skipped.enter_context(mock.patch(f"lmms_steer.search.run.{name}"))
        return list(run_search(SearchOptions(*model, task, folder, **settings)))


def ask_few_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let strategies run on fewer questions than they need to be useful, for tests of how they run."""
    monkeypatch.setattr(required_questions, "check_questions", lambda *_: None)
    monkeypatch.setattr("lmms_steer.search.strategies.race.MIN_FIRST_RUNG", 20)


def start_search(folder: Path, *, first: str, **options: Any) -> warm.Started:
    """Run the command in a process of its own, which may be killed.

    Args:
        folder, options: those of `search_into`.
        first: the name of a function `module.function` that the process calls before, with a `MonkeyPatch`.
    """
    module, _, function = first.rpartition(".")
    code = (
        "from pathlib import Path\nimport pytest\nfrom tests.helpers.searches import search_into\n"
        f"from {module} import {function}\n{function}(pytest.MonkeyPatch())\n"
        f"search_into(Path({str(folder)!r}), **{options!r})"
    )
    return warm.start("python", "-c", code, cwd=warm.ROOT)


def kill_after(batches: float, started: warm.Started, folder: Path) -> None:
    """Kill a search when it has written this many batches."""
    while len(list(folder.glob("batches/*.parquet"))) < batches:
        assert started.poll() is None, started.communicate()[1]
        time.sleep(0.002)
    os.kill(started.pid, signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL


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


def result_of(folder: Path) -> dict[str, Any]:
    """The content of `result.json`."""
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def batch_files(folder: Path) -> list[Path]:
    """All batches of a study, those of its confirmation included."""
    return sorted(folder.rglob("*.parquet"))
