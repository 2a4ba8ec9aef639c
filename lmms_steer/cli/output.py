"""Print lines that may contain names and texts from files that others wrote."""

from collections.abc import Iterable

import typer

from lmms_steer.errors import printable


def echo(text: str) -> None:
    """Print a text. Characters that would act on the terminal are written as escapes; line breaks and tabs stay."""
    typer.echo("\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n")))


def echo_lines(lines: Iterable[str]) -> None:
    """Print each line when it is there."""
    for line in lines:
        echo(line)
