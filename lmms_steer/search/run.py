"""A search under way: its strategy, its work, and what is written and said at the end."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm import tqdm

from lmms_steer._util.io import write_atomically
from lmms_steer.errors import UserError
from lmms_steer.search import study
from lmms_steer.search import study as journal
from lmms_steer.search.batch_store import BatchStore
from lmms_steer.search.calibration import calibrate
from lmms_steer.search.figures import draw_study
from lmms_steer.search.measure import REFUTED_FILE, Measurer
from lmms_steer.search.options import SearchOptions
from lmms_steer.search.plan import Cell, Plan
from lmms_steer.search.questions import Question, image_clusters, load_questions, questions_sha256, sample_ids
from lmms_steer.search.report import report_lines
from lmms_steer.search.selection import ScoreGrid
from lmms_steer.search.strategies import Strategy, full_grid, run_strategy
from lmms_steer.search.strategies.halving import planned_answers, race
from lmms_steer.search.strategies.screen import Screen, screened
from lmms_steer.search.strategies.tpe import tpe
from lmms_steer.search.study import save_winners
from lmms_steer.vectors.steering_vectors import SteeringVectors

GIB = 1 << 30


class SearchRun:
    """
    Args:
        options, plan: what was asked for.
        lm: the unsteered model.
        task: of lmms-eval.
        vectors: by the names that cells use.
        asked: the questions, in the study's order.
    """

    def __init__(
        self, options: SearchOptions, plan: Plan, lm: Any, task: Any, vectors: Mapping[str, SteeringVectors],
        asked: Sequence[Question],
    ) -> None:  # fmt: skip
        self.options, self.plan, self.lm, self.task = options, plan, lm, task
        self.vectors, self.asked = vectors, asked
        self.images = image_clusters(asked)

    def run(self, to_confirm: Any | None) -> Iterator[str]:
        """Search, choose, write, and confirm on another task where one is given."""
        cells = self.plan.cells(len(self.lm.model.get_decoder().layers) - 1)
        if not cells:
            raise UserError("the grid is empty: steering image tokens of the last layer cannot change an answer")
        yield self._strategy(cells)[2]
        if "image" in self.plan.tokens and len(self.lm.model.get_decoder().layers) - 1 in self.plan.layers:
            yield "image tokens of the last layer are left out: steering them cannot change an answer"
        found, hooked = self._found(cells, to_confirm)
        if hooked:
            yield f"{len(hooked)} batches by full forwards with hooks: {'; '.join(sorted(set(hooked)))}"
        yield from report_lines(self.plan, found, self.options.output, self.options.confirm)
        if self.options.keep:
            yield from save_winners(self.plan, found, self.lm.pretrained)

    def _found(self, cells: list[Cell], to_confirm: Any | None) -> tuple[dict[str, Any], list[str]]:
        """What `result.json` says, by then written; why batches were hooked."""
        grid, work = _measure_soundly(partial(self._climbed, cells))
        hooked, calibrated = list(work.hooked), calibrate(self.asked, work.answers, self.lm.first_token)
        with FileLock(self.options.output / ".result.lock"):
            found = study.study_result(self.plan, grid, calibrated)
            self._write(grid, found, calibrated)
            if to_confirm is not None:
                hooked += self._confirm(found, to_confirm)
                write_atomically(self.options.output / "result.json", study.as_json(found))
        if work.refuted:
            # by the confirmation: its replays were no worse than those that the choice was made by
            work.forget_replayed()
            return self._found(cells, to_confirm)
        return found, hooked

    def _strategy(self, cells: list[Cell]) -> tuple[Strategy, int, str]:
        plan, n = self.plan, len(self.asked)
        if plan.strategy == "tpe":
            made = tpe(list(plan.vectors), plan.layers, plan.alphas, plan.tokens, n, plan.trials, plan.seed)
            total = plan.trials * len(plan.vectors) * n
            return made, total, f"{plan.trials} trials of each of {len(plan.vectors)} vectors, {n} questions"
        tried = len(cells)
        if "screen" in plan.strategy:
            cells = Screen(self.lm, self.vectors).cut(cells, self.asked, plan.batch_size, self.options.output)
        kept = f"{tried} cells" if len(cells) == tried else f"{len(cells)} of {tried} cells, by the screen"
        if plan.strategy.startswith("race"):
            return race(cells, n, self.images), planned_answers(cells, n), f"{kept}, racing over {n} questions"
        return full_grid(cells, n), len(cells) * n, f"{kept} x {n} questions"

    def _climbed(self, cells: list[Cell]) -> tuple[ScoreGrid, BatchStore]:
        output, plan = self.options.output, self.plan
        strategy, total, _ = self._strategy(cells)
        spent = screened(plan.n) if "screen" in plan.strategy else 0
        with tqdm(total=total, desc="search", unit=" answers", disable=None) as bar:
            work = BatchStore(output, self._measure(self.task, output), self.asked, plan.batch_size, bar)
            grid = run_strategy(strategy, plan.n, work, self._journal, self.images)
            bar.total = bar.n
        return replace(grid, spent=max(grid.spent, spent), unparsed=work.unparsed), work

    def _measure(self, task: Any, folder: Path) -> Measurer:
        generates, budget = self.plan.score == "generate", int(self.options.memory * GIB)
        wrong = self.options.output / REFUTED_FILE
        return Measurer(self.lm, task, self.vectors, generates, self.plan.tokens, budget, folder, wrong)

    def _journal(self, grid: ScoreGrid) -> None:
        with FileLock(self.options.output / ".journal.lock"):
            journal.write_journal(self.options.output, grid)

    def _confirm(self, found: dict[str, Any], task: Any) -> list[str]:
        """Measure what was chosen on questions that no choice has seen; why batches of it were hooked."""
        asked = list(load_questions(task, None, fixed=self.plan.score == "letters"))
        chosen = {}
        for name, told in found["vectors"].items():
            of_controls = {f"{name},control={control}": cell for control, cell in told["controls"].items()}
            for vector, cell in {name: told["best"], **of_controls}.items():
                chosen[vector] = Cell(vector, cell["layer"], cell["alpha"], cell["tokens"])
        grid, work = _measure_soundly(partial(self._measured_on, task, asked, list(chosen.values())))
        found["confirmed"] = {
            "task": str(task.config.task), "n": len(asked), **study.baseline(grid),
            "vectors": {cell.vector: study.describe_cell(grid, i) for i, cell in enumerate(grid.cells)},
        }  # fmt: skip
        return work.hooked

    def _measured_on(self, task: Any, asked: Sequence[Question], cells: Sequence[Cell]) -> tuple[ScoreGrid, BatchStore]:
        # what is there of other questions (a task's data may be imported anew) or cells is left alone
        said = [questions_sha256(asked), [(*astuple(cell), self.plan.vectors[cell.vector]) for cell in cells]]
        number = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12]
        folder = self.options.output / "confirm" / f"{task.config.task}-{number}"
        with tqdm(total=len(cells) * len(asked), desc="confirm", unit=" answers", disable=None) as bar:
            work = BatchStore(folder, self._measure(task, folder), asked, self.plan.batch_size, bar)
            grid = run_strategy(full_grid(cells, len(asked)), len(asked), work, images=image_clusters(asked))
            return replace(grid, unparsed=work.unparsed), work

    def _write(self, grid: ScoreGrid, found: dict[str, Any], calibrated: Any) -> None:
        output, names, hashes = self.options.output, self.plan.own, sample_ids(self.asked)
        study.write_cells(output, grid)
        for name in names:
            folder = self.plan.folder(output, name)
            folder.mkdir(exist_ok=True)
            study.write_choices(folder, self.plan, hashes, name, grid, found)
            draw_study(folder, name, grid.of(name), found["vectors"][name])
        if calibrated is not None:
            study.write_bias(output, calibrated)
        write_atomically(output / "result.json", study.as_json(found))


def _measure_soundly(measured: Callable[[], tuple[ScoreGrid, BatchStore]]) -> tuple[ScoreGrid, BatchStore]:
    """What was measured, and, where a replay was found wrong meanwhile, again: all of it with hooks."""
    grid, work = measured()
    while work.refuted:
        work.forget_replayed()
        grid, work = measured()
    return grid, work
