"""The patches in the figure of `inspect`: a grid where the place of each image token is known, else none."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from PIL import Image

from lmms_steer.inspection.image_grid import image_grid
from lmms_steer.inspection.measured import MeasuredPrompt
from lmms_steer.inspection.prompt_figure import inspection_figure


def measured(grid: tuple[int, int] | None, size: tuple[int, int]) -> MeasuredPrompt:
    count = 17
    return MeasuredPrompt(
        spec="vector=v,layer=1,alpha=1,tokens=image", layer=1, tokens=["t"] * count, kinds=["image"] * 16 + ["text"],
        steered=[number == 5 for number in range(count)], norms=[float(number) for number in range(count)],
        effects=[], added={}, before=[("a", 1.0)], after=[("b", 1.0)],
        compared=[("a", 1.0, 0.0), ("b", 0.0, 1.0)], picture=Image.new("RGB", size), grid=grid,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("grid", "size", "corner"),
    [
        # token 5 is the second one of the second row from above
        ((4, 4), (64, 64), (0.25, 0.5)),
        # PaliGemma squeezes every picture into a square
        ((4, 4), (128, 32), (0.25, 0.5)),
        ((2, 8), (128, 32), (0.625, 0.5)),
    ],
)
def test_each_token_of_an_image_has_its_place(
    grid: tuple[int, int], size: tuple[int, int], corner: tuple[float, float]
) -> None:
    figure = inspection_figure(measured(grid, size))
    (norms,) = [axes for axes in figure.axes if axes.get_title() == "image tokens: |h| at layer 1"]
    (heatmap,) = [one for one in norms.get_children() if isinstance(one, AxesImage)]
    assert np.array_equal(np.asarray(heatmap.get_array()), np.arange(16).reshape(grid))
    (image,) = [axes for axes in figure.axes if axes.get_title() == "1 of 16 image tokens steered"]
    frame = next(one for one in image.patches if isinstance(one, Rectangle))
    assert frame.get_xy() == corner and (frame.get_width(), frame.get_height()) == (1 / grid[1], 1 / grid[0])


def test_tokens_without_a_known_place_are_not_drawn_into_the_image() -> None:
    figure = inspection_figure(measured(None, (64, 64)))
    assert not any(axes.get_title().startswith("image tokens: |h|") for axes in figure.axes)
    (image,) = [axes for axes in figure.axes if axes.get_title().endswith("image tokens steered")]
    assert not image.patches and any(isinstance(one, AxesImage) for one in image.get_children())


def test_the_grid_is_that_of_the_model_s_inputs() -> None:
    config = SimpleNamespace(vision_config=SimpleNamespace(spatial_merge_size=2))
    # Qwen-VL: 252x448 pixels in patches of 14, of which 2x2 are a token
    qwen = {"pixel_values": torch.zeros(576, 1176), "image_grid_thw": torch.tensor([[1, 18, 32]])}
    assert image_grid(qwen, config, 144) == (9, 16)
    assert image_grid({**qwen, "image_grid_thw": torch.tensor([[1, 12, 12]] * 4)}, config, 144) is None
    for shape, tokens, expected in (
        ((1, 3, 224, 224), 256, (16, 16)),
        ((1, 1, 3, 512, 512), 64, (8, 8)),
        ((4, 3, 32, 32), 64, None),
        ((1, 5, 3, 336, 336), 2304, None),
        ((1, 3, 224, 448), 256, None),
        ((1, 3, 224, 224), 15, None),
    ):
        assert image_grid({"pixel_values": torch.zeros(shape)}, config, tokens) == expected
    assert image_grid({}, config, 0) is None
