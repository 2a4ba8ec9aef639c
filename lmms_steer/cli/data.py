"""`lmms-steer data`: local copies of the benchmarks."""

from pathlib import Path
from typing import Annotated

import typer

from lmms_steer.errors import UserError

commands = typer.Typer(help="Local copies of the benchmarks.", no_args_is_help=True, rich_markup_mode=None)


@commands.command("import")
def import_data(
    benchmark: Annotated[str, typer.Argument(help="cvbench, whatsup, blink, clevr, clevr_count or superclevr.")],
    release: Annotated[Path, typer.Option("--from", help="Folder of the official release.")],
    to: Annotated[Path | None, typer.Option(help="Folder of the local copies. Default: $LMMS_STEER_DATA.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Import only the first questions of each split.")] = None,
) -> None:
    """Import an official release into a local copy for our tasks. An interrupted import resumes."""
    from lmms_steer.data.importing import import_release

    for line in import_release(benchmark, release, _data_dir(to), limit):
        typer.echo(line)


@commands.command("check")
def check_data(
    to: Annotated[Path | None, typer.Option(help="Folder of the local copies. Default: $LMMS_STEER_DATA.")] = None,
) -> None:
    """Check the local copies against what the tasks expect. The exit status is 1 if one is damaged."""
    from lmms_steer.data.local_copy import check_copies

    checked = list(check_copies(_data_dir(to)))
    for intact, line in checked:
        typer.echo(f"{'' if intact else 'DAMAGED  '}{line}")
    if not all(intact for intact, _ in checked):
        raise typer.Exit(1)


@commands.command("generate")
def generate_data(
    out: Annotated[Path, typer.Argument(help="Folder to write the stand-ins to.")],
    questions: Annotated[int, typer.Option(min=1, help="Questions per task.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
) -> None:
    """Generate small stand-ins for all releases in the official formats, to try import and tasks without downloads."""
    from lmms_steer.data.generated import write_stand_ins

    for name, folder in write_stand_ins(out, questions, seed).items():
        typer.echo(f"lmms-steer data import {name} --from {folder}")


def _data_dir(to: Path | None) -> Path:
    from lmms_steer.data.source import data_dir

    root = to or data_dir()
    if root is None:
        raise UserError("no folder for local copies: set LMMS_STEER_DATA=DIR or use --to DIR")
    return root
