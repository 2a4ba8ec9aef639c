"""`lmms-steer …`: one short function a verb, no logic of its own."""

import errno
import os
import sys
from typing import Annotated

import typer

from lmms_steer import __version__
from lmms_steer._util.logging import print_notes
from lmms_steer.cli import data, extract, harnesses, recipes, results, search, vectors
from lmms_steer.errors import UserError

app = typer.Typer(
    help="Steer multimodal language models inside lmms-eval, with vectors made from text alone.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
# as --help lists them
app.add_typer(extract.commands)
app.add_typer(vectors.commands, name="vectors")
app.add_typer(search.commands)
app.add_typer(results.commands)
app.add_typer(recipes.commands)
app.add_typer(data.commands, name="data")
app.add_typer(harnesses.commands)

INTERRUPTED = 130
UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


def main() -> None:
    """The console script: a user's mistake is one line and status 2, an interrupt status 130."""
    # lmms-eval logs its findings about the disk and the like, which concern nobody who did not ask
    os.environ.setdefault("LOGURU_LEVEL", "WARNING")
    try:
        app(standalone_mode=True)
    except UserError as error:
        typer.echo(f"lmms-steer: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            typer.echo("lmms-steer: the disk is full; what is finished is kept: make room and run it again", err=True)
        elif error.errno in UNUSABLE and error.filename:
            typer.echo(f"lmms-steer: {str(error.filename)!r} cannot be used: {error.strerror}", err=True)
        else:
            raise
        sys.exit(2)
    except SystemExit as end:
        # what typer makes of an interrupt
        if end.code == INTERRUPTED:
            typer.echo("lmms-steer: stopped; long work goes on where it was when it is run again", err=True)
        raise


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lmms-steer {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[  # noqa: ARG001  typer calls the option's own callback
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    print_notes()
