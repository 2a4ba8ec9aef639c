"""What the demo runs: three tasks, each with a concept's vector and everything that it must be compared with."""

from dataclasses import dataclass
from pathlib import Path

MODEL = "tiny-paligemma2"
BACKBONE = "tiny-gemma2"
CONCEPTS = {"spatial": "spatial", "counting": "counting", "colour": "attribute"}
"""task ▸ the concept whose pooled vector is meant to help with it."""
RANDOM_SEEDS = (1, 2, 3, 4, 5)
STEERED = ("mean_shift", *(f"random-{seed}" for seed in RANDOM_SEEDS))
"""The systems that went through the same choice of layer, alpha and tokens."""
SYSTEMS = ("baseline", "prompted", "calibrated", *STEERED)
SPLITS = {"test": "", "ood": "_ood"}


@dataclass(frozen=True, slots=True)
class Folders:
    """Where a demo keeps its parts."""

    root: Path

    @property
    def vectors(self) -> Path:
        return self.root / "vectors"

    def vector(self, task: str, system: str) -> Path:
        return self.vectors / BACKBONE / CONCEPTS[task] / f"{system}.safetensors"

    def search(self, task: str) -> Path:
        return self.root / "search" / f"{task}.json"

    def bias(self, task: str) -> Path:
        return self.root / "search" / f"{task}_answer_bias.yaml"

    def run(self, task: str, system: str) -> Path:
        return self.root / "runs" / task / system

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
