"""Draw a video's frames or a sound over time, and the norms of its tokens, for the figure of `lmms-steer inspect`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lmms_steer.inspection.measured import MeasuredPrompt
from lmms_steer.models.media import Audio, Frames
from lmms_steer.plots.style import GREY, ROLE_COLOURS

_FRAMES = 8
"""Frames that are drawn, at equal distances."""
_POINTS = 2000
"""Points of a waveform that are drawn."""


def media_kind(inspection: MeasuredPrompt) -> str:
    """`video` or `audio` for a prompt that shows one and no image; else ""."""
    if inspection.media is None or inspection.picture is not None:
        return ""
    return "audio" if isinstance(inspection.media, Audio) else "video"


def draw_media(axes: Any, norm_axes: Any, inspection: MeasuredPrompt) -> None:
    """Draw what is shown into one panel, and |h| of its tokens over time into another."""
    media = inspection.media
    assert media is not None
    # a model that marks a video as images has image tokens instead
    kind = media_kind(inspection)
    kind = kind if kind in inspection.kinds else "image"
    places = [place for place, of in enumerate(inspection.kinds) if of == kind]
    steered = [inspection.steered[place] for place in places]
    axes.set_title(f"{sum(steered)} of {len(places)} {kind} tokens steered")
    if isinstance(media, Frames):
        _draw_frames(axes, media)
        seconds = media.seconds[-1] if media.seconds else 0.0
    else:
        _draw_wave(axes, media)
        seconds = media.seconds
    _draw_norms(norm_axes, [inspection.norms[place] for place in places], steered, seconds or 1.0)
    norm_axes.set(
        title=f"{kind} tokens: |h| at layer {inspection.layer}{inspection.at_site}",
        xlabel="seconds, if tokens are spread evenly",
    )


def _draw_frames(axes: Any, frames: Frames) -> None:
    chosen = np.unique(np.linspace(0, len(frames.images) - 1, min(_FRAMES, len(frames.images))).round().astype(int))
    images = [frames.images[number] for number in chosen]
    height, width = images[0].height, images[0].width
    for place, image in enumerate(images):
        axes.imshow(image, extent=(place, place + 0.95, 0, 0.95 * height / width))
    axes.set(xlim=(0, len(images)), ylim=(0, height / width), yticks=[], aspect="equal")
    axes.set_xticks([place + 0.5 for place in range(len(images))], [f"{frames.seconds[n]:.3g} s" for n in chosen])


def _draw_wave(axes: Any, audio: Audio) -> None:
    step = max(1, len(audio.samples) // _POINTS)
    axes.plot(np.arange(0, len(audio.samples), step) / audio.rate, audio.samples[::step], color=GREY, linewidth=0.7)
    axes.set(xlabel="seconds", ylabel="amplitude", xlim=(0, audio.seconds))


def _draw_norms(axes: Any, norms: Sequence[float], steered: Sequence[bool], seconds: float) -> None:
    if not norms:
        axes.axis("off")
        return
    width = seconds / len(norms)
    colours = [ROLE_COLOURS["steered"] if changed else GREY for changed in steered]
    axes.bar([(number + 0.5) * width for number in range(len(norms))], norms, 0.9 * width, color=colours)
