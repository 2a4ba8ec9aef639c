"""The names in a recipe, each looked up before anything runs. Imports neither torch nor lmms-eval: a plan is quick."""

import re
import shlex
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lmms_steer import concepts
from lmms_steer.errors import UserError, unknown
from lmms_steer.extraction.names import check_method
from lmms_steer.models.names import MODELS
from lmms_steer.recipes.schema import SYSTEMS, Recipe
from lmms_steer.recipes.tree import Tree
from lmms_steer.recipes.words import command_cell, label
from lmms_steer.search.options import SCORES, STRATEGIES
from lmms_steer.search.ranges import alpha_range, layer_range, token_targets
from lmms_steer.task_names import task_names, their_tasks

_NAME = re.compile(r"[\w+-][\w.+-]*")
_FILE = (".yaml", ".yml", ".jsonl", ".csv")
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
                raise _at(
                    found, (part, name), UserError(f"{name!r}: a name is letters, digits and . _ + -, no dot first")
                )
    _check_models(recipe, found)
    _check_methods(recipe, found)
    _check_studies(recipe, found)
    _check_commands(recipe, found)
    _known(found, ("systems",), "system", recipe.systems, SYSTEMS)
    if not recipe.models or not recipe.studies:
        raise UserError(f"{found.where}: no model and study, nothing to do")


def _check_models(recipe: Recipe, found: Tree) -> None:
    for name, model in recipe.models.items():
        path = ("models", name)
        if model.model not in MODELS and not is_wrapped(model.model):
            raise _at(
                found,
                (*path, "model"),
                unknown("model", model.model, _near(model.model, [*MODELS, *_steered_wrappers()])),
            )
        for key, value in {"pretrained": model.pretrained, **model.args}.items():
            if re.search(r"[,=\s]", value):
                wrong = UserError(f"{key}={value}: --model_args cannot hold ',', '=' or a space in a value")
                raise _at(found, (*path, key if key == "pretrained" else "args"), wrong)
        if model.layers:
            _checked(found, (*path, "layers"), layer_range, model.layers)


def _check_methods(recipe: Recipe, found: Tree) -> None:
    for name, method in recipe.methods.items():
        _checked(found, ("methods", name), check_method, name)
        _checked(found, ("methods", name, "alphas"), alpha_range, method.alphas)
    _checked(found, ("search", "tokens"), token_targets, recipe.search.tokens)
    _known(found, ("search", "strategy"), "strategy", filter(None, [recipe.search.strategy]), STRATEGIES)
    _known(found, ("search", "score"), "score", filter(None, [recipe.search.score]), SCORES)


def _check_studies(recipe: Recipe, found: Tree) -> None:
    for name, study in recipe.studies.items():
        path = ("studies", name)
        for concept in study.concepts:
            _check_concept(found, (*path, "concepts"), concept)
        tasks = {"select": (study.select,), "test": study.test, "test_prompted": study.test_prompted or ()}
        for key, names in tasks.items():
            for task in filter(None, names):
                _check_task(found, (*path, key), task)
        if "prompted" in recipe.systems and not study.test_prompted:
            for task in study.test:
                _check_prompted(found, (*path, "test"), f"{task}_prompted")
        if (study.select is None) == (study.chosen is None):
            raise _at(found, path, UserError(f"study {name}: say either select: TASK or chosen: STUDY"))
        if study.chosen is not None and recipe.chosen_in is None:
            raise _at(found, (*path, "chosen"), UserError("chosen: say chosen_in: FOLDER, the recipe that chose"))
    for concept in recipe.concepts:
        _check_concept(found, ("concepts",), concept)
    _check_labels(recipe, found)


def _check_labels(recipe: Recipe, found: Tree) -> None:
    """A vector's path has the concept's label in it, so no two concepts may share one."""
    where: list[tuple[str, tuple[str, ...]]] = [(concept, ("concepts",)) for concept in recipe.concepts]
    where += [(c, ("studies", name, "concepts")) for name, study in recipe.studies.items() for c in study.concepts]
    seen: dict[str, str] = {}
    for concept, path in where:
        name = label(concept)
        if seen.setdefault(name, concept) != concept:
            raise _at(
                found, path, UserError(f"{seen[name]!r} and {concept!r} are both the concept {name!r}: rename one")
            )


def _check_commands(recipe: Recipe, found: Tree) -> None:
    names = [command.name for command in recipe.commands]
    cells = [command_cell(name) for name in names]
    for number, command in enumerate(recipe.commands):
        path = ("commands", number)
        if cells[number] in cells[:number]:
            raise _at(found, (*path, "name"), UserError(f"two commands are named {command.name!r}: rename one"))
        try:
            program = [*shlex.split(command.run), ""][0]
        except ValueError as error:
            raise _at(found, (*path, "run"), UserError(f"run: {error}")) from error
        if program not in PROGRAMS:
            raise _at(found, (*path, "run"), unknown("program", program, PROGRAMS))
        _known(found, (*path, "after"), "cell", command.after, (*KINDS, *names[:number]))


def _check_concept(found: Tree, path: tuple[Any, ...], concept: str) -> None:
    if concept.endswith(_FILE):
        if not Path(concept).is_file():
            raise _at(found, path, UserError(f"no such concept file: {concept!r}"))
        return
    _known(found, path, "concept", [concept], concepts.names())


def _check_task(found: Tree, path: tuple[Any, ...], task: str) -> None:
    if task not in our_tasks() and task not in their_tasks():
        raise _at(found, path, unknown("task", task, _near(task, our_tasks())))


def _check_prompted(found: Tree, path: tuple[Any, ...], task: str) -> None:
    if task not in our_tasks() and task not in their_tasks():
        wrong = f"the system `prompted` asks {task!r}, and there is no such task: say test_prompted:, or other systems:"
        raise _at(found, path, UserError(wrong))


@cache
def our_tasks() -> frozenset[str]:
    return frozenset(task_names())


def is_wrapped(model: str) -> bool:
    return model.replace("steered:", "steered_", 1) in _steered_wrappers()


@cache
def _steered_wrappers() -> frozenset[str]:
    spec = find_spec("lmms_eval")
    root = Path(spec.submodule_search_locations[0]) / "models" if spec and spec.submodule_search_locations else None
    files = [path for kind in ("simple", "chat") for path in (root / kind).glob("*.py")] if root else []
    return frozenset(f"steered_{path.stem}" for path in files if not path.stem.startswith("_"))


def _near(name: str, known: Iterable[str]) -> list[str]:
    """The few that a user may have meant, of hundreds."""
    return get_close_matches(name, sorted(known), n=6, cutoff=0.4)


def _known(found: Tree, path: tuple[Any, ...], kind: str, names: Any, known: Any) -> None:
    for name in names:
        if name not in known:
            raise _at(found, path, unknown(kind, name, known))


def _checked(found: Tree, path: tuple[Any, ...], read: Any, *args: Any) -> None:
    try:
        read(*args)
    except UserError as error:
        raise _at(found, path, error) from error


def _at(found: Tree, path: tuple[Any, ...], error: UserError) -> UserError:
    return UserError(f"{found.at(path).where}: {error}")
