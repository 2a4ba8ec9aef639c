"""Print lines that may contain names and texts from files that others wrote."""

import typer

from lmms_steer.errors import printable


def echo(text: str) -> None:
    """Print a text. Characters that would act on the terminal are written as escapes; line breaks and tabs stay."""
    typer.echo("\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n")))
