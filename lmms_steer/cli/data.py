"""`lmms-steer data`: import and check local copies of the benchmarks, and generate stand-ins."""

from pathlib import Path
from typing import Annotated

import typer

from lmms_steer.cli.command_list import CommandList
from lmms_steer.cli.output import echo, echo_lines
from lmms_steer.cli.registry_help import RegistryHelpCommand
from lmms_steer.errors import UserError

commands = typer.Typer(
    cls=CommandList, help="Local copies of the benchmarks.", no_args_is_help=True, rich_markup_mode=None
)


@commands.command("import", cls=RegistryHelpCommand)
def import_data(
    benchmark: Annotated[str, typer.Argument(help="One of: {benchmarks}.")],
    release: Annotated[Path, typer.Option("--from", help="Folder of the official release.")],
    to: Annotated[Path | None, typer.Option(help="Folder of the local copies (default: $LMMS_STEER_DATA).")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Import only the first N questions of each split.")] = None,
) -> None:
    """Make a local copy of an official release, for the tasks to read. A killed import continues when run again."""
    from lmms_steer.data.importing import import_release

    echo_lines(import_release(benchmark, release, _data_dir(to), limit))


@commands.command("check")
def check_data(
    to: Annotated[Path | None, typer.Option(help="Folder of the local copies (default: $LMMS_STEER_DATA).")] = None,
) -> None:
    """List the local copies and check that they are intact; exit status 1 if one is damaged."""
    from lmms_steer.data.local_copy import check_copies

    copies = list(check_copies(_data_dir(to)))
    for intact, line in copies:
        echo(f"{'' if intact else 'DAMAGED  '}{line}")
    if not all(intact for intact, _ in copies):
        raise typer.Exit(1)


@commands.command("generate")
def generate_data(
    out: Annotated[Path, typer.Argument(help="Folder to write the stand-ins to.")],
    questions: Annotated[int, typer.Option(min=1, help="Number of questions of each task.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random choices.")] = 0,
) -> None:
    """Write small stand-ins for all releases, in the official formats, to try import and tasks without a download."""
    from lmms_steer.data.stand_ins import write_stand_ins

    for name, folder in write_stand_ins(out, questions, seed).items():
        echo(f"lmms-steer data import {name} --from {folder}")


@commands.command("questions")
def write_questions(
    task: Annotated[str, typer.Argument(help="A task with one image per question; to make vectors, a _select task.")],
    out: Annotated[Path, typer.Argument(help="Folder for questions.jsonl and the images.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first questions.")] = None,
    include_path: Annotated[
        Path | None, typer.Option("--include_path", "--include-path", help="Folder of your own tasks.")
    ] = None,
) -> None:
    """Write a task's questions and images to a folder, for `extract --questions`."""
    from lmms_steer.data import question_files

    echo_lines(question_files.write_questions(task, out, limit, include_path))


def _data_dir(to: Path | None) -> Path:
    from lmms_steer.data.source import data_dir

    root = to or data_dir()
    if root is None:
        raise UserError("no folder for local copies: set LMMS_STEER_DATA=DIR or give --to DIR")
    return root
