"""The names in a recipe's studies: concepts and tasks."""

from pathlib import Path
from typing import Any

from lmms_steer import concepts, task_files
from lmms_steer.data.not_here import read_task
from lmms_steer.errors import UserError
from lmms_steer.recipes.mistakes import at, checked, known
from lmms_steer.recipes.schema import Recipe
from lmms_steer.recipes.tree import Tree
from lmms_steer.recipes.words import label
from lmms_steer.search.ranges import is_test

_FILE = (".yaml", ".yml", ".jsonl", ".csv")


def check_studies(recipe: Recipe, found: Tree) -> None:
    if recipe.include_path is not None and not Path(recipe.include_path).is_dir():
        raise at(found, ("include_path",), UserError(f"no such folder of tasks: {recipe.include_path!r}"))
    for name, study in recipe.studies.items():
        path = ("studies", name)
        for concept in study.concepts:
            _check_concept(found, (*path, "concepts"), concept)
        tasks = {"select": (study.select,), "test": study.test, "test_prompted": study.test_prompted or ()}
        for key, names in tasks.items():
            for task in filter(None, names):
                checked(found, (*path, key), task_files.check, task, recipe.include_path)
        if study.select:
            _check_select(found, (*path, "select"), study.select, recipe.include_path)
        if "prompted" in recipe.systems and not study.test_prompted:
            for task in study.test:
                _check_prompted(found, (*path, "test"), f"{task}_prompted", recipe.include_path)
        if (study.select is None) == (study.chosen is None):
            raise at(found, path, UserError(f"study {name}: say either select: TASK or chosen: STUDY"))
        if study.chosen is not None and recipe.chosen_in is None:
            raise at(found, (*path, "chosen"), UserError("chosen: say chosen_in: FOLDER, the recipe that chose"))
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
            raise at(
                found, path, UserError(f"{seen[name]!r} and {concept!r} are both the concept {name!r}: rename one")
            )


def _check_concept(found: Tree, path: tuple[Any, ...], concept: str) -> None:
    if concept.endswith(_FILE):
        if not Path(concept).is_file():
            raise at(found, path, UserError(f"no such concept file: {concept!r}"))
        return
    known(found, path, "concept", [concept], concepts.names())


def _check_select(found: Tree, path: tuple[Any, ...], task: str, include_path: str | None) -> None:
    kind, file = task_files.file_of(task, include_path)
    if kind != "task":
        raise at(found, path, UserError(f"select: {task} is a {kind}: a choice is made on one task"))
    said = read_task(file)
    split = str(said.get("test_split") or said.get("validation_split"))
    if is_test(task, split):
        raise at(
            found, path, UserError(f"select: {task} asks the split {split!r}: choose on held-out questions (…_select)")
        )


def _check_prompted(found: Tree, path: tuple[Any, ...], task: str, include_path: str | None) -> None:
    if task_files.kind(task, include_path) is None:
        wrong = f"the system `prompted` asks {task!r}, and there is no such task: say test_prompted:, or other systems:"
        raise at(found, path, UserError(wrong))
