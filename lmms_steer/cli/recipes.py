"""`lmms-steer run` and `lmms-steer demo`: experiments as files."""

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from lmms_steer._util.extras import require_extra
from lmms_steer.cli.command_list import CommandList
from lmms_steer.cli.output import echo_lines
from lmms_steer.cli.registry_help import RegistryHelpCommand

commands = typer.Typer(rich_markup_mode=None)


@commands.command("run", cls=RegistryHelpCommand)
def run_recipe(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or a recipe that ships. {recipes}.")],
    output: Annotated[
        Path | None, typer.Option(help="Folder for the results. Default: the recipe's own, else runs/NAME.")
    ] = None,
    overlays: Annotated[
        list[str] | None,
        typer.Option("--with", help="A file to lay over the recipe, or one that ships: {overlays}. Repeatable."),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Set a key: KEY=VALUE, as in models.NAME.pretrained=PATH. Repeatable."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print every command and run none.")] = False,
    workers: Annotated[
        int, typer.Option(min=1, help="Number of processes, SLURM jobs or Ray tasks that share the cells.")
    ] = 1,
    cluster: Annotated[str, typer.Option(help="local (this machine), slurm or ray.")] = "local",
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            help="Setting of the SLURM jobs: KEY=VALUE for sbatch, gpus_per_node=1, timeout_min=600. Repeatable."
        ),
    ] = None,
    ray: Annotated[
        list[str] | None,
        typer.Option(help="What a cell needs of a Ray cluster's machine: num_gpus=1, num_cpus=4. Repeatable."),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(help="With --dry-run: estimate GPU-hours, memory and downloads for this card (h100, a100, 4090)."),
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="With --dry-run: measure this machine's device, and estimate for it.")
    ] = False,
) -> None:
    """Run an experiment from a file: extract, search, evaluate, compare. Interrupted runs resume."""
    require_extra("recipes", "a recipe")
    from lmms_steer.recipes.command import run_recipe as run

    # an interrupt between two lines must close the generator too: that ends the processes that it started
    given = (recipe, output, overlays or (), assignments or (), dry_run, workers, cluster, slurm or (), gpu, calibrate)
    with closing(run(*given, ray or ())) as lines:
        echo_lines(lines)


@commands.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a recipe, as `run` wrote it.")],
    metric: Annotated[str | None, typer.Option(help="Metric to compare by. Default: each task's own.")] = None,
) -> None:
    """Write a recipe's results as the paper's tables, models x methods x token targets, next to the published gains."""
    require_extra("recipes", "a recipe's report")
    from lmms_steer.recipes.report import run_report as run

    echo_lines(run(folder, metric))


demo_app = typer.Typer(
    cls=CommandList,
    help="Run the recipe `tiny` on the tiny model that ships; its result is a table and a page.",
    invoke_without_command=True,
    rich_markup_mode=None,
)
commands.add_typer(demo_app, name="demo")


@demo_app.callback()
def demo(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", "--out", help="Folder for the results.")] = Path("demo"),
    workers: Annotated[int, typer.Option(min=1, help="Number of processes that share the work.")] = 1,
) -> None:
    """Run the recipe `tiny` on the tiny model that ships."""
    context.obj = output
    if context.invoked_subcommand is None:
        run_recipe("tiny", output=output, workers=workers)


@demo_app.command("curve")
def demo_curve(
    context: typer.Context,
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of the recipe `tiny`. Default: that of --output.")
    ] = None,
) -> None:
    """Measure P(red) of yellow and orange things against alpha: the vector of a word changes what the model sees."""
    from lmms_steer.demo.colour_curve import run_curve as run

    echo_lines(run(folder or context.obj))


@demo_app.command("page")
def demo_page(
    context: typer.Context,
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of the recipe `tiny`. Default: that of --output.")
    ] = None,
) -> None:
    """Write the table and the page of the recipe `tiny` from the output of its cells."""
    from lmms_steer.demo.page import run_page as run

    echo_lines(run(folder or context.obj))
