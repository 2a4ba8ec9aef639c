"""`lmms-steer compare`: read runs, compare them, write what was asked for."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console, RenderableType

from lmms_steer.comparison import tables
from lmms_steer.comparison.leaderboard import build_leaderboard
from lmms_steer.comparison.provenance import selection_warnings
from lmms_steer.comparison.studies import read_searches
from lmms_steer.comparison.systems import read_systems
from lmms_steer.errors import UserError, unknown_name

PICTURES = ("ours", "all", "none")


def run_comparison(
    runs: Sequence[str],
    baseline: str | None = None,
    studies: Sequence[Path] = (),
    html: Path | None = None,
    markdown: Path | None = None,
    latex: Path | None = None,
    csv: Path | None = None,
    parquet: Path | None = None,
    metric: str | None = None,
    samples: int = 120,
    pictures: str = "ours",
    include_path: Path | None = None,
) -> Iterator[str | RenderableType]:
    """Yields what is to be printed: a table, a line for each run that was not compared, warnings, each file.

    Args:
        runs: folders with a harness's output, or NAME=FOLDER.
        baseline: a run's name or folder; the one called so, or the only unsteered one, where unsaid.
        studies: folders of `lmms-steer search`, for their maps, and for what they chose on.
        html: the page to write; likewise the others.
        metric: what to compare by; each task's own where unsaid.
        samples: questions a task on the page, at most.
        pictures: on the page: of our tasks where their data is here (ours), of every task that loads (all), or none.
        include_path: the user's own folder of tasks, which count as ours for pictures.

    Raises:
        UserError: for whatever is wrong with the runs.
    """
    if pictures not in PICTURES:
        raise unknown_name("--pictures", pictures, PICTURES)
    if include_path is not None and not include_path.is_dir():
        raise UserError(f"--include_path {include_path}: no such folder")
    systems = read_systems(runs, baseline, metric)
    rows = build_leaderboard(systems)
    yield tables.rich_table(rows)
    yield from tables.refusal_lines(rows)
    flattered = selection_warnings(systems.values(), read_searches(studies))
    yield from flattered
    if markdown:
        tables.write_text(tables.markdown(rows, flattered), markdown)
    if latex:
        tables.write_text(tables.latex(rows, flattered), latex)
    if csv:
        tables.write_csv(rows, csv)
    if parquet:
        tables.write_parquet(rows, parquet)
    if html:
        from lmms_steer.comparison.page import write_page

        yield from write_page(html, systems, rows, studies, samples, pictures, flattered, include_path)
    written = [str(path) for path in (markdown, latex, csv, parquet, html) if path]
    if written:
        yield f"written: {', '.join(written)}"


def print_line(line: str | RenderableType) -> None:
    """Print a line, or a table over the whole width of the terminal (a pipe gets all columns)."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 200
    console.print(line, markup=False) if isinstance(line, str) else console.print(line)
