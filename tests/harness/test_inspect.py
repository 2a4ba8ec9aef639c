"""`lmms-steer inspect`: which tokens of a prompt are steered, and what is done to them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lmms_steer import SteeringVectors, UserError
from lmms_steer.harness.steered import create_model
from lmms_steer.inspection.prompt import inspect_prompt, inspection_lines
from lmms_steer.models.visuals import open_image
from lmms_steer.vectors import store
from tests.helpers import warm


def inspected(*args: str) -> Any:
    return warm.run("lmms-steer", "inspect", "--prompt", "what colour is the square ?", *args)


@pytest.mark.slow
def test_inspect_shows_which_tokens_are_steered(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 80).save(tmp_path / "x.png")
    spec = "pretrained=tiny-paligemma2,vector=colour-red,layer=0,alpha=1,tokens=image"
    done = inspected("--model_args", spec, "--image", str(tmp_path / "x.png"), "--plot", str(tmp_path / "p.png"))
    assert done.returncode == 0, done.stderr
    assert "image tokens: 16 of 16 steered" in done.stdout and "text tokens: 0 of" in done.stdout
    assert "[<image>×16] <bos> what colour" in done.stdout
    vector = SteeringVectors.load(store.find("tiny-gemma2/colour-red", None).path)
    norm = float(np.linalg.norm(vector[0]))
    assert f"layer 0, image: {norm:.4g} along v is added\n" in done.stdout
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    x = [open_image(tmp_path / "x.png")]
    for args, expected in (
        (spec.replace("image", "last"), ("image tokens: 0 of 16 steered", "text tokens: 1 of")),
        ("pretrained=tiny-paligemma2", ("none (the baseline)", "nothing is done", "image tokens: 0 of 16 steered")),
        (f"{spec},operation=rotate,gamma_image=0.3", ("layer 0, image: turned by 0.3 radians towards v\n",)),
        (f"{spec},operation=ablate", ("layer 0, image: 1 times the component along v is removed\n",)),
        (f"{spec},operation=clamp,scale=unit,gamma_image=-2", ("image: the component along v becomes -2\n",)),
        (f"{spec},operation=norm_preserving", (f"image: {norm:.4g} along v is added, then |h| is restored\n",)),
        (
            spec.replace("image", "both") + ",gamma_text=0.5",
            (f"image: {norm:.4g} along v is added; text: {norm / 2:.4g} along v is added\n",),
        ),
    ):
        printed = "\n".join(
            inspection_lines(inspect_prompt(create_model("steered_paligemma", args), x, "what colour is the square ?"))
        )
        assert all(text in printed for text in expected)
    (tmp_path / "x.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="cannot open the image .*: it is not an image of a known format"):
        open_image(tmp_path / "x.png")
    with pytest.raises(UserError, match=r"cannot open the image '[^']*none.png': No such file or directory$"):
        open_image(tmp_path / "none.png")
    with pytest.raises(UserError, match="unknown model 'steered_nothing'"):
        create_model("steered_nothing", spec)
