"""What a plan costs, as far as it can be told: commands, questions, memory, and the minutes that its like took here."""

from collections import Counter
from collections.abc import Iterator, Sequence

from lmms_steer.data.not_here import absent
from lmms_steer.recipes.cells import Cell
from lmms_steer.recipes.ledger import States
from lmms_steer.recipes.marks import Marks
from lmms_steer.recipes.memory import gigabytes, needed, on_disk
from lmms_steer.recipes.ready import not_here
from lmms_steer.recipes.schema import Recipe


def told(recipe: Recipe, cells: Sequence[Cell], states: States, marks: Marks) -> Iterator[str]:
    """Lines for people."""
    kinds = Counter(cell.kind for cell in cells)
    kept = sum(state["state"] == "kept" for state in states.values())
    yield f"{len(cells)} cells: {', '.join(f'{n} {kind}' for kind, n in kinds.items())}; {kept} are done"
    for kind in ("search", "evaluate"):
        answers = [cell.answers for cell in cells if cell.kind == kind and states[cell.name]["state"] != "kept"]
        if answers and all(answers):
            yield f"{kind}: {sum(filter(None, answers)):,} answers to compute"
    for name, model in recipe.models.items():
        need = needed(model.pretrained, model.args.get("dtype", "auto"))
        size = f"{gigabytes(need)} of weights" if need else "of a size that cannot be told"
        size = size if on_disk(model.pretrained) else absent()
        yield f"{name}: {model.pretrained}, {size}"
    yield from not_here(recipe, [cell for cell in cells if states[cell.name]["state"] != "kept"])
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for cell in cells:
        mark = marks.read(cell.name)
        if mark.get("state") == "done":
            seconds[cell.kind].append(mark["seconds"])
    left = [cell.kind for cell in cells if states[cell.name]["state"] != "kept"]
    if left and all(seconds[kind] for kind in left):
        total = sum(sum(seconds[kind]) / len(seconds[kind]) for kind in left)
        yield f"as long as the same took here so far: {total / 60:.0f} minutes of one worker"
