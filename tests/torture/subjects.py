"""The commands that are tortured: how each is run, what it reports as done, and what it must end with."""

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from lmms_steer import UserError
from lmms_steer.comparison.runs import evaluations_in, read_results
from lmms_steer.comparison.samples import read_samples
from lmms_steer.recipes.cells import content_digest
from tests.torture.questions import SELECT, TEST

TASKS = "../tasks"
"""The folder of our tasks, from the folder that every command runs in."""
OUT = "out"
"""The folder that every command writes to."""
Done = Mapping[str, object]
"""What was reported as done ▸ the identity of its file, which changes when it is made again."""

RECIPE = f"""\
about: torture
include_path: {TASKS}
models:
  tiny: {{model: steered_paligemma, pretrained: tiny-paligemma2, layers: "1-3:2", batch_size: 8, search_batch_size: 8}}
methods:
  mean_shift: {{alphas: "0.5,1.5", controls: 1}}
search: {{tokens: image}}
studies:
  counting: {{concepts: counting, select: {SELECT}, test: {TEST}}}
systems: [baseline, steered]
"""


@dataclass(frozen=True)
class Subject:
    """A command.

    Attributes:
        name: its name in the table.
        words: its command line.
        done: the folder that it writes to, and what it printed ▸ what it has reported as done.
        results: that folder ▸ what must equal an uninterrupted run's.
        cuttable: patterns of the files that are cut.
        mentioned: patterns of those that the next run reads, and must say something about.
        mentions_done: whether the next run says something about work that was done.
        found_when_run_again: whether a run that has ended is found by the next one, which keeps its work.
        touches: something that was done, and a cut file ▸ whether it must be made again.
        found: what it says about finished, incomplete or damaged work that it finds.
    """

    name: str
    words: tuple[str, ...]
    done: Callable[[Path, str], Done]
    results: Callable[[Path], Mapping[str, object]]
    cuttable: tuple[str, ...]
    mentioned: tuple[str, ...] = ()
    mentions_done: bool = True
    found_when_run_again: bool = True
    touches: Callable[[str, str], bool] = lambda name, path: False
    found: str = r"resumed|put aside|damaged|cut off|made again|run again"

    def must_mention(self, damaged: Sequence[str]) -> bool:
        """Whether the next run must say something about the files that were cut."""
        return any(PurePath(path).match(pattern) for path in damaged for pattern in self.mentioned)

    def touched(self, name: str, damaged: Sequence[str]) -> bool:
        """Whether something that was done has been damaged by a cut file."""
        return any(name == path or self.touches(name, path) for path in damaged)


@dataclass(frozen=True)
class Reference:
    """An uninterrupted run.

    Attributes:
        work: its CPU seconds.
        bytes, files: how much it wrote.
        results: what every other run must end with.
    """

    work: float
    bytes: int
    files: int
    results: Mapping[str, object]


def _identity(path: Path) -> object:
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _files(out: Path, *patterns: str) -> dict[str, object]:
    paths = [path for pattern in patterns for path in out.glob(pattern)]
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


def _stored_vectors(out: Path, printed: str) -> Done:
    named = (Path(line).relative_to(OUT) for line in re.findall(rf" -> ({OUT}/\S+)$", printed, re.MULTILINE))
    recorded = {f"{name}.safetensors" for path in out.glob(".extracting-*.json") for name in _json(path)}
    return {name: _identity(out / name) if (out / name).exists() else None for name in {*map(str, named), *recorded}}


def _measured_batches(out: Path, printed: str) -> Done:
    done: dict[str, object] = {str(path.relative_to(out)): _identity(path) for path in out.glob("batches/*.parquet")}
    if "-> out/choice.yaml" in printed:
        # every run writes it anew from the batches
        done |= {"result.json": None} | _files(out, "result.json")
    return done


def _finished_cells(out: Path, printed: str) -> Done:
    marks = {str(path.relative_to(out / "cells").with_suffix("")): path for path in out.glob("cells/**/*.json")}
    named = set(re.findall(r"^\[\d+/\d+\] (\S+): (?:done|kept)", printed, re.MULTILINE))
    finished = {name for name, path in marks.items() if _json(path).get("state") == "done"}
    return {name: _identity(marks[name]) if name in finished else None for name in named | finished}


def _json(path: Path) -> dict[str, Any]:
    with suppress(ValueError):
        return dict(json.loads(path.read_text()))
    return {}


