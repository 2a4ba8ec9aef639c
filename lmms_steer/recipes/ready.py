"""What a plan reads that is not on this disk: datasets, and the choices of another recipe."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from lmms_steer.data import not_here as datasets
from lmms_steer.recipes.cells import Cell
from lmms_steer.recipes.schema import Recipe

FEW = 2
"""Tasks that a line names."""


def not_here(recipe: Recipe, cells: Sequence[Cell]) -> Iterator[str]:
    """Lines for people; nothing is fetched or loaded."""
    lines: dict[str, list[str]] = {}
    for task in dict.fromkeys(_tasks(recipe)):
        for line in dict.fromkeys(datasets.not_here(task, recipe.include_path)):
            lines.setdefault(line, []).append(task)
    for line, tasks in lines.items():
        more = f" and {len(tasks) - FEW} more" if len(tasks) > FEW else ""
        yield f"{', '.join(tasks[:FEW])}{more}: {line}"
    lost = list(dict.fromkeys(path for cell in cells if (path := lacks(cell))))
    if lost:
        first = f"run the recipe of {recipe.chosen_in} before this one" if recipe.chosen_in else "make them first"
        yield f"WARNING: {len(lost)} files that its cells read are not there (the first is {lost[0]}): {first}"


def lacks(cell: Cell) -> str | None:
    """The first file that it reads, and no cell makes, that is not there."""
    return next((path for path in cell.reads if not Path(path).exists()), None)


def _tasks(recipe: Recipe) -> Iterator[str]:
    for study in recipe.studies.values():
        yield from filter(None, (study.select, *study.test))
