"""Where the recipe `tiny` keeps its parts."""

from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True, slots=True)
class Folders:
    """A recipe's folder."""

    root: Path

    @property
    def tasks(self) -> list[str]:
        """Those that were evaluated: all, unless the recipe was changed."""
        return [task for task in CONCEPTS if self.run(task, "baseline").is_dir()]

    def vector(self, concept: str) -> Path:
        return self.root / "vectors" / BACKBONE / concept / f"{METHOD}.safetensors"

    def search(self, task: str) -> Path:
        return self.root / "search" / MODEL / task / f"{CONCEPTS[task]}-{METHOD}"

    def run(self, task: str, system: str) -> Path:
        return self.root / "runs" / MODEL / task / system

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
