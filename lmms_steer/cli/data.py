"""`lmms-steer data`: local copies of the benchmarks."""

from pathlib import Path
from typing import Annotated

import typer

from lmms_steer.errors import UserError

commands = typer.Typer(help="Local copies of the benchmarks.", no_args_is_help=True, rich_markup_mode=None)


@commands.command("import")
def import_data(
    benchmark: Annotated[str, typer.Argument(help="cvbench, whatsup, blink, clevr, clevr_count or superclevr.")],
    release: Annotated[Path, typer.Option("--from", help="The folder of the official release.")],
    to: Annotated[Path | None, typer.Option(help="Where local copies are; $LMMS_STEER_DATA where unsaid.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first questions of a split only.")] = None,
) -> None:
    """Make a local copy of an official release, which our tasks then read; a killed import goes on where it was."""
    from lmms_steer.data.importing import import_release

    for line in import_release(benchmark, release, _data_dir(to), limit):
        typer.echo(line)


@commands.command("check")
def check_data(
    to: Annotated[Path | None, typer.Option(help="Where local copies are; $LMMS_STEER_DATA where unsaid.")] = None,
) -> None:
    """What is there, and whether it is what the tasks expect; status 1 where something is damaged."""
    from lmms_steer.data.local_copy import check_copies

    checked = list(check_copies(_data_dir(to)))
    for good, line in checked:
        typer.echo(f"{'' if good else 'DAMAGED  '}{line}")
    if not all(good for good, _ in checked):
        raise typer.Exit(1)


@commands.command("generate")
def generate_data(
    out: Annotated[Path, typer.Argument(help="Folder for the stand-ins.")],
    questions: Annotated[int, typer.Option(min=1, help="Of each task.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Of random choices.")] = 0,
) -> None:
    """Small stand-ins for all releases in the official formats, to try import and tasks without a download."""
    from lmms_steer.data.generated import write_stand_ins

    for name, folder in write_stand_ins(out, questions, seed).items():
        typer.echo(f"lmms-steer data import {name} --from {folder}")


def _data_dir(to: Path | None) -> Path:
    from lmms_steer.data.source import data_dir

    root = to or data_dir()
    if root is None:
        raise UserError("where should local copies be? Set LMMS_STEER_DATA=DIR or give --to DIR")
    return root
