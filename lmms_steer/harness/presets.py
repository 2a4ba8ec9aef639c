"""Presets: the settings of published methods, written out as ordinary keys of `--model_args` (`presets.yaml`).

`preset=NAME` stands for the released code's settings, `preset=NAME:paper` for the paper's. Keys that are given beside
it replace its own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from lmms_steer.errors import UserError, unknown_name
from lmms_steer.models import CONTRAST_ARGS
from lmms_steer.steering.intervention import FIELDS

DEFAULT_VARIANT = "code"
_SETTINGS = ("steering", *FIELDS, *CONTRAST_ARGS)


@dataclass(frozen=True, slots=True)
class Preset:
    """One variant of a method.

    Attributes:
        name: `vti:code`.
        about: the method in one line, with its arXiv number.
        args: its keys of `--model_args`.
        needs: keys that the user has to give.
        source: where the settings come from.
        differs: what is not as in the source; "" for nothing.
    """

    name: str
    about: str
    args: Mapping[str, Any]
    needs: tuple[str, ...]
    source: str
    differs: str

    @property
    def line(self) -> str:
        """The keys in one line, with `…` for what the user gives."""
        return ",".join([*(f"{key}=…" for key in self.needs), *(f"{key}={value}" for key, value in self.args.items())])


@cache
def presets() -> dict[str, dict[str, Preset]]:
    """Every preset: name ▸ variant ▸ preset. The first variant is the default."""
    text = files("lmms_steer.harness").joinpath("presets.yaml").read_text(encoding="utf-8")
    return {
        name: {
            variant: Preset(
                f"{name}:{variant}",
                entry["about"],
                content["args"],
                tuple(content.get("needs", ())),
                content["source"],
                content.get("differs", ""),
            )
            for variant, content in entry.items()
            if variant != "about"
        }
        for name, entry in yaml.safe_load(text).items()
    }


def find_preset(name: str) -> Preset:
    """The preset of a name, with or without its variant.

    Raises:
        UserError: for an unknown one.
    """
    method, _, variant = name.partition(":")
    if method not in presets():
        raise unknown_name("preset", method, presets())
    variants = presets()[method]
    if (variant or DEFAULT_VARIANT) not in variants:
        raise UserError(f"preset={name}: {method} has the variants {', '.join(variants)}")
    return variants[variant or DEFAULT_VARIANT]


def expand_preset(args: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with the keys of their preset in its place; the arguments as they are without one.

    Raises:
        UserError: for an unknown preset, a key that it needs and that is not given, or a setting that it does not have.
    """
    given = dict(args)
    if given.get("preset") is None:
        given.pop("preset", None)
        return given
    preset = find_preset(str(given.pop("preset")))
    several = {"layer": "layers", "layers": "layer"}
    own = {key: value for key, value in preset.args.items() if several.get(key) not in given}
    allowed = {*preset.args, *preset.needs, *(several[key] for key in preset.args if key in several)}
    for key, value in given.items():
        if key in _SETTINGS and key not in allowed:
            raise UserError(
                f"{key}={value}: preset={preset.name} has no such setting; it has {', '.join(sorted(allowed))}"
            )
    missing = [key for key in preset.needs if key not in given]
    if missing:
        raise UserError(f"preset={preset.name} needs {', '.join(f'{key}=…' for key in missing)} beside it")
    return {**own, **given}


def preset_lines(name: str | None = None) -> Iterator[str]:
    """A line for each preset, or all about one."""
    if name is None:
        for method, variants in presets().items():
            yield f"{method:6} {next(iter(variants.values())).about} [{', '.join(variants)}]"
        return
    method, _, variant = name.partition(":")
    found = [find_preset(name)] if variant else list(presets()[find_preset(method).name.partition(":")[0]].values())
    yield found[0].about
    for preset in found:
        yield f"preset={preset.name}"
        yield f"  is       {preset.line}"
        yield f"  source   {preset.source}"
        if preset.differs:
            yield f"  differs  {preset.differs}"
