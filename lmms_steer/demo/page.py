"""The demo's table in a terminal.

`index.html`: the table, the curve, the maps and some scenes, in one file.
"""

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from rich.console import Console
from rich.table import Table

from lmms_steer._util import formatting as words
from lmms_steer._util.io import write_atomically
from lmms_steer.comparison.page_questions import data_uri
from lmms_steer.comparison.runs import newest_evaluation, read_results
from lmms_steer.comparison.samples import read_samples
from lmms_steer.demo.figures import colour_curve, search_map
from lmms_steer.demo.layout import BACKBONE, CONCEPTS, MODEL, Folders, collect_rows, search_summary
from lmms_steer.tiny_world.question_sets import load_question_set


def format_row_gain(row: dict[str, Any]) -> str:
    """`+1.2 [-0.4, +2.8]` in points."""
    told, low, high = (words.format_points(100 * row[key]) for key in ("gain", "low", "high"))
    return f"{told} [{low}, {high}]"


def verdict(rows: list[dict[str, Any]], task: str, split: str) -> str:
    """One plain sentence: is the concept's vector better than the baseline, and than the random ones?"""
    mine = {row["system"]: row for row in rows if row["task"] == task and row["split"] == split}
    shift = mine["mean_shift"]
    randoms = [row["gain"] for name, row in mine.items() if name.startswith("random")]
    if shift["gain"] > 0 and shift["low"] > 0 and shift["gain"] > max(randoms, default=0.0):
        return "mean shift gains (uncorrected), and more than each of the random vectors"
    if shift["gain"] > 0 and shift["low"] > 0:
        return "mean shift gains, but not more than the best random vector: no evidence for the concept"
    if shift["high"] < 0:
        return "mean shift loses (its interval, uncorrected, is below 0)"
    return "no difference that this many questions can show: a null result"


def print_table(rows: list[dict[str, Any]]) -> None:
    """Accuracy, paired gain with its 95% interval, and McNemar's p, on test and out of distribution."""
    table = Table(
        title=f"tiny-paligemma2 on tiny_world, {rows[0]['n']} questions a cell; gains in points against the baseline"
    )
    for name in ("task", "system", "test", "gain [95%]", "p", "ood", "gain [95%]", "p"):
        table.add_column(name, justify="left" if name in ("task", "system") else "right", no_wrap=True)
    shown = ""
    for row in (r for r in rows if r["split"] == "test"):
        ood = next(r for r in rows if (r["task"], r["system"], r["split"]) == (row["task"], row["system"], "ood"))
        if shown and row["task"] != shown:
            table.add_section()
        first = row["task"] if row["task"] != shown else ""
        shown = row["task"]
        cells = []
        for part in (row, ood):
            compared = row["system"] != "baseline"
            cells += [
                f"{part['accuracy']:.3f}",
                format_row_gain(part) if compared else "",
                f"{part['p']:.3f}" if compared else "",
            ]
        table.add_row(first, row["system"], *cells)
    console = Console(width=None if Console().is_terminal else 110)
    console.print(table)
    for task in dict.fromkeys(row["task"] for row in rows):
        for split in ("test", "ood"):
            console.print(f"{task}, {split}: {verdict(rows, task, split)}", highlight=False)
    console.print("Intervals and p are not corrected for the number of comparisons.")
    console.print("The tiny model shows the method; it is no evidence about real models.")


def run_page(folder: Path) -> Iterator[str]:
    """`lmms-steer demo page`: print the table, write `results.json` and `index.html`."""
    folders = Folders(folder)
    rows = collect_rows(folders)
    write_atomically(folders.results, json.dumps(rows, indent=1).encode())
    print_table(rows)
    write_page(folders, rows)
    yield f"page: {folders.page}   numbers: {folders.results}"


def write_page(folders: Folders, rows: list[dict[str, Any]]) -> None:
    """Everything on it comes from the files in the recipe's folder; texts are escaped."""
    searches = {task: search_summary(folders, task) for task in folders.tasks}
    curve = json.loads(folders.curve.read_text(encoding="utf-8"))
    alpha_1 = curve["alphas"].index(1.0)
    template = files("lmms_steer.demo").joinpath("page.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    html = environment.from_string(template).render(
        model=MODEL,
        backbone=BACKBONE,
        concepts={task: CONCEPTS[task] for task in folders.tasks},
        rows=rows,
        gain=format_row_gain,
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
    runs = (read_results(newest_evaluation(folders.run(task, system))) for system in ("baseline", "mean_shift"))
    baseline, steered = (read_samples(results, f"tiny_{task}") for results in runs)
    after = {sample["doc_id"]: sample for sample in steered.said()}
    kinds: dict[str, list[dict[str, Any]]] = {"fixed": [], "broken": [], "unchanged": []}
    for sample in baseline.said():
        change = after[sample["doc_id"]]["score"] - sample["score"]
        kind = "fixed" if change > 0 else "broken" if change < 0 else "unchanged"
        if len(kinds[kind]) < each:
            kinds[kind].append(sample)
    rows = load_question_set(task, "test")
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
