"""The patches in the figure of `inspect`: a grid where the place of each image token is known, else none."""

import numpy as np
import pytest
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from PIL import Image

from lmms_steer.inspection.measured import MeasuredPrompt
from lmms_steer.inspection.prompt_figure import inspection_figure


def measured(kinds: list[str], size: tuple[int, int]) -> MeasuredPrompt:
    count = len(kinds)
    return MeasuredPrompt(
        spec="vector=v,layer=1,alpha=1,tokens=image", layer=1, tokens=["t"] * count, kinds=kinds,
        steered=[number == 5 for number in range(count)], norms=[float(number) for number in range(count)],
        effects=[], added={}, before=[("a", 1.0)], after=[("b", 1.0)], picture=Image.new("RGB", size),
    )  # fmt: skip


def test_each_patch_of_a_square_image_has_its_place() -> None:
    figure = inspection_figure(measured(["image"] * 16 + ["text"], (64, 64)))
    (norms,) = [axes for axes in figure.axes if axes.get_title() == "image tokens: |h| at layer 1"]
    (heatmap,) = [one for one in norms.get_children() if isinstance(one, AxesImage)]
    assert np.asarray(heatmap.get_array()).tolist() == [[4 * row + column for column in range(4)] for row in range(4)]
    (image,) = [axes for axes in figure.axes if axes.get_title() == "1 of 16 image tokens steered"]
    frame = next(one for one in image.patches if isinstance(one, Rectangle))
    # token 5 is the second one of the second row from above
    assert frame.get_xy() == (0.25, 0.5)


@pytest.mark.parametrize(
    ("kinds", "size"),
    [
        (["image"] * 16, (128, 32)),
        (["image"] * 8 + ["text"] + ["image"] * 8, (64, 64)),
        (["image"] * 15, (64, 64)),
    ],
    ids=["not square", "two images", "tiles"],
)
def test_tokens_without_a_known_place_are_not_drawn_into_the_image(kinds: list[str], size: tuple[int, int]) -> None:
    figure = inspection_figure(measured([*kinds, "text"], size))
    assert not any(axes.get_title().startswith("image tokens: |h|") for axes in figure.axes)
    (image,) = [axes for axes in figure.axes if axes.get_title().endswith("image tokens steered")]
    assert not image.patches and any(isinstance(one, AxesImage) for one in image.get_children())
