"""Read the layers of a vision tower at each patch, as the mean over many images.

VTI (arXiv 2410.15778) changes every patch by a direction of its own. The activations of one image are large (a row for
each layer and patch), so only their sum is kept.
"""

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lmms_steer._util.progress import progress_bar
from lmms_steer.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

PATCHES = "patches"
"""The value of `--at` that reads them."""


def read_patches(
    model: Any, inputs_of: Callable[[Sequence[int]], dict[str, Any]], questions: int, batch_size: int
) -> npt.NDArray[np.float32]:
    """The mean output of every layer of the vision tower at every patch, and at a class token if there is one.

    Args:
        model: the multimodal model.
        inputs_of: numbers of questions ▸ their batch, each with one image.
        questions: how many there are.
        batch_size: questions in one forward pass.

    Returns:
        float32 [layers, patches, width].

    Raises:
        UserError: for a model without a known vision tower, or whose tower does not have one row of patches for each
            question, or not as many patches for each.
    """
    import torch

    total: Tensor | None = None
    for start in progress_bar(range(0, questions, batch_size), desc="images", leave=False):
        numbers = range(questions)[start : start + batch_size]
        with _recorded(model) as outputs, torch.inference_mode():
            model(**inputs_of(numbers), logits_to_keep=1)
        for output in outputs:
            if output.dim() != 3 or output.shape[0] != len(numbers):
                raise UserError(
                    f"--at {PATCHES}: the vision tower of this {type(model).__name__} cuts images into tiles, or packs"
                    " them: their patches cannot be told apart"
                )
        # in float64, so that the sum does not depend on the batches
        added = torch.stack([output.double().sum(0) for output in outputs])
        if total is not None and total.shape != added.shape:
            counts = f"{total.shape[1]} and {added.shape[1]}"
            raise UserError(f"--at {PATCHES}: the images have {counts} patches: resize them to one size")
        total = added if total is None else total + added
    assert total is not None
    mean: npt.NDArray[np.float32] = (total / questions).float().cpu().numpy()
    return mean


@contextmanager
def _recorded(model: Any) -> "Iterator[list[Tensor]]":
    """Record the output of each layer of the tower, in a call in which it runs once."""
    from lmms_steer.steering.anatomy import vision_layers
    from lmms_steer.steering.fit import no_vision_tower

    tower = vision_layers(model)
    if tower is None:
        raise no_vision_tower("vision", type(model).__name__)
    outputs: list[Tensor] = []

    def keep(module: Any, args: Any, output: Any) -> None:  # noqa: ARG001
        outputs.append(output[0] if isinstance(output, tuple) else output)

    handles = [layer.register_forward_hook(keep, prepend=True) for layer in tower]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
