"""Check the systems of a recipe: names, the arguments of the recipe's own, and what they wait for."""

import re
from collections.abc import Iterator, Mapping

from lmms_steer.errors import UserError, shorten, unknown_name
from lmms_steer.harness.arguments import STEERED_MODEL_ARGS, check_keys, join_model_args
from lmms_steer.harness.names import MODELS
from lmms_steer.harness.presets import expand_preset
from lmms_steer.models import BLANK, CONTRAST_ARGS
from lmms_steer.models.contrasts import read_contrast
from lmms_steer.recipes.schema import SYSTEMS, Model, Recipe, System
from lmms_steer.search.options import parse_layers
from lmms_steer.steering.budget import take_budget
from lmms_steer.steering.intervention import FIELDS
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.vectors.controls import parse_control
from lmms_steer.vectors.local_checkpoints import number_of_layers

CELLS_BEFORE = ("extract", "search")
"""Kinds of cells that a system may wait for."""
_PLACE = "{output}"
_OF_A_SYSTEM = ("preset", "steering", *FIELDS, *CONTRAST_ARGS, "answer_bias", "image")
"""Arguments that make a system another than the baseline."""


def system_mistakes(recipe: Recipe) -> Iterator[tuple[tuple[str | int, ...], UserError]]:
    """The mistakes in a recipe's systems, and in the arguments that a model gives all of them.

    Yields:
        the keys of the value, from the top of the recipe, and the error.
    """
    seen: set[str] = set()
    for number, system in enumerate(recipe.systems):
        path: tuple[str | int, ...] = ("systems", number)
        if system.name in seen:
            yield path, UserError(f"two systems are named {system.name!r}: rename one")
        seen.add(system.name)
        if system.args is None:
            if system.name not in SYSTEMS:
                error = unknown_name("system", system.name, SYSTEMS)
                yield path, UserError(f"{error}; one of your own is {{name: …, args: {{…}}}}")
            elif system.after or system.studies:
                key = "after" if system.after else "studies"
                yield path, UserError(f"{key}: {system.name} has no args, and only a system of your own has this key")
        else:
            yield from ((path, error) for error in _own_mistakes(recipe, system, system.args))
    for name, model in recipe.models.items():
        for key in model.args:
            if key == "pretrained":
                yield ("models", name, "args", key), UserError("pretrained: give the model's own key, not one in args")
            elif key in _OF_A_SYSTEM:
                error = UserError(
                    f"{key}: every system would have it, the baseline too: put it into a system of your own"
                )
                yield ("models", name, "args", key), error
        try:
            _check_known(model, model.args)
        except UserError as mistake:
            yield ("models", name, "args"), mistake
        if "blank" in recipe.known_systems and model.model not in MODELS:
            ours = ", ".join(MODELS)
            yield ("systems",), UserError(f"the system blank needs one of the models {ours}; {name} is {model.model}")


def _own_mistakes(recipe: Recipe, system: System, args: Mapping[str, str]) -> Iterator[UserError]:
    if system.name in SYSTEMS:
        yield UserError(f"{system.name} has settings of its own: give the system with args another name")
    if not re.fullmatch(r"[\w+-][\w.+-]*", system.name) or system.name.endswith(f"-{BLANK}"):
        expected = f"a name is made of letters, digits and . _ + -, and does not end in -{BLANK}"
        yield UserError(f"system {shorten(repr(system.name))}: {expected}")
    if any(_PLACE in value for value in args.values()) and not system.after:
        yield UserError(f"{system.name}: {_PLACE} in args needs after:, what makes the file")
    yield from _waiting_mistakes(recipe, system)
    for study in system.studies or ():
        if study not in recipe.studies:
            yield UserError(f"{system.name}: {unknown_name('study', study, recipe.studies)}")
    for model in recipe.models.values():
        try:
            _check_args(model, args)
        except UserError as error:
            yield UserError(f"{system.name}: {error}")
            return


def _check_args(model: Model, args: Mapping[str, str]) -> None:
    """
    Raises:
        UserError: for arguments that the model's evaluation would refuse, as far as they can be read without it.
    """
    join_model_args(args)
    for key in args:
        if key in ("pretrained", *model.args):
            raise UserError(f"{key} is the model's: leave it out of the system's args")
    _check_known(model, args)
    expanded = expand_preset(args)
    contrast = {key: expanded[key] for key in CONTRAST_ARGS if key in expanded}
    if contrast and model.model not in MODELS:
        raise UserError(f"contrasts work with {', '.join(MODELS)}, not with {model.model}")
    read_contrast(contrast)
    spec = {key: expanded[key] for key in FIELDS if key in expanded}
    if "steering" in expanded:
        if control := spec.pop("control", None):
            parse_control(control)
        if spec:
            raise UserError(f"steering={expanded['steering']} is a whole spec: leave {next(iter(spec))} out")
    if spec:
        SteeringSpec.from_args(take_budget(spec)[0])
        if not spec.get("site", "").startswith("vision"):
            for key in ("layer", "layers"):
                parse_layers(spec.get(key, "0"), number_of_layers(model.pretrained))


def _check_known(model: Model, args: Mapping[str, str]) -> None:
    """
    Raises:
        UserError: for an argument that one of our models does not have, or that is nearly one of ours.
    """
    ours = model.model in MODELS
    check_keys(args, STEERED_MODEL_ARGS if ours else ("preset", "steering", *FIELDS), takes_others=not ours)


def _waiting_mistakes(recipe: Recipe, system: System) -> Iterator[UserError]:
    """What a system waits for must exist, and must not itself wait for evaluations."""
    commands = {command.name: command for command in recipe.commands}
    waiting = list(system.after)
    while waiting:
        name = waiting.pop()
        if name in CELLS_BEFORE:
            continue
        if name not in commands:
            error = unknown_name("cell", name, (*CELLS_BEFORE, *commands))
            yield (
                UserError(f"{system.name}: after: {error}")
                if name in system.after
                else UserError(
                    f"{system.name} waits for a command that waits for {name}, which comes after the evaluations"
                )
            )
            return
        waiting += commands.pop(name).after
