"""The names in a recipe, each looked up before anything runs. Imports neither torch nor lmms-eval: a plan is quick."""

import json
import re
import shlex

from lmms_steer.backbones import checkpoint
from lmms_steer.errors import UserError, unknown
from lmms_steer.method_names import check_method
from lmms_steer.models.names import MODELS, in_engine, out_of_reach, wrapped
from lmms_steer.recipes.known_studies import check_studies
from lmms_steer.recipes.memory import on_disk
from lmms_steer.recipes.mistakes import at, checked, known, near
from lmms_steer.recipes.schema import SYSTEMS, Recipe
from lmms_steer.recipes.tree import Tree
from lmms_steer.recipes.words import command_cell
from lmms_steer.search.options import SCORES, STRATEGIES
from lmms_steer.search.ranges import alpha_range, layer_range, token_targets

_NAME = re.compile(r"[\w+-][\w.+-]*")
KINDS = ("extract", "search", "evaluate", "compare")
PROGRAMS = ("lmms-steer", "lmms-eval")


def check_names(recipe: Recipe, found: Tree) -> None:
    """Every name in the recipe.

    Raises:
        UserError: for the first that does not exist, with its line.
    """
    for part in ("models", "methods", "studies"):
        for name in getattr(recipe, part):
            if not _NAME.fullmatch(name):
                raise at(
                    found, (part, name), UserError(f"{name!r}: a name is letters, digits and . _ + -, no dot first")
                )
    _check_models(recipe, found)
    _check_methods(recipe, found)
    check_studies(recipe, found)
    _check_commands(recipe, found)
    known(found, ("systems",), "system", recipe.systems, SYSTEMS)
    if not recipe.models or not recipe.studies:
        raise UserError(f"{found.where}: no models or no studies: nothing to do")


def _check_models(recipe: Recipe, found: Tree) -> None:
    for name, model in recipe.models.items():
        path = ("models", name)
        checked(found, (*path, "model"), _check_wrapper, model.model)
        checked(found, (*path, "pretrained"), checkpoint, model.pretrained)
        for key, value in {"pretrained": model.pretrained, **model.args}.items():
            if re.search(r"[,=\s]", value):
                wrong = UserError(f"{key}={value}: --model_args cannot hold ',', '=' or a space in a value")
                raise at(found, (*path, key if key == "pretrained" else "args"), wrong)
        if model.layers:
            checked(found, (*path, "layers"), layer_range, model.layers, _layers(model.pretrained))


def _check_wrapper(model: str) -> None:
    own, there = model.replace(":", "_", 1).removeprefix("steered_"), wrapped()
    if model in MODELS:
        return
    if f"steered_{own}" not in there or not model.startswith("steered_"):
        reachable = [name for name in there if not in_engine(name)]
        raise unknown("model", model, near(model, [*MODELS, *reachable]))
    if in_engine(own):
        raise out_of_reach(own)


def _layers(pretrained: str) -> int | None:
    """How many decoder layers a checkpoint on this disk says that it has."""
    folder = on_disk(pretrained)
    try:
        said = json.loads((folder / "config.json").read_text(encoding="utf-8")) if folder else {}
        found = said.get("text_config", said).get("num_hidden_layers")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, int) else None


def _check_methods(recipe: Recipe, found: Tree) -> None:
    for name, method in recipe.methods.items():
        checked(found, ("methods", name), check_method, name)
        checked(found, ("methods", name, "alphas"), alpha_range, method.alphas)
    checked(found, ("search", "tokens"), token_targets, recipe.search.tokens)
    known(found, ("search", "strategy"), "strategy", filter(None, [recipe.search.strategy]), STRATEGIES)
    known(found, ("search", "score"), "score", filter(None, [recipe.search.score]), SCORES)


def _check_commands(recipe: Recipe, found: Tree) -> None:
    names = [command.name for command in recipe.commands]
    cells = [command_cell(name) for name in names]
    for number, command in enumerate(recipe.commands):
        path = ("commands", number)
        if cells[number] in cells[:number]:
            raise at(found, (*path, "name"), UserError(f"two commands are named {command.name!r}: rename one"))
        try:
            program = [*shlex.split(command.run), ""][0]
        except ValueError as error:
            raise at(found, (*path, "run"), UserError(f"run: {error}")) from error
        if program not in PROGRAMS:
            raise at(found, (*path, "run"), unknown("program", program, PROGRAMS))
        known(found, (*path, "after"), "cell", command.after, (*KINDS, *names[:number]))
