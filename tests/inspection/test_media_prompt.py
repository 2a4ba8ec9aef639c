"""`inspect` of a prompt with a video or a sound: what is steered, when, and the figure."""

import random
import wave
from pathlib import Path

import av
import numpy as np
import pytest

from lmms_steer import SteeringVectors, inspect
from lmms_steer.inspection.prompt_figure import draw_inspection, inspection_figure
from lmms_steer.tiny_world.moving import WAY, sample_moving
from lmms_steer.tiny_world.sounds import PITCH, RATE, sample_tones


def write_clip(path: Path) -> None:
    """Eight frames in four seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=2)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for frame in sample_moving(random.Random(0)).render():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_tones(path: Path) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((sample_tones(random.Random(0)).render() * 32767).astype(np.int16).tobytes())


@pytest.mark.parametrize(
    ("model", "file", "question", "tokens", "shown"),
    [
        ("tiny-qwen2-vl", "clip.mp4", WAY, 16, "video: 8 frames, from 0 to 3.5 s"),
        ("tiny-qwen2-audio", "tones.wav", PITCH, 25, "audio: 1 s, 40 ms for each token"),
    ],
)
def test_the_tokens_of_a_file_are_shown_with_their_seconds(
    model: str, file: str, question: str, tokens: int, shown: str, tmp_path: Path
) -> None:
    (write_clip if file == "clip.mp4" else write_tones)(tmp_path / file)
    kind = shown.split(":")[0]
    drawn = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    given = {"model": "tiny-qwen2-vl", "concept": "x", "method": "drawn", "n_layers": 4, "hidden_size": 64}
    path = SteeringVectors(dict(enumerate(drawn)), given).save(tmp_path / "v.safetensors")
    args = {"pretrained": model, "vector": path, "layer": 0, "alpha": 1, "tokens": kind}
    seen = inspect(question, args, image=tmp_path / file)
    lines = str(seen).splitlines()
    assert f"  {kind} tokens: {tokens} of {tokens} steered" in lines[2] and "text tokens: 0 of" in lines[3]
    assert lines[4] == f"  {shown}"
    assert f"×{tokens}]" in str(seen)
    figure = inspection_figure(seen)
    titles = [axes.get_title() for axes in figure.axes]
    assert f"{tokens} of {tokens} {kind} tokens steered" in titles and f"{kind} tokens: |h| at layer 0" in titles
    bars = next(axes for axes in figure.axes if axes.get_title().startswith(f"{kind} tokens"))
    assert [bar.get_height() for bar in bars.patches] == pytest.approx(
        [norm for norm, of in zip(seen.norms, seen.kinds, strict=True) if of == kind]
    )
    assert bars.patches[-1].get_x() + bars.patches[-1].get_width() < (3.5 if kind == "video" else 1.0)
    assert draw_inspection(seen, tmp_path / "f.png").stat().st_size > 10_000
