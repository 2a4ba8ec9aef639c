"""Image settings, with image processors of transformers: what they say of a picture afterwards."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import transformers as tf
from PIL import Image

from lmms_steer import UserError
from lmms_steer.models.loading import configure_images

IN_PIXELS = ["Qwen2VLImageProcessor", "Glm4vImageProcessor", "PaddleOCRVLImageProcessor"]


def pixels(images: Any, width: int, height: int) -> int:
    """How many pixels of a picture are left, by the patches that the processor makes of it."""
    found = images(images=[Image.new("RGB", (width, height))], return_tensors="pt")
    side: int = images.patch_size
    return int(found["image_grid_thw"].prod()) * side * side


@pytest.mark.parametrize("name", IN_PIXELS)
def test_limits_on_pixels_are_set_where_the_size_holds_them(name: str) -> None:
    images = getattr(tf, name)()
    low = dict(images.size)["shortest_edge"]
    assert pixels(images, 800, 600) > 400_000
    configure_images(SimpleNamespace(image_processor=images), {"max_pixels": 160_000})
    # GLM-4V counts a picture as two frames
    assert 60_000 < pixels(images, 800, 600) <= 160_000
    assert dict(images.size) == {"shortest_edge": low, "longest_edge": 160_000}
    configure_images(SimpleNamespace(image_processor=images), {"min_pixels": 60_000})
    assert 25_000 < pixels(images, 60, 50) < 100_000
    assert dict(images.size) == {"shortest_edge": 60_000, "longest_edge": 160_000}
    for settings in ({"min_pixels": 170_000}, {"min_pixels": 90_000, "max_pixels": 70_000}):
        with pytest.raises(UserError, match=r"min_pixels=\d+ is larger than max_pixels=\d+: no image has such a size"):
            configure_images(SimpleNamespace(image_processor=copy.deepcopy(images)), settings)


@pytest.mark.parametrize("name", IN_PIXELS)
def test_a_size_is_refused_where_pixels_are_limited(name: str) -> None:
    with pytest.raises(UserError, match=f"size=448: a {name} limits the number of pixels: give max_pixels"):
        configure_images(SimpleNamespace(image_processor=getattr(tf, name)()), {"size": 448})
    with pytest.raises(UserError, match="max_pixels=many: expected a whole number"):
        configure_images(SimpleNamespace(image_processor=getattr(tf, name)()), {"max_pixels": "many"})


@pytest.mark.parametrize("name", ["Idefics3ImageProcessor", "PixtralImageProcessor"])
def test_other_processors_have_a_longest_edge_and_no_limit_on_pixels(name: str) -> None:
    processor = SimpleNamespace(image_processor=getattr(tf, name)())
    configure_images(processor, {"size": 448})
    assert processor.image_processor.size["longest_edge"] == 448
    with pytest.raises(UserError, match=f"max_pixels=9: a {name} has no such setting"):
        configure_images(processor, {"max_pixels": 9})


def test_image_splitting_is_on_or_off() -> None:
    processor = SimpleNamespace(image_processor=tf.Idefics2ImageProcessor())
    configure_images(processor, {"do_image_splitting": True})
    assert processor.image_processor.do_image_splitting is True
    with pytest.raises(UserError, match="do_image_splitting=no: expected True or False"):
        configure_images(processor, {"do_image_splitting": "no"})


@pytest.mark.parametrize(("size", "kept"), [(500, (500, 378)), (300, (300, 300))])
def test_a_shorter_edge_that_a_processor_needs_is_kept(size: int, kept: tuple[int, int]) -> None:
    images = tf.Idefics2ImageProcessor(do_image_splitting=False)
    configure_images(SimpleNamespace(image_processor=images), {"size": size})
    found = images(images=[Image.new("RGB", (2000, 1000))], return_tensors="pt")
    assert tuple(found["pixel_values"].shape[-2:]) == kept[::-1]
