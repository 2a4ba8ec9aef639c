"""`lmms-steer compare` and `plot`: compare runs with a baseline; write tables, a page, and figures."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console, RenderableType

from lmms_steer.comparison import tables
from lmms_steer.comparison.api import check_page_options, compare
from lmms_steer.comparison.figures import GAINS, KINDS, gains_figure, maps_figure
from lmms_steer.errors import UserError, unknown_name
from lmms_steer.plots.style import check_figure_suffix, figure_style, save_figure

_PIPE_WIDTH = 1000


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
    check_page_options(pictures, include_path)
    board = compare(runs, baseline, studies, metric, allow_different)
    yield tables.TerminalTable(board.rows)
    yield from board.lines()
    yield from board.write(
        html=html,
        markdown=markdown,
        latex=latex,
        csv=csv,
        parquet=parquet,
        samples=samples,
        pictures=pictures,
        include_path=include_path,
    )
    written = [str(path) for path in (markdown, latex, csv, parquet, html) if path]
    if written:
        yield f"written: {', '.join(written)}"


@figure_style()
def draw_comparison(
    runs: Sequence[str],
    out: Path,
    kind: str | None = None,
    baseline: str | None = None,
    studies: Sequence[Path] = (),
    metric: str | None = None,
    allow_different: Sequence[str] = (),
) -> list[str]:
    """Draw one figure of runs or of searches into a file.

    Args:
        runs: folders, as for a comparison.
        out: the file to write: .png, .svg or .pdf.
        kind: gains, table, ranks or maps; default: gains if runs are given, else maps.
        baseline: as for a comparison.
        studies: folders of searches.
        metric: as for a comparison.
        allow_different: as for a comparison.

    Returns:
        The lines to print: systems that are not compared and warnings, as a comparison prints them, then the file.

    Raises:
        UserError: for an unknown kind, or what cannot be read, compared or written.
    """
    if kind is None and runs and studies:
        of_runs = f"{', '.join(GAINS[:-1])} or {GAINS[-1]}"
        raise UserError(f"runs and --study need different figures: give --kind {of_runs} for the runs, or maps")
    kind = kind or ("gains" if runs else "maps")
    if kind not in KINDS:
        raise unknown_name("kind of plot", kind, KINDS)
    if kind == "maps" and not studies:
        raise UserError("maps show searches: give --study DIR, or folders of runs to draw their gains")
    check_figure_suffix(out)
    if kind == "maps":
        return [str(save_figure(maps_figure(studies), out))]
    board = compare(runs, baseline, studies, metric, allow_different)
    return [*board.lines(), str(save_figure(gains_figure(board.rows, kind), out))]


def print_line(line: str | RenderableType) -> None:
    """Print a line, or a table over the whole width of the terminal; a pipe gets all columns."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    console.print(line, markup=False) if isinstance(line, str) else console.print(line)
