"""What `lmms-steer search` is told.

The grid, as the command line writes it.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from lmms_steer.errors import UserError, unknown_name
from lmms_steer.steering.intervention import TOKENS

STRATEGIES = ("grid", "race", "screen", "race+screen", "tpe")
SCORES = ("auto", "letters", "generate")
MIN_QUESTIONS = 2
"""Fewer questions than this have no spread."""


@dataclass(frozen=True, slots=True)
class SearchOptions:
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
                raise unknown_name(name, value, known)
        if self.limit is not None and self.limit < MIN_QUESTIONS:
            raise UserError(f"--limit {self.limit}: a search needs {MIN_QUESTIONS} questions at least")
        if self.memory < 0:
            raise UserError(f"--memory {self.memory:g}: expected GiB, from 0 up")


def parse_layers(text: str, n_layers: int | None = None) -> tuple[int, ...]:
    """`5-20`, `3`, `0-8:2`, `1,4,7` ▸ layers; `n_layers` is how many the model has, where that is known.

    Raises:
        UserError: for anything else, or layers that the model has not.
    """
    layers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+)(?::(\d+))?)?\s*", part)
        if match is None or (match[3] and int(match[3]) == 0):
            raise UserError(f"--layers {text}: expected layers such as 5-20, 0-24:4 or 3,7")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UserError(f"--layers {text}: {part.strip()} runs backwards")
        layers += range(first, last + 1, int(match[3] or 1))
    if n_layers is not None and max(layers) >= n_layers:
        raise UserError(f"--layers {text}: the model has the layers 0-{n_layers - 1}")
    return tuple(dict.fromkeys(layers))


def parse_alphas(text: str) -> tuple[float, ...]:
    """`0.1:1.0:0.1` (first:last:step) or `0.5,1,2` ▸ strengths.

    Raises:
        UserError: for anything else, or nothing but 0.
    """
    try:
        if ":" in text:
            first, last, step = map(float, text.split(":"))
            if (last - first) / step < 0:
                raise UserError(f"--alphas {text}: a step of {step:g} does not lead from {first:g} to {last:g}")
            count = int((last - first) / step + 1e-9) + 1
            alphas = [round(first + i * step, 10) for i in range(count)]
        else:
            alphas = [float(part) for part in text.split(",")]
    except UserError:
        raise
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise UserError(f"--alphas {text}: expected first:last:step, as in 0.1:1.0:0.1, or a list") from error
    if not all(map(math.isfinite, alphas)):
        raise UserError(f"--alphas {text}: strengths are finite numbers")
    acting = tuple(dict.fromkeys(alpha for alpha in alphas if alpha != 0))
    if not acting:
        raise UserError(f"--alphas {text}: a strength of 0 is the baseline, there is nothing to search")
    return acting


def parse_targets(text: str) -> tuple[str, ...]:
    """`image,text,both` ▸ targets.

    Raises:
        UserError: for a target that a search does not take.
    """
    targets = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for target in targets:
        if target not in TOKENS:
            raise unknown_name("token target", target, TOKENS)
    return targets


def refuse_test(task: str, split: str, known: bool) -> None:
    """Choosing on the questions that a result is then reported on makes the result worthless.

    Raises:
        UserError: for a task of a test split, unless the user says that it is known.
    """
    if not known and is_test_task(task, split):
        raise UserError(
            f"{task} asks the split {split!r}: choose on held-out questions (…_select), or say --i-know-this-is-test"
        )


def is_test_task(task: str, split: str) -> bool:
    """Whether results are reported on a task's questions, by its name and its split's."""
    held_out = re.search(r"(?:^|_)select(?:_|$)", task) is not None
    return not held_out and ("test" in split.lower() or re.search(r"(?:^|_)test(?:_|$)", task) is not None)
