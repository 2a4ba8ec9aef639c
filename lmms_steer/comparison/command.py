"""`lmms-steer compare`: read runs, compare them with a baseline, and write tables and a page."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console, RenderableType

from lmms_steer.comparison import tables
from lmms_steer.comparison.leaderboard import build_leaderboard
from lmms_steer.comparison.row_notes import comparison_warnings
from lmms_steer.comparison.systems import read_comparison
from lmms_steer.errors import UserError, unknown_name

IMAGE_SOURCES = ("ours", "all", "none")
_PIPE_WIDTH = 200


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
    allow_different: Sequence[str] = (),
) -> Iterator[str | RenderableType]:
    """Compare runs with a baseline and write the files that were asked for.

    Args:
        runs: folders with a harness's output, or NAME=FOLDER.
        baseline: the name or folder of a run; default: the run named `baseline`, else the only unsteered one.
        studies: folders of `lmms-steer search`, for their heat maps and for warnings about what they chose on.
        html: the page to write.
        markdown: the Markdown table to write.
        latex: the LaTeX table to write.
        csv: the CSV file to write.
        parquet: the Parquet file to write.
        metric: the score to compare by; default: each task's own.
        samples: the largest number of questions of a task on the page.
        pictures: the images on the page: of our tasks if their data is on this machine (ours), of every task that
            loads (all), or none.
        include_path: a folder of the user's own tasks, which count as ours for images.
        allow_different: kinds of settings that may differ from the baseline (`settings.DECISIVE`); rows say what does.

    Yields:
        What to print: a table, a line for each system that is not compared, warnings, and the files.

    Raises:
        UserError: for an unknown option's value, runs that cannot be read or compared, or files that cannot be
            written.
    """
    if pictures not in IMAGE_SOURCES:
        raise unknown_name("--pictures", pictures, IMAGE_SOURCES)
    if include_path is not None and not include_path.is_dir():
        raise UserError(f"--include_path {include_path}: no such folder")
    comparison = read_comparison(runs, baseline, metric)
    systems = comparison.systems
    rows = build_leaderboard(systems, allow_different)
    yield tables.rich_table(rows)
    yield from tables.note_lines(rows)
    yield from (f"left out: {line}" for line in comparison.no_runs)
    warnings = comparison_warnings(comparison, rows, studies)
    yield from warnings
    if markdown:
        tables.write_text(tables.markdown(rows, warnings), markdown)
    if latex:
        tables.write_text(tables.latex(rows, warnings), latex)
    if csv:
        tables.write_csv(rows, csv)
    if parquet:
        tables.write_parquet(rows, parquet)
    if html:
        # with jinja2, PIL and scoring behind it, which the tables do not need
        from lmms_steer.comparison.page import write_page

        yield from write_page(html, systems, rows, studies, samples, pictures, warnings, include_path)
    written = [str(path) for path in (markdown, latex, csv, parquet, html) if path]
    if written:
        yield f"written: {', '.join(written)}"


def print_line(line: str | RenderableType) -> None:
    """Print a line, or a table over the whole width of the terminal; a pipe gets all columns."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    console.print(line, markup=False) if isinstance(line, str) else console.print(line)
