"""`lmms-steer demo page`: the demo's table in a terminal, and one page with table, figures and some scenes."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from rich.console import Console
from rich.table import Table

from lmms_steer._util.formatting import format_p, format_points
from lmms_steer._util.io import write_atomically
from lmms_steer.comparison.page_images import data_uri
from lmms_steer.comparison.runs import newest_evaluation, read_results
from lmms_steer.comparison.samples import read_samples
from lmms_steer.demo.figures import draw_colour_curve, draw_search
from lmms_steer.demo.layout import BACKBONE, CONCEPTS, METHOD, MODEL, SPLITS, Folders
from lmms_steer.demo.results import DemoRow, collect_rows, read_curve, read_search, write_rows
from lmms_steer.scoring.choice import LETTERS
from lmms_steer.tiny_world.question_sets import load_question_set

_PIPE_WIDTH = 110
_SCENES_EACH = 3


@dataclass(frozen=True)
class Scene:
    """A question on the page.

    Attributes:
        kind: fixed, broken or unchanged.
        image: a data URI.
        question: the question.
        answer: the text of the correct choice.
        before: the baseline's answer.
        after: the steered model's.
    """

    kind: str
    image: str
    question: str
    answer: str
    before: str
    after: str


def run_page(folder: Path) -> Iterator[str]:
    """Run `lmms-steer demo page`: print the table, write `results.json` and `index.html`.

    Args:
        folder: of the recipe.

    Yields:
        A line with the files.
    """
    folders = Folders(folder)
    rows = collect_rows(folders)
    write_rows(rows, folders.results)
    print_table(rows)
    write_page(folders, rows)
    yield f"page: {folders.page}   numbers: {folders.results}"


def print_table(rows: list[DemoRow]) -> None:
    """Print accuracy, gain with its 95% interval and p on both splits, then a verdict for each task and split."""
    table = Table(
        title=f"tiny-paligemma2 on tiny_world, {rows[0].n} questions a cell; gains in points over the baseline"
    )
    for name in ("task", "system", "test", "gain [95%]", "p", "ood", "gain [95%]", "p"):
        table.add_column(name, justify="left" if name in ("task", "system") else "right", no_wrap=True)
    ood = {(row.task, row.system): row for row in rows if row.split == "ood"}
    previous = ""
    for row in (row for row in rows if row.split == "test"):
        if previous and row.task != previous:
            table.add_section()
        task = row.task if row.task != previous else ""
        previous = row.task
        table.add_row(task, row.system, *_cells(row), *_cells(ood[row.task, row.system]))
    console = Console(width=None if Console().is_terminal else _PIPE_WIDTH)
    console.print(table)
    for task in dict.fromkeys(row.task for row in rows):
        for split in SPLITS:
            console.print(f"{task}, {split}: {verdict(rows, task, split)}", highlight=False)
    console.print("Intervals and p are not corrected for the number of comparisons.")
    console.print("The tiny model shows the method; it is no evidence about real models.")


def verdict(rows: list[DemoRow], task: str, split: str) -> str:
    """Say in one sentence whether the concept's vector is better than the baseline, and than the random vectors."""
    systems = {row.system: row for row in rows if row.task == task and row.split == split}
    steered = systems[METHOD]
    random_gains = [row.gain for name, row in systems.items() if name.startswith("random")]
    if steered.gain > 0 and steered.low > 0 and steered.gain > max(random_gains, default=0.0):
        return "mean shift gains (uncorrected), and more than each of the random vectors"
    if steered.gain > 0 and steered.low > 0:
        return "mean shift gains, but not more than the best random vector: no evidence for the concept"
    if steered.high < 0:
        return "mean shift loses (its interval, uncorrected, is below 0)"
    return "no difference that this many questions can show: a null result"


def format_row_gain(row: DemoRow) -> str:
    """`+1.2 [-0.4, +2.8]`, in points."""
    gain, low, high = (format_points(100 * value) for value in (row.gain, row.low, row.high))
    return f"{gain} [{low}, {high}]"


def write_page(folders: Folders, rows: list[DemoRow]) -> None:
    """Write the page from the files in the recipe's folder; texts are escaped."""
    searches = {task: read_search(folders.search(task)) for task in folders.tasks}
    curve = read_curve(folders.curve)
    alpha_1 = curve.alphas.index(1.0)
    template = files("lmms_steer.demo").joinpath("page.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    html = environment.from_string(template).render(
        model=MODEL,
        backbone=BACKBONE,
        concepts={task: CONCEPTS[task] for task in folders.tasks},
        rows=rows,
        gain=format_row_gain,
        format_p=format_p,
        verdicts={(task, split): verdict(rows, task, split) for task in folders.tasks for split in SPLITS},
        curve=curve,
        alpha_1=alpha_1,
        largest_random=max(curve.p_red[name][0][alpha_1] for name in curve.random_vectors),
        # our own drawings, with nothing from a run's texts in them
        curve_svg=Markup(draw_colour_curve(curve)),
        maps={task: Markup(draw_search(task, search)) for task, search in searches.items()},
        searches=searches,
        scenes={task: _scenes(folders, task) for task in folders.tasks},
    )
    write_atomically(folders.page, html.encode())


def _cells(row: DemoRow) -> tuple[str, str, str]:
    compared = row.system != "baseline"
    return f"{row.accuracy:.3f}", format_row_gain(row) if compared else "", format_p(row.p) if compared else ""


def _scenes(folders: Folders, task: str) -> list[Scene]:
    """Choose questions that mean shift fixed, broke, and left unchanged: the first of each kind."""
    results = (read_results(newest_evaluation(folders.run(task, system))) for system in ("baseline", METHOD))
    baseline, steered = (read_samples(run, f"tiny_{task}") for run in results)
    after = {sample["doc_id"]: sample for sample in steered.read_logged()}
    kinds: dict[str, list[dict[str, Any]]] = {"fixed": [], "broken": [], "unchanged": []}
    for sample in baseline.read_logged():
        change = after[sample["doc_id"]]["score"] - sample["score"]
        kind = "fixed" if change > 0 else "broken" if change < 0 else "unchanged"
        if len(kinds[kind]) < _SCENES_EACH:
            kinds[kind].append(sample)
    rows = load_question_set(task, "test")
    scenes = []
    for kind, samples in kinds.items():
        for sample in samples:
            row = rows[sample["doc_id"]]
            scenes.append(
                Scene(
                    kind=kind,
                    image=data_uri(row["image"]),
                    question=row["question"],
                    answer=row["choices"][LETTERS.index(row["answer"].strip("()"))],
                    before=sample["filtered_resps"],
                    after=after[sample["doc_id"]]["filtered_resps"],
                )
            )
    return scenes
