"""Help texts list what is registered, and showing them is quick."""

import subprocess
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import typer
import typer.testing

from lmms_steer import cli
from lmms_steer.cli import registry_help
from lmms_steer.errors import UserError
from lmms_steer.registry import Registry


@dataclass(frozen=True)
class Fruit:
    name: str
    description: str


def fruits() -> Registry[Fruit]:
    registry: Registry[Fruit] = Registry("fruit", "lmms_steer_tests.fruits")
    registry.add("apple", Fruit("apple", "grows on a tree."))
    registry.add("melon", Fruit("melon", "grows on the ground"))
    return registry


def test_a_placeholder_becomes_the_registered_names_with_their_descriptions(monkeypatch: pytest.MonkeyPatch) -> None:
    requested = []

    def source(placeholder: str) -> Registry[Fruit]:
        requested.append(placeholder)
        return fruits()

    monkeypatch.setattr(registry_help, "_source", source)
    app = typer.Typer(rich_markup_mode=None)

    @app.command(cls=registry_help.RegistryHelpCommand)
    def pick(
        method: Annotated[str, typer.Option(help="One of: {methods}.")] = "apple",
        sae: Annotated[str, typer.Option(help="RELEASE:ID with {layer} in it.")] = "",
    ) -> None:
        typer.echo(method)

    runner = typer.testing.CliRunner()
    assert runner.invoke(app, ["--method", "melon"]).output == "melon\n" and not requested, "only help looks them up"
    for _ in range(2):
        words = " ".join(runner.invoke(app, ["--help"]).output.split())
        assert "One of: apple: grows on a tree. melon: grows on the ground." in words
        assert "RELEASE:ID with {layer} in it." in words
    assert set(requested) == {"methods"}


def test_an_extension_that_cannot_be_loaded_does_not_take_the_help_away(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = fruits()

    def get(name: str) -> Fruit:
        raise UserError(f"the fruit {name!r} cannot be loaded")

    monkeypatch.setattr(registry, "get", get)
    assert registry_help.listing(registry).startswith("apple: the fruit 'apple' cannot be loaded. melon: ")
    assert registry_help.listing(("a", "b")) == "a, b"


@pytest.mark.parametrize("group", [[], ["data"], ["concepts"], ["vectors"], ["leaderboard"]], ids=" ".join)
def test_lists_of_commands_have_whole_descriptions(group: list[str]) -> None:
    listed = typer.testing.CliRunner().invoke(cli.app, [*group, "--help"]).output.partition("Commands:")[2]
    assert listed and "..." not in listed


def test_the_help_of_run_names_recipes_and_overlays_that_ship() -> None:
    words = " ".join(typer.testing.CliRunner().invoke(cli.app, ["run", "--help"]).output.split())
    assert (
        "a recipe that ships. hallucination: methods against hallucination on LLaVA-1.5. hallucination_smol:" in words
    )
    assert "smol_ood: the specs of smol on other pictures and other questions. tiny: three concepts" in words
    assert "one that ships: smol_more, smol_sae, stand_in, stand_in_smol. " in words


def test_the_help_of_search_describes_the_strategies() -> None:
    words = " ".join(typer.testing.CliRunner().invoke(cli.app, ["search", "--help"]).output.split())
    assert "Which cells are tried on which questions. grid: " in words
    assert "NAME+screen runs the screen first. [default: grid]" in words
    assert "Trials per vector, for strategies that propose cells." in words
    assert "questions' order and of the strategy." in words


def commands() -> list[str]:
    """Every command and group, as words."""

    def below(command: Any, path: tuple[str, ...]) -> list[tuple[str, ...]]:
        children = getattr(command, "commands", {})
        return [path, *(found for name, child in children.items() for found in below(child, (*path, name)))]

    # lm-eval hands its --help on
    paths = below(typer.main.get_command(cli.app), ())
    return [" ".join(path) for path in paths if path != ("lm-eval",)]


@pytest.mark.parametrize("command", commands())
def test_every_command_has_a_help_text_that_names_no_placeholder(command: str) -> None:
    done = typer.testing.CliRunner().invoke(cli.app, [*command.split(), "--help"])
    assert done.exit_code == 0 and len(done.output.splitlines()) > 4, done.exception
    assert not registry_help.PLACEHOLDER.search(done.output)


def test_no_help_text_imports_torch_a_harness_or_what_else_takes_long() -> None:
    heavy = ["torch", "transformers", "lmms_eval", "lm_eval", "sae_lens", "scipy.stats", "optuna", "matplotlib"]
    code = (
        "import sys; from typer.testing import CliRunner; from lmms_steer.cli import app\n"
        "assert all(CliRunner().invoke(app, [*line.split(), '--help']).exit_code == 0 for line in sys.argv[1:])\n"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *commands()], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
