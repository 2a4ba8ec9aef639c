"""`lmms-steer compare` and `lmms-steer plot`: what runs are worth."""

from pathlib import Path
from typing import Annotated

import typer

commands = typer.Typer(rich_markup_mode=None)


@commands.command()
def compare(
    runs: Annotated[list[str], typer.Argument(help="Folders that lmms-eval or lm-eval wrote, or NAME=FOLDER.")],
    baseline: Annotated[str | None, typer.Option(help="The run to compare with: its name or folder.")] = None,
    studies: Annotated[list[Path] | None, typer.Option(help="A search's folder, for its maps; again for more.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write one page that needs no network.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write a table in Markdown.")] = None,
    latex: Annotated[Path | None, typer.Option(help="Write a table in LaTeX.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write all numbers, with commands and hashes.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="The same with types.")] = None,
    metric: Annotated[str | None, typer.Option(help="What to compare by; each task's own where unsaid.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Questions a task on the page, at most.")] = 120,
    pictures: Annotated[
        str, typer.Option(help="On the page: ours (our tasks' and --include_path's), all (may download) or none.")
    ] = "ours",
    include_path: Annotated[
        Path | None,
        typer.Option("--include_path", "--include-path", help="A folder of your own tasks, for their pictures."),
    ] = None,
) -> None:
    """Runs against a baseline, question by question: gains with intervals, p-values, what was fixed and broken."""
    from lmms_steer.comparison.command import print_line, run_comparison

    shown = (samples, pictures, include_path)
    for line in run_comparison(runs, baseline, studies or [], html, markdown, latex, csv, parquet, metric, *shown):
        print_line(line)


@commands.command()
def plot(
    out: Annotated[Path, typer.Option(help="The file to draw into (.png, .svg, .pdf).")],
    runs: Annotated[list[str] | None, typer.Argument(help="Folders of runs, or NAME=FOLDER.")] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help="gains (with intervals), table (the same as numbers, systems by tasks) or maps (of searches);"
            " where unsaid, gains of runs and maps of --studies."
        ),
    ] = None,
    baseline: Annotated[str | None, typer.Option(help="The run to compare with: its name or folder.")] = None,
    studies: Annotated[
        list[Path] | None, typer.Option(help="A search's folder, for maps, and for what it chose on; again for more.")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="What to compare by; each task's own where unsaid.")] = None,
) -> None:
    """Gains and searches as figures for papers."""
    from lmms_steer.comparison.figures import draw_comparison as draw

    for line in draw(runs or [], out, kind, baseline, studies or [], metric):
        typer.echo(line)
