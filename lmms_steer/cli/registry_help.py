"""Help texts that list what is registered: `{methods}` in an option's help becomes every method with its description.

Lists of names come from the registries, so that those of installed extensions appear in the help too. The registries
are imported only when a help text that lists them is shown.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any, Protocol

from typer.core import TyperCommand

from lmms_steer.errors import UserError
from lmms_steer.registry import Registry

SOURCES = {
    "methods": ("lmms_steer.vectors.methods", "methods"),
    "image_contrasts": ("lmms_steer.extraction.image_contrasts", "IMAGE_CONTRASTS"),
    "controls": ("lmms_steer.vectors.controls", "CONTROLS"),
    "strategies": ("lmms_steer.search.strategies", "strategies"),
    "layer_scores": ("lmms_steer.search.layer_scores", "layer_scores"),
    "gates": ("lmms_steer.steering.gates", "gates"),
    "sites": ("lmms_steer.steering.sites", "sites"),
    "operations": ("lmms_steer.steering.operations", "operations"),
    "models": ("lmms_steer.harness.names", "MODELS"),
    "recipes": ("lmms_steer.recipes.loading", "described_recipes"),
    "overlays": ("lmms_steer.recipes.loading", "shipped_overlays"),
    "benchmarks": ("lmms_steer.data.benchmarks", "benchmarks"),
}
"""Placeholder ▸ module and name of a registry, of names or of a function that returns names.

They are imported only for a help text.
"""
PLACEHOLDER = re.compile(rf"\{{({'|'.join(SOURCES)})\}}")


class _Described(Protocol):
    description: str


class RegistryHelpCommand(TyperCommand):
    """A command whose options' help texts may contain placeholders, and which takes no option's value twice."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; of an option that is given twice, the first value would be lost without a word."""
        given = self.make_parser(ctx).parse_args(args=list(args))[2]
        for parameter, times in Counter(given).items():
            if times > 1 and not (parameter.multiple or getattr(parameter, "is_flag", False)):
                raise UserError(f"{parameter.opts[0]} is given {times} times")
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options into the help, with the placeholders expanded."""
        expand_help(self)
        super().format_options(ctx, formatter)


def expand_help(command: Any) -> None:
    """Replace the placeholders in the help texts of a command's parameters."""
    for parameter in command.params:
        if getattr(parameter, "help", None):
            parameter.help = PLACEHOLDER.sub(lambda match: listing(_source(match[1])), parameter.help)


def listing(source: "Registry[Any] | Mapping[str, str] | Iterable[str]") -> str:
    """`NAME: description. NAME: description` of a registry's or a mapping's entries; `NAME, NAME` of plain names."""
    if isinstance(source, Mapping):
        return ". ".join(f"{name}: {about}" for name, about in source.items())
    if not isinstance(source, Registry):
        return ", ".join(source)
    return ". ".join(f"{name}: {_description(source, name)}" for name in source.names())


def _description(registry: "Registry[Any]", name: str) -> str:
    try:
        entry: _Described = registry.get(name)
    except UserError as error:
        # a broken extension must not take the help away
        return str(error)
    return entry.description.rstrip(".")


def _source(placeholder: str) -> "Registry[Any] | Mapping[str, str] | Iterable[str]":
    """The registry or the names that a placeholder stands for."""
    module, name = SOURCES[placeholder]
    source: Registry[Any] | Iterable[str] | Callable[[], Iterable[str]] = getattr(import_module(module), name)
    return source() if callable(source) else source
