"""The tasks and systems of the recipe `tiny`, and where its cells write their files."""

from pathlib import Path

from lmms_steer.recipes.layout import Layout
from lmms_steer.recipes.loading import load_recipe, shipped_recipes

MODEL = "tiny-paligemma2"
BACKBONE = "tiny-gemma2"
METHOD = "mean_shift"
CONCEPTS = {"spatial": "spatial", "counting": "counting", "colour": "attribute"}
"""Task ▸ the concept whose pooled vector is meant to help with it."""
SEEDS = range(5)
RANDOM = tuple(f"{METHOD}-random-{seed}" for seed in SEEDS)
"""The random vectors, for which layer, alpha and tokens are chosen in the same way."""
SYSTEMS = ("baseline", "prompted", "calibrated", METHOD, *RANDOM)
SPLITS = {"test": "", "ood": "_ood"}
"""Split ▸ the suffix of its lmms-eval tasks."""


class Folders:
    """The files below the recipe's folder.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        _, recipe = load_recipe(str(shipped_recipes()["tiny"]))
        self._model, self._layout = recipe.models[MODEL], Layout(recipe, root)

    @property
    def tasks(self) -> list[str]:
        """The tasks that were evaluated: all, unless the recipe was changed."""
        return [task for task in CONCEPTS if self.run(task, "baseline").is_dir()]

    def vector(self, concept: str) -> Path:
        """The file of a concept's vector."""
        return self._layout.vector(self._model, concept, METHOD)

    def search(self, task: str) -> Path:
        """The study of a task."""
        return self._layout.search(MODEL, task, CONCEPTS[task], METHOD)

    def run(self, task: str, system: str) -> Path:
        """The logs of a system on a task."""
        return self._layout.run(MODEL, task, system)

    @property
    def curve(self) -> Path:
        """The colour curve."""
        return self.root / "colour_curve.json"

    @property
    def results(self) -> Path:
        """The rows of the table."""
        return self.root / "results.json"

    @property
    def page(self) -> Path:
        """The page."""
        return self.root / "index.html"


def task_names(task: str, system: str) -> list[str]:
    """Return the lmms-eval tasks of a system, one for each of `SPLITS`."""
    suffix = "_prompted" if system == "prompted" else ""
    return [f"tiny_{task}{split}{suffix}" for split in SPLITS.values()]
