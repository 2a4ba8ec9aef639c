"""A mistake in a recipe, told with the line where it stands.

The names in a recipe's studies: concepts and tasks.

The names in a recipe, each looked up before anything runs. Imports neither torch nor lmms-eval: a plan is quick.
"""

import json
import re
import shlex
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lmms_steer import concepts
from lmms_steer._util.yaml import YamlNode
from lmms_steer.data.availability import read_task_file
from lmms_steer.errors import UserError, unknown_name
from lmms_steer.harness import task_files
from lmms_steer.harness.plugin import MODELS, engine_error, runs_in_engine, wrapped_names
from lmms_steer.recipes.in_process import PROGRAMS
from lmms_steer.recipes.layout import command_cell_name, concept_label
from lmms_steer.recipes.preflight import local_checkpoint
from lmms_steer.recipes.schema import SYSTEMS, Recipe
from lmms_steer.search.options import SCORES, is_test_task, parse_alphas, parse_layers, parse_targets
from lmms_steer.search.strategies import check_strategy
from lmms_steer.vectors.backbones import checkpoint
from lmms_steer.vectors.methods import check_method

KeyPath = tuple[str | int, ...]
"""Keys and places from the recipe's top."""


def with_line(found: YamlNode, path: KeyPath, error: UserError) -> UserError:
    """The error, with the line of a part before it."""
    return UserError(f"{found.at(path).where}: {error}")


def check_known(found: YamlNode, path: KeyPath, kind: str, names: Iterable[str], among: Iterable[str]) -> None:
    """
    Raises:
        UserError: for the first name that is not among them.
    """
    there = list(among)
    for name in names:
        if name not in there:
            raise with_line(found, path, unknown_name(kind, name, there))


def check_with_line(found: YamlNode, path: KeyPath, read: Callable[..., object], *args: str | int | None) -> None:
    """
    Raises:
        UserError: what `read` raises.
    """
    try:
        read(*args)
    except UserError as error:
        raise with_line(found, path, error) from error


def near_names(name: str, among: Iterable[str]) -> list[str]:
    """The few that a user may have meant, of hundreds."""
    return get_close_matches(name, sorted(among), n=6, cutoff=0.4)


_FILE = (".yaml", ".yml", ".jsonl", ".csv")


def check_studies(recipe: Recipe, found: YamlNode) -> None:
    if recipe.include_path is not None and not Path(recipe.include_path).is_dir():
        raise with_line(found, ("include_path",), UserError(f"no such folder of tasks: {recipe.include_path!r}"))
    for name, study in recipe.studies.items():
        path = ("studies", name)
        for concept in study.concepts:
            _check_concept(found, (*path, "concepts"), concept)
        tasks = {"select": (study.select,), "test": study.test, "test_prompted": study.test_prompted or ()}
        for key, names in tasks.items():
            for task in filter(None, names):
                check_with_line(found, (*path, key), task_files.check_task, task, recipe.include_path)
        if study.select:
            _check_select(found, (*path, "select"), study.select, recipe.include_path)
        if "prompted" in recipe.systems and not study.test_prompted:
            for task in study.test:
                _check_prompted(found, (*path, "test"), f"{task}_prompted", recipe.include_path)
        if (study.select is None) == (study.chosen is None):
            raise with_line(found, path, UserError(f"study {name}: say either select: TASK or chosen: STUDY"))
        if study.chosen is not None and recipe.chosen_in is None:
            raise with_line(found, (*path, "chosen"), UserError("chosen: say chosen_in: FOLDER, the recipe that chose"))
    for concept in recipe.concepts:
        _check_concept(found, ("concepts",), concept)
    _check_labels(recipe, found)


def _check_labels(recipe: Recipe, found: YamlNode) -> None:
    """A vector's path has the concept's label in it, so no two concepts may share one."""
    where: list[tuple[str, tuple[str, ...]]] = [(concept, ("concepts",)) for concept in recipe.concepts]
    where += [(c, ("studies", name, "concepts")) for name, study in recipe.studies.items() for c in study.concepts]
    seen: dict[str, str] = {}
    for concept, path in where:
        name = concept_label(concept)
        if seen.setdefault(name, concept) != concept:
            raise with_line(
                found, path, UserError(f"{seen[name]!r} and {concept!r} are both the concept {name!r}: rename one")
            )


def _check_concept(found: YamlNode, path: tuple[Any, ...], concept: str) -> None:
    if concept.endswith(_FILE):
        if not Path(concept).is_file():
            raise with_line(found, path, UserError(f"no such concept file: {concept!r}"))
        return
    check_known(found, path, "concept", [concept], concepts.names())


