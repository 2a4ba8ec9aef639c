"""What a plan reads that is not on this disk: datasets, and the choices of another recipe."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from lmms_steer.backbones import backbone_checkpoint, sae_of
from lmms_steer.data import not_here as datasets
from lmms_steer.recipes import words
from lmms_steer.recipes.cells import Cell
from lmms_steer.recipes.memory import on_disk
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
    yield from _extractions(recipe, cells)
    lost = list(dict.fromkeys(path for cell in cells if (path := lacks(cell))))
    if lost:
        first = _how(recipe.chosen_in) if recipe.chosen_in else "make them first"
        yield f"WARNING: {len(lost)} files that its cells read are not there (the first is {lost[0]}): {first}"


def _how(chosen_in: str) -> str:
    """What to do for choices of another recipe; a run of it with an override lies in a folder of its own."""
    folder = Path(chosen_in)
    others = [path for path in sorted(folder.parent.glob(f"{folder.name}-*")) if path.is_dir()]
    instead = f", or say --set chosen_in={others[0]}" if others else ""
    return f"run the recipe of {chosen_in} before this one{instead}"


def _extractions(recipe: Recipe, cells: Sequence[Cell]) -> Iterator[str]:
    if not any(cell.kind == "extract" for cell in cells):
        return
    for backbone in dict.fromkeys(map(words.backbone, recipe.models.values())):
        full = backbone_checkpoint(backbone)
        if not on_disk(full):
            yield f"the backbone {full} is {datasets.absent()}"
        for saes in {settings.sae or sae_of(backbone) for name, settings in recipe.methods.items() if "sae" in name}:
            if saes and not Path(saes).exists():
                yield f"{backbone}'s SAEs come from {saes}, fetched where they are not on this disk"
    judges = {settings.judge or "llm" for name, settings in recipe.methods.items() if name.startswith("sae")}
    if "llm" in judges and not os.environ.get("OPENAI_API_KEY"):
        yield "WARNING: OPENAI_API_KEY is not set: SAE features will be taken unchecked; set it, or say judge: none"


def lacks(cell: Cell) -> str | None:
    """The first file that it reads, and no cell makes, that is not there."""
    return next((path for path in cell.reads if not Path(path).exists()), None)


def _tasks(recipe: Recipe) -> Iterator[str]:
    for study in recipe.studies.values():
        yield from filter(None, (study.select, *study.test))
