"""`lmms-steer run` and `lmms-steer demo`: experiments as files."""

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

commands = typer.Typer(rich_markup_mode=None)


@commands.command("run")
def run_recipe(
    recipe: Annotated[str, typer.Argument(help="A recipe's file, or one that ships: tiny, paper_cvbench, paper_ood.")],
    output: Annotated[Path | None, typer.Option(help="Its folder; runs/NAME where neither it nor you say one.")] = None,
    over: Annotated[
        list[str] | None, typer.Option("--with", help="A file to lay over it, or stand_in; again for more.")
    ] = None,
    assignment: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE, as in models.NAME.pretrained=PATH; again for more.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print every command, and run none.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes, or SLURM jobs, that share the cells.")] = 1,
    cluster: Annotated[str, typer.Option(help="local or slurm, through submitit.")] = "local",
    slurm: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE for sbatch, gpus_per_node=1, timeout_min=600; again for more.")
    ] = None,
) -> None:
    """An experiment from a file: extract, search, evaluate, compare. What is done is kept; a killed run goes on."""
    from lmms_steer.recipes.command import run_recipe as run

    # closed by an interrupt between two lines too: what it started ends with it
    with closing(run(recipe, output, over or (), assignment or (), dry_run, workers, cluster, slurm or ())) as lines:
        for line in lines:
            typer.echo(line)


demo_app = typer.Typer(
    help="The recipe `tiny`: extract, choose, evaluate, compare on the tiny model that ships; a table and a page.",
    invoke_without_command=True,
    rich_markup_mode=None,
)
commands.add_typer(demo_app, name="demo")


@demo_app.callback()
def demo(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for the runs, the table and the page.")] = Path("demo"),
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the work.")] = 1,
) -> None:
    """The whole line on the tiny model that ships: `lmms-steer run tiny`."""
    context.obj = out
    if context.invoked_subcommand is None:
        run_recipe("tiny", output=out, workers=workers)


@demo_app.command("curve")
def demo_curve(
    context: typer.Context,
    folder: Annotated[Path | None, typer.Argument(help="Of the recipe `tiny`; --out's where unsaid.")] = None,
) -> None:
    """P(red) of yellow and orange things against alpha: the vector of a word changes what is seen."""
    from lmms_steer.demo.colour_curve import run_curve as run

    for line in run(folder or context.obj):
        typer.echo(line)


@demo_app.command("page")
def demo_page(
    context: typer.Context,
    folder: Annotated[Path | None, typer.Argument(help="Of the recipe `tiny`; --out's where unsaid.")] = None,
) -> None:
    """The table and the page of the recipe `tiny`, from what its cells left."""
    from lmms_steer.demo.page import run_page as run

    for line in run(folder or context.obj):
        typer.echo(line)
