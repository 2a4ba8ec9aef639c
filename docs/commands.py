"""For mkdocs: write the help of every command into the page of the command line."""

import html
import re
from collections.abc import Iterator
from typing import Any

import typer

from lmms_steer.cli import app
from lmms_steer.cli.registry_help import expand_help


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str | None:
    """Replace the page's placeholder by the help of all commands."""
    if page.file.src_uri != "reference/cli.md":
        return None
    command = typer.main.get_command(app)
    return markdown.replace(
        "<!-- commands -->", "\n\n".join(_parts(command, typer.Context(command, info_name="lmms-steer")))
    )


def _parts(command: Any, context: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    if path:
        yield f"#{'#' * len(path)} {' '.join(path)}"
    yield _text(command.help)
    yield f"```\n{command.get_usage(context).removeprefix('Usage: ')}\n```"
    rows = list(_parameters(command, context))
    if rows:
        yield "".join(["<ul>", *rows, "</ul>"])
    children = {name: child for name, child in getattr(command, "commands", {}).items() if not child.hidden}
    if children:
        # not the terminal's list of commands, because that is cut to the terminal's width
        yield "\n".join(
            f"* [{name}](#{'-'.join((*path, name))}): {_text(child.help)}" for name, child in children.items()
        )
    for name, child in children.items():
        yield from _parts(child, typer.Context(child, parent=context, info_name=name), (*path, name))


def _parameters(command: Any, context: Any) -> Iterator[str]:
    """Each argument and option with all that the terminal prints of it, but --help, which all have."""
    expand_help(command)
    for parameter in command.get_params(context):
        name, about = parameter.get_help_record(context)
        if name != "--help":
            yield f"<li><code>{html.escape(name)}</code>: {_text(about)}</li>"


def _text(words: str) -> str:
    """Help text as HTML. Text between backticks is code; nothing else is markup."""
    return re.sub(r"`(.+?)`", r"<code>\1</code>", html.escape(words, quote=False))
