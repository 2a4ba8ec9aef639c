"""The functions of the top-level package take what the commands of the same names take, with the same defaults."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import typer.main

from lmms_steer.cli import app
from lmms_steer.comparison.api import Leaderboard, compare
from lmms_steer.extraction.api import extract
from lmms_steer.inspection.command import inspect as inspect_prompt
from lmms_steer.search.api import search
from lmms_steer.search.layers import layers

NONE = (None, "", (), False)
"""Ways of saying that an option is not given."""


@pytest.mark.parametrize(
    ("command", "functions", "only_there"),
    [
        ("extract", (extract,), set()),
        ("search", (search,), {"dry_run"}),
        ("layers", (layers,), {"plot"}),
        ("inspect", (inspect_prompt,), {"plot"}),
        ("compare", (compare, Leaderboard.write), set()),
    ],
)
def test_a_function_has_the_options_of_its_command(
    command: str, functions: tuple[Callable[..., Any], ...], only_there: set[str]
) -> None:
    program: Any = typer.main.get_command(app)
    options = {one.name: one for one in program.commands[command].params}
    parameters = {name: one for function in functions for name, one in inspect.signature(function).parameters.items()}
    parameters.pop("self", None)
    assert options.keys() - only_there == parameters.keys()
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty:
            assert options[name].required, name
        elif parameter.default not in NONE:
            assert options[name].default == parameter.default, name
        else:
            assert not options[name].required and options[name].default in NONE, name
