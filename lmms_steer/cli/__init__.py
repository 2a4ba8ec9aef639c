"""The command line `lmms-steer`: one short function per command, without logic of its own."""

import errno
import os
import sys
from typing import Annotated

import typer
from typer.core import TyperCommand

from lmms_steer import __version__
from lmms_steer._util.logging import print_notes
from lmms_steer.cli import data, extract, harnesses, leaderboard, recipes, results, search, vectors
from lmms_steer.cli.command_list import CommandList
from lmms_steer.cli.registry_help import RegistryHelpCommand
from lmms_steer.errors import UserError

app = typer.Typer(
    cls=CommandList,
    help="Steer multimodal language models inside lmms-eval, with vectors made from text alone.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
# in the order in which --help lists them
app.add_typer(extract.commands)
app.add_typer(vectors.commands, name="vectors")
app.add_typer(search.commands)
app.add_typer(results.commands)
app.add_typer(leaderboard.commands, name="leaderboard")
app.add_typer(recipes.commands)
app.add_typer(data.commands, name="data")
app.add_typer(harnesses.commands)
for _group in app.registered_groups:
    for _command in _group.typer_instance.registered_commands if _group.typer_instance else ():
        if _command.cls is TyperCommand:
            _command.cls = RegistryHelpCommand

INTERRUPTED = 130
"""Exit status after an interrupt."""
TERMINATED = 143
"""Exit status after SIGTERM, from a command that ends what it started."""
UNUSABLE_PATH = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
    *(errno.ENAMETOOLONG, errno.ELOOP),
)
"""System errors that a path given by the user causes."""


def main() -> None:
    """Run the console script. A user's mistake ends it with one line and status 2, an interrupt with status 130."""
    # lmms-eval logs details of the machine that are of no interest here
    os.environ.setdefault("LOGURU_LEVEL", "WARNING")
    try:
        app(standalone_mode=True)
    except UserError as error:
        typer.echo(f"lmms-steer: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            typer.echo(
                "lmms-steer: the disk is full; finished work is kept: free some space and run the command again",
                err=True,
            )
        elif error.errno in UNUSABLE_PATH and error.filename:
            typer.echo(f"lmms-steer: {str(error.filename)!r} cannot be used: {error.strerror}", err=True)
        else:
            raise
        sys.exit(2)
    except SystemExit as end:
        # typer turns an interrupt into this exit
        if end.code in (INTERRUPTED, TERMINATED):
            how = "interrupted" if end.code == INTERRUPTED else "terminated"
            typer.echo(f"lmms-steer: {how}; run the command again to resume", err=True)
        raise


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"lmms-steer {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[  # noqa: ARG001  typer calls the option's own callback
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    print_notes()
