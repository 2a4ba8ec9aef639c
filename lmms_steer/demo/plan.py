"""The parts of the recipe `tiny`, by the names that the page has for them, and where they are."""

from pathlib import Path

from lmms_steer.recipes.layout import Layout
from lmms_steer.recipes.reader import load, shipped

MODEL = "tiny-paligemma2"
BACKBONE = "tiny-gemma2"
METHOD = "mean_shift"
CONCEPTS = {"spatial": "spatial", "counting": "counting", "colour": "attribute"}
"""task ▸ the concept whose pooled vector is meant to help with it."""
SEEDS = range(5)
RANDOM = tuple(f"{METHOD}-random-{seed}" for seed in SEEDS)
"""The random vectors that went through the same choice of layer, alpha and tokens."""
SYSTEMS = ("baseline", "prompted", "calibrated", METHOD, *RANDOM)
SPLITS = {"test": "", "ood": "_ood"}


class Folders:
    """
    Args:
        root: the recipe's folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        _, recipe = load(str(shipped()["tiny"]))
        self._model, self._at = recipe.models[MODEL], Layout(recipe, root)

    @property
    def tasks(self) -> list[str]:
        """Those that were evaluated: all, unless the recipe was changed."""
        return [task for task in CONCEPTS if self.run(task, "baseline").is_dir()]

    def vector(self, concept: str) -> Path:
        return self._at.vector(self._model, concept, METHOD)

    def search(self, task: str) -> Path:
        return self._at.search(MODEL, task, CONCEPTS[task], METHOD)

    def run(self, task: str, system: str) -> Path:
        return self._at.run(MODEL, task, system)

    @property
    def curve(self) -> Path:
        return self.root / "colour_curve.json"

    @property
    def results(self) -> Path:
        return self.root / "results.json"

    @property
    def page(self) -> Path:
        return self.root / "index.html"


def task_names(task: str, system: str) -> list[str]:
    """The lmms-eval tasks of a system: test and out of distribution."""
    ending = "_prompted" if system == "prompted" else ""
    return [f"tiny_{task}{split}{ending}" for split in SPLITS.values()]
