"""The grid, as the command line writes it."""

import math
import re

from lmms_steer.errors import UserError, unknown
from lmms_steer.spec import TOKENS


def layer_range(text: str, n_layers: int | None = None) -> tuple[int, ...]:
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


def alpha_range(text: str) -> tuple[float, ...]:
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


def token_targets(text: str) -> tuple[str, ...]:
    """`image,text,both` ▸ targets.

    Raises:
        UserError: for a target that a search does not take.
    """
    targets = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for target in targets:
        if target not in TOKENS:
            raise unknown("token target", target, TOKENS)
    return targets


def refuse_test(task: str, split: str, known: bool) -> None:
    """Choosing on the questions that a result is then reported on makes the result worthless.

    Raises:
        UserError: for a task of a test split, unless the user says that it is known.
    """
    if not known and is_test(task, split):
        raise UserError(
            f"{task} asks the split {split!r}: choose on held-out questions (…_select), or say --i-know-this-is-test"
        )


def is_test(task: str, split: str) -> bool:
    """Whether results are reported on a task's questions, by its name and its split's."""
    held_out = re.search(r"(?:^|_)select(?:_|$)", task) is not None
    return not held_out and ("test" in split.lower() or re.search(r"(?:^|_)test(?:_|$)", task) is not None)
