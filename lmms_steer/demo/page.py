"""`index.html`: the table, the curve, the maps and some scenes, in one file."""

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from lmms_steer.comparison.files import newest
from lmms_steer.comparison.pictures import data_uri
from lmms_steer.comparison.results import read_results
from lmms_steer.comparison.samples import read_samples
from lmms_steer.demo.charts import colour_curve, search_map
from lmms_steer.demo.plan import BACKBONE, CONCEPTS, MODEL, Folders
from lmms_steer.demo.rows import collect, searched
from lmms_steer.demo.table import gain, print_table, verdict
from lmms_steer.files import write_atomically
from lmms_steer.tiny_world.question_sets import load


def run(folder: Path) -> Iterator[str]:
    """`lmms-steer demo page`: print the table, write `results.json` and `index.html`."""
    folders = Folders(folder)
    rows = collect(folders)
    write_atomically(folders.results, json.dumps(rows, indent=1).encode())
    print_table(rows)
    write_page(folders, rows)
    yield f"page: {folders.page}   numbers: {folders.results}"


def write_page(folders: Folders, rows: list[dict[str, Any]]) -> None:
    """Everything on it comes from the files in the recipe's folder; texts are escaped."""
    searches = {task: searched(folders, task) for task in folders.tasks}
    curve = json.loads(folders.curve.read_text(encoding="utf-8"))
    alpha_1 = curve["alphas"].index(1.0)
    template = files("lmms_steer.demo").joinpath("page.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    html = environment.from_string(template).render(
        model=MODEL,
        backbone=BACKBONE,
        concepts={task: CONCEPTS[task] for task in folders.tasks},
        rows=rows,
        gain=gain,
        verdicts={(task, split): verdict(rows, task, split) for task in folders.tasks for split in ("test", "ood")},
        curve=curve,
        alpha_1=alpha_1,
        largest_random=max(p["0"][alpha_1] for name, p in curve["p_red"].items() if name.startswith("random")),
        # our own drawing, with no text from outside
        curve_svg=Markup(colour_curve(curve)),
        maps={task: Markup(search_map(task, found)) for task, found in searches.items()},
        searches=searches,
        scenes={task: _scenes(folders, task) for task in folders.tasks},
    )
    write_atomically(folders.page, html.encode())


def _scenes(folders: Folders, task: str, each: int = 3) -> list[dict[str, Any]]:
    """Questions that mean shift fixed, that it broke, and that it left as they were."""
    runs = (read_results(newest(folders.run(task, system))) for system in ("baseline", "mean_shift"))
    baseline, steered = (read_samples(results, f"tiny_{task}") for results in runs)
    after = {sample["doc_id"]: sample for sample in steered.said()}
    kinds: dict[str, list[dict[str, Any]]] = {"fixed": [], "broken": [], "unchanged": []}
    for sample in baseline.said():
        change = after[sample["doc_id"]]["score"] - sample["score"]
        kind = "fixed" if change > 0 else "broken" if change < 0 else "unchanged"
        if len(kinds[kind]) < each:
            kinds[kind].append(sample)
    rows = load(task, "test")
    scenes = []
    for kind, samples in kinds.items():
        for sample in samples:
            row, other = rows[sample["doc_id"]], after[sample["doc_id"]]
            scenes.append(
                {
                    "kind": kind,
                    "image": data_uri(row["image"]),
                    "question": row["question"],
                    "answer": row["choices"]["ABCDEF".index(row["answer"].strip("()"))],
                    "before": sample["filtered_resps"],
                    "after": other["filtered_resps"],
                }
            )
    return scenes
