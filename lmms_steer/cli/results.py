"""`lmms-steer compare` and `lmms-steer plot`: compare evaluations and draw the results."""

from pathlib import Path
from typing import Annotated

import typer

from lmms_steer.cli.output import echo_lines

commands = typer.Typer(rich_markup_mode=None)

_AllowDifferent = Annotated[
    str,
    typer.Option(
        "--allow-different",
        help="What may differ between a run and the baseline, separated by commas: prompts, decoding, seeds,"
        " image_settings, model. The result says what does.",
    ),
]


def _kinds(allow_different: str) -> list[str]:
    return [kind.strip() for kind in allow_different.split(",") if kind.strip()]


@commands.command()
def compare(
    runs: Annotated[list[str], typer.Argument(help="Output folders of lmms-eval or lm-eval, or NAME=FOLDER.")],
    baseline: Annotated[str | None, typer.Option(help="The run to compare with, by name or folder.")] = None,
    studies: Annotated[
        list[Path] | None,
        typer.Option("--study", "--studies", help="Folder of a search, to show its maps. Repeatable."),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a self-contained HTML page.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write a Markdown table.")] = None,
    latex: Annotated[Path | None, typer.Option(help="Write a LaTeX table.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write all numbers, with commands and hashes, as CSV.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Write the same numbers, with types, as Parquet.")] = None,
    metric: Annotated[str | None, typer.Option(help="Metric to compare by. Default: each task's own.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Maximum number of questions per task on the page.")] = 120,
    pictures: Annotated[
        str,
        typer.Option(
            help="Images on the page: ours (of our tasks and --include_path), all (may download) or none (quickest)."
        ),
    ] = "ours",
    include_path: Annotated[
        Path | None,
        typer.Option("--include_path", "--include-path", help="Folder of your own tasks, for their images."),
    ] = None,
    allow_different: _AllowDifferent = "",
) -> None:
    """Compare runs with a baseline, question by question: gains with intervals, p-values, fixed and broken answers."""
    from lmms_steer.comparison.command import print_line, run_comparison

    lines = run_comparison(
        runs,
        baseline,
        studies or [],
        html=html,
        markdown=markdown,
        latex=latex,
        csv=csv,
        parquet=parquet,
        metric=metric,
        samples=samples,
        pictures=pictures,
        include_path=include_path,
        allow_different=_kinds(allow_different),
    )
    for line in lines:
        print_line(line)


@commands.command()
def plot(
    output: Annotated[Path, typer.Option("--output", "--out", help="File to write the figure to (.png, .svg, .pdf).")],
    runs: Annotated[list[str] | None, typer.Argument(help="Output folders of runs, or NAME=FOLDER.")] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help="gains (with intervals), table (the same as numbers, systems by tasks), ranks (gains among those of"
            " random vectors at the same place) or maps (of searches). Default: gains if there are runs, maps if there"
            " are only searches (--study)."
        ),
    ] = None,
    baseline: Annotated[str | None, typer.Option(help="The run to compare with, by name or folder.")] = None,
    studies: Annotated[
        list[Path] | None,
        typer.Option(
            "--study", "--studies", help="Folder of a search, for maps and for the task that it chose on. Repeatable."
        ),
    ] = None,
    metric: Annotated[str | None, typer.Option(help="Metric to compare by. Default: each task's own.")] = None,
    allow_different: _AllowDifferent = "",
) -> None:
    """Draw gains and searches as figures for papers."""
    from lmms_steer.comparison.command import draw_comparison as draw

    echo_lines(draw(runs or [], output, kind, baseline, studies or [], metric, _kinds(allow_different)))
