"""The list of commands in a help text, with whole descriptions: click would cut them at one line of 80 columns."""

from typing import Any

from typer.core import TyperGroup

_LONGEST = 200
"""Characters of a description; no first paragraph of a command is longer."""


class CommandList(TyperGroup):
    """A group of commands whose descriptions go on over as many lines as they need."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands and the first sentence of each into the help."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, one.get_short_help_str(_LONGEST)) for name, one in commands if one and not one.hidden]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)
