"""Read the results of the recipe `tiny`: a row for each task, split and system, its searches, and the colour curve."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow.parquet as pq

from lmms_steer._util.io import write_atomically
from lmms_steer.comparison.pairing import shared_images
from lmms_steer.comparison.runs import RunResults, newest_evaluation, read_results
from lmms_steer.comparison.samples import read_samples
from lmms_steer.demo.layout import METHOD, RANDOM, SPLITS, SYSTEMS, Folders, task_names
from lmms_steer.errors import UserError
from lmms_steer.search.results import SearchResult
from lmms_steer.statistics.paired import compare_by_document

_CELL_KEYS = ("layer", "alpha", "tokens", "gain")


@dataclass(frozen=True)
class DemoRow:
    """One system on one split of a task; the fields are the keys of `results.json`, in their order.

    Attributes:
        task: spatial, counting or colour.
        split: test or ood.
        system: its name; random vectors are named random-0 to random-4.
        args: `--model_args` of the run.
        n: questions.
        accuracy: the share of correct answers.
        gain: the mean difference from the baseline, as a share; `PairedComparison` has this and the next five.
        low: the lower end of its 95% interval.
        high: the upper end.
        fixed: questions that only the system answers right.
        broken: questions that only the baseline answers right.
        p: the two-sided p-value of the gain.
        unparsed: the share of answers that could not be read; None if the run does not record it.
        spec_sha256: the hash of the spec; None without a spec.
    """

    task: str
    split: str
    system: str
    args: str
    n: int
    accuracy: float
    gain: float
    low: float
    high: float
    fixed: int
    broken: int
    p: float
    unparsed: float | None
    spec_sha256: str | None


@dataclass(frozen=True)
class SearchedCell:
    """A cell of a search: its gain on the select split, as a share."""

    layer: int
    alpha: float
    tokens: str
    gain: float


@dataclass(frozen=True)
class SearchSummary:
    """A search of one vector.

    Attributes:
        n: questions of the select split.
        baseline: the accuracy without steering.
        best: the cell that was chosen.
        cells: all cells of the concept's vector.
    """

    n: int
    baseline: float
    best: SearchedCell
    cells: tuple[SearchedCell, ...]


@dataclass(frozen=True)
class ColourCurve:
    """P(red) as a function of alpha.

    Attributes:
        n: the number of images.
        alphas: ascending.
        p_red: vector ▸ layer ▸ mean probability at each alpha.
    """

    n: int
    alphas: tuple[float, ...]
    p_red: dict[str, dict[int, list[float]]]

    @property
    def random_vectors(self) -> list[str]:
        """Names of the random vectors."""
        return [name for name in self.p_red if name.startswith("random")]


def collect_rows(folders: Folders) -> list[DemoRow]:
    """Compare each system with the baseline, task by task, on both splits.

    Raises:
        UserError: if an evaluation is missing.
    """
    if not folders.tasks:
        raise UserError(f"no runs of the recipe tiny in {str(folders.root)!r}: make them with lmms-steer run tiny")
    rows = []
    for task in folders.tasks:
        baseline = read_results(newest_evaluation(folders.run(task, "baseline")))
        for system in (name for name in SYSTEMS if folders.run(task, name).is_dir()):
            run = read_results(newest_evaluation(folders.run(task, system)))
            names = zip(SPLITS, task_names(task, "baseline"), task_names(task, system), strict=True)
            rows += [_row(task, split, system, baseline, base_name, run, name) for split, base_name, name in names]
    return rows


def write_rows(rows: Sequence[DemoRow], path: Path) -> None:
    """Write `results.json`."""
    write_atomically(path, json.dumps([vars(row) for row in rows], indent=1).encode())


def read_search(folder: Path) -> SearchSummary:
    """Read the study of one concept's vector."""
    result = SearchResult.read(folder)
    ((vector, found),) = result.vectors.items()
    rows = pq.read_table(folder / "cells.parquet").to_pylist()
    cells = (SearchedCell(**{key: row[key] for key in _CELL_KEYS}) for row in rows if row["vector"] == vector)
    best = SearchedCell(found.best.layer, found.best.alpha, found.best.tokens, found.best.gain)
    return SearchSummary(result.n, result.baseline, best, tuple(cells))


def write_curve(curve: ColourCurve, path: Path) -> None:
    """Write `colour_curve.json`."""
    write_atomically(path, json.dumps(vars(curve), indent=1).encode())


def read_curve(path: Path) -> ColourCurve:
    """Read `colour_curve.json`."""
    content = json.loads(path.read_text(encoding="utf-8"))
    p_red = {
        vector: {int(layer): values for layer, values in layers.items()} for vector, layers in content["p_red"].items()
    }
    return ColourCurve(content["n"], tuple(content["alphas"]), p_red)


def _row(
    task: str, split: str, system: str, baseline: RunResults, base_name: str, run: RunResults, name: str
) -> DemoRow:
    before, after = read_samples(baseline, base_name), read_samples(run, name)
    images = shared_images([{"before": before, "after": after}])
    result = compare_by_document(before.scores_by_document, after.scores_by_document, images)
    return DemoRow(
        task=task,
        split=split,
        system=system.removeprefix(f"{METHOD}-") if system in RANDOM else system,
        args=run.content["config"]["model_args"],
        **asdict(result),
        unparsed=run.content["results"][name].get("unparsed,none"),
        spec_sha256=run.steering.get("sha256"),
    )