def _tables(out: Path) -> Mapping[str, object]:
    tables: dict[str, object] = _files(out, "vectors/**/*.safetensors", "search/**/result.json", "search/**/*.parquet")
    tables |= _files(out, "search/**/*.yaml")
    for path in out.glob("boards/**/*.csv"):
        rows = list(csv.DictReader(io.StringIO(path.read_text())))
        # the duration of an evaluation, and the hash of its results file, which holds dates
        tables[str(path.relative_to(out))] = [{**row, "seconds": "", "results_sha256": ""} for row in rows]
    for path in out.glob("boards/**/*.html"):
        tables[str(path.relative_to(out))] = path.read_text().rstrip()[-7:]
    return tables


def whole_evaluations(out: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The results file of every evaluation that our readers take for whole ▸ its scores and samples."""
    whole = []
    for folder in {path.parent for path in out.rglob("*_results.json")}:
        with suppress(UserError):
            for evaluation in evaluations_in(folder):
                with suppress(UserError):
                    whole.append((evaluation.results, _scores(evaluation)))
    return whole


def _scores(evaluation: Any) -> dict[str, Any]:
    results = read_results(evaluation)
    samples = read_samples(results, TEST)
    return {"results": results.content["results"], "samples": list(samples.read_logged())}


def _evaluations(out: Path, printed: str) -> Done:
    done = {str(path.relative_to(out)): content_digest([str(path)]) for path, _ in whole_evaluations(out)}
    if re.search(rf"^\|{TEST}", printed, re.MULTILINE) and not done:
        done["the table was printed"] = "and there is no whole evaluation"
    return done


def _newest_scores(out: Path) -> Mapping[str, object]:
    whole = whole_evaluations(out)
    return max(whole, key=lambda pair: pair[0].stat().st_mtime_ns)[1] if whole else {}


_MODEL = ("--model", "steered_paligemma", "--model_args")
_TASK = ("--include_path", TASKS)

SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject(
            "extract",
            (
                *("lmms-steer", "extract", "--backbone", "tiny-gemma2", "--concept", "counting,spatial,attribute"),
                *("--method", "mean_shift,pca,random", "--store", OUT),
            ),
            _stored_vectors,
            lambda out: _files(out, "*/*/*.safetensors", "index.yaml"),
            ("*/*/*.safetensors", "index.yaml", ".*.json"),
            mentioned=("*.safetensors",),
            found_when_run_again=False,
            touches=lambda name, path: path.endswith(".json"),
        ),
        Subject(
            "search",
            (
                *("lmms-steer", "search", *_MODEL, "pretrained=tiny-paligemma2", *_TASK, "--task", SELECT),
                *("--vector", "counting", "--layers", "1-3:2", "--alphas", "0.5,1.5", "--controls", "1"),
                *("--score", "letters", "--batch_size", "4", "--strategy", "grid", "--output", OUT),
            ),
            _measured_batches,
            lambda out: _files(out, "result.json", "cells.parquet", "*.yaml", "batches/*.parquet"),
            ("batches/*.parquet", "*.json", "hooked.txt", "*.yaml", "cells.parquet", "study.log"),
            mentioned=("batches/*.parquet", "plan.json"),
            touches=lambda name, path: name == "result.json",
        ),
        Subject(
            "evaluate",
            (
                *("lmms-eval", *_MODEL, "pretrained=tiny-paligemma2,vector=counting,layer=2,alpha=1,tokens=image"),
                *(*_TASK, "--tasks", TEST, "--batch_size", "8", "--output_path", OUT, "--log_samples"),
            ),
            _evaluations,
            _newest_scores,
            ("*/*",),
            mentioned=("*.jsonl", "*.json"),
            mentions_done=False,
            found_when_run_again=False,
            touches=lambda name, path: True,
        ),
        Subject(
            "run",
            ("lmms-steer", "run", "../recipe.yaml", "--output", OUT, "--workers", "1"),
            _finished_cells,
            _tables,
            ("vectors/**/*", "search/**/*", "runs/**/*", "cells/**/*.json", ".run/*", "boards/**/*"),
            mentioned=("vectors/**/*", "search/**/*", "runs/**/*", "cells/**/*.json", "boards/**/*"),
            # a cell whose input or mark was cut runs again, and so may those that need it
            touches=lambda name, path: not path.startswith(".run/"),
        ),
    )
}
