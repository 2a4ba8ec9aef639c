"""What `lmms-steer search` is told."""

from dataclasses import dataclass
from pathlib import Path

from lmms_steer.errors import UserError, unknown

STRATEGIES = ("grid", "race", "screen", "race+screen", "tpe")
SCORES = ("auto", "letters", "generate")
FEWEST = 2
"""Fewer questions than this have no spread."""


@dataclass(frozen=True, slots=True)
class Options:
    """
    Attributes:
        model, model_args: as of lmms-eval, of the unsteered model.
        vectors: names or files.
        task: held-out questions.
        include_path: the user's own folder of tasks.
        output: the study's folder.
        layers, alphas, tokens: the grid, as typed; no layers are all layers.
        strategy: one of `STRATEGIES`.
        score: `generate` (the model writes, the task scores), `letters` (the likeliest of a fixed set of answers is
            taken), or `auto`: what the task does.
        controls: random vectors that are searched alike.
        trials: of each vector, for `tpe`.
        seed: of the questions' order and of proposals.
        batch_size: questions a base pass.
        memory: GiB of a base pass to hold; what is beyond it goes to the study's folder.
        limit: the first questions only.
        confirm: a task to measure the choices on, once.
        test_known: choose on test questions.
        keep: keep a winner's layer, alpha and tokens where a spec that names its vector alone finds them.
    """

    model: str
    model_args: str
    vectors: tuple[str, ...]
    task: str
    output: Path
    layers: str = ""
    alphas: str = "0.1:1.0:0.1"
    tokens: str = "image,text,both"
    strategy: str = "grid"
    score: str = "auto"
    controls: int = 5
    trials: int = 64
    seed: int = 0
    batch_size: int = 16
    memory: float = 4.0
    limit: int | None = None
    confirm: str | None = None
    test_known: bool = False
    include_path: Path | None = None
    keep: bool = False

    @property
    def names(self) -> list[str]:
        """The vectors, each with its controls, as cells name them."""
        controls = [f"control=random:{seed}" for seed in range(self.controls)]
        return [name for vector in self.vectors for name in (vector, *(f"{vector},{one}" for one in controls))]

    def __post_init__(self) -> None:
        object.__setattr__(self, "vectors", tuple(dict.fromkeys(self.vectors)))
        for value, known, name in ((self.strategy, STRATEGIES, "strategy"), (self.score, SCORES, "score")):
            if value not in known:
                raise unknown(name, value, known)
        if self.limit is not None and self.limit < FEWEST:
            raise UserError(f"--limit {self.limit}: a search needs {FEWEST} questions at least")
        if self.memory < 0:
            raise UserError(f"--memory {self.memory:g}: expected GiB, from 0 up")