def _check_select(found: YamlNode, path: tuple[Any, ...], task: str, include_path: str | None) -> None:
    kind, file = task_files.task_file(task, include_path)
    if kind != "task":
        raise with_line(found, path, UserError(f"select: {task} is a {kind}: a choice is made on one task"))
    said = read_task_file(file)
    split = str(said.get("test_split") or said.get("validation_split"))
    if is_test_task(task, split):
        raise with_line(
            found, path, UserError(f"select: {task} asks the split {split!r}: choose on held-out questions (…_select)")
        )


def _check_prompted(found: YamlNode, path: tuple[Any, ...], task: str, include_path: str | None) -> None:
    if task_files.kind_of(task, include_path) is None:
        wrong = f"the system `prompted` asks {task!r}, and there is no such task: say test_prompted:, or other systems:"
        raise with_line(found, path, UserError(wrong))


_NAME = re.compile(r"[\w+-][\w.+-]*")
KINDS = ("extract", "search", "evaluate", "compare")


def check_names(recipe: Recipe, found: YamlNode) -> None:
    """Every name in the recipe.

    Raises:
        UserError: for the first that does not exist, with its line.
    """
    for part in ("models", "methods", "studies"):
        for name in getattr(recipe, part):
            if not _NAME.fullmatch(name):
                raise with_line(
                    found, (part, name), UserError(f"{name!r}: a name is letters, digits and . _ + -, no dot first")
                )
    _check_models(recipe, found)
    _check_methods(recipe, found)
    check_studies(recipe, found)
    _check_commands(recipe, found)
    check_known(found, ("systems",), "system", recipe.systems, SYSTEMS)
    if not recipe.models or not recipe.studies:
        raise UserError(f"{found.where}: no models or no studies: nothing to do")


def _check_models(recipe: Recipe, found: YamlNode) -> None:
    for name, model in recipe.models.items():
        path = ("models", name)
        check_with_line(found, (*path, "model"), _check_wrapper, model.model)
        check_with_line(found, (*path, "pretrained"), checkpoint, model.pretrained)
        for key, value in {"pretrained": model.pretrained, **model.args}.items():
            if re.search(r"[,=\s]", value):
                wrong = UserError(f"{key}={value}: --model_args cannot hold ',', '=' or a space in a value")
                raise with_line(found, (*path, key if key == "pretrained" else "args"), wrong)
        if model.layers:
            check_with_line(found, (*path, "layers"), parse_layers, model.layers, _layers(model.pretrained))


def _check_wrapper(model: str) -> None:
    own, there = model.replace(":", "_", 1).removeprefix("steered_"), wrapped_names()
    if model in MODELS:
        return
    if f"steered_{own}" not in there or not model.startswith("steered_"):
        reachable = [name for name in there if not runs_in_engine(name)]
        raise unknown_name("model", model, near_names(model, [*MODELS, *reachable]))
    if runs_in_engine(own):
        raise engine_error(own)


def _layers(pretrained: str) -> int | None:
    """How many decoder layers a checkpoint on this disk says that it has."""
    folder = local_checkpoint(pretrained)
    try:
        said = json.loads((folder / "config.json").read_text(encoding="utf-8")) if folder else {}
        found = said.get("text_config", said).get("num_hidden_layers")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, int) else None


def _check_methods(recipe: Recipe, found: YamlNode) -> None:
    for name, method in recipe.methods.items():
        check_with_line(found, ("methods", name), check_method, name)
        check_with_line(found, ("methods", name, "alphas"), parse_alphas, method.alphas)
    check_with_line(found, ("search", "tokens"), parse_targets, recipe.search.tokens)
    if recipe.search.strategy:
        check_with_line(found, ("search", "strategy"), check_strategy, recipe.search.strategy)
    check_known(found, ("search", "score"), "score", filter(None, [recipe.search.score]), SCORES)


def _check_commands(recipe: Recipe, found: YamlNode) -> None:
    names = [command.name for command in recipe.commands]
    cells = [command_cell_name(name) for name in names]
    for number, command in enumerate(recipe.commands):
        path = ("commands", number)
        if cells[number] in cells[:number]:
            raise with_line(found, (*path, "name"), UserError(f"two commands are named {command.name!r}: rename one"))
        try:
            program = [*shlex.split(command.run), ""][0]
        except ValueError as error:
            raise with_line(found, (*path, "run"), UserError(f"run: {error}")) from error
        if program not in PROGRAMS:
            raise with_line(found, (*path, "run"), unknown_name("program", program, PROGRAMS))
        check_known(found, (*path, "after"), "cell", command.after, (*KINDS, *names[:number]))
