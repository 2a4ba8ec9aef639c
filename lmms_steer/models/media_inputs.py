"""What a chat template is given for images, videos and sounds: frames and samples as the processor wants them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image
from transformers.video_utils import VideoMetadata

from lmms_steer.errors import UserError
from lmms_steer.models.media import MAX_FRAMES, Audio, Frames, Video
from lmms_steer.models.visuals import Visual

logger = logging.getLogger(__name__)

_NOT_FOR_SAMPLING = ("input_data_format", "do_convert_rgb", "do_sample_frames", "device", "video_metadata")
"""Settings of a video processor that it does not pass to its own `sample_frames`."""


@dataclass(frozen=True, slots=True)
class MediaInputs:
    """The media of a batch.

    Attributes:
        contents: of each question, a part of its message for each visual.
        options: for the processor.
    """

    contents: list[list[dict[str, Any]]]
    options: dict[str, Any]


def media_inputs(processor: Any, visuals: Sequence[Sequence[Visual]]) -> MediaInputs:
    """Read and sample the videos of a batch, and resample its sounds.

    Args:
        processor: the model's.
        visuals: of each question.

    Raises:
        UserError: for an image, a video or a sound that the model does not take, or that cannot be decoded.
    """
    contents: list[list[dict[str, Any]]] = []
    metadata: list[list[VideoMetadata]] = []
    for own in visuals:
        contents.append([])
        metadata.append([])
        for visual in own:
            if isinstance(visual, Image.Image):
                # the chat template of a model that only hears leaves an image out without a word
                if getattr(processor, "image_processor", None) is None and audio_rate(processor) is not None:
                    raise UserError(f"a {type(processor).__name__} takes no images")
                contents[-1].append({"type": "image", "image": visual})
            elif isinstance(visual, Audio):
                contents[-1].append({"type": "audio", "audio": _samples(processor, visual)})
            else:
                frames = video_frames(processor, visual)
                contents[-1].append({"type": "video", "video": np.stack([np.asarray(one) for one in frames.images])})
                metadata[-1].append(_metadata(frames))
    # the frames are chosen already
    options = {"video_metadata": metadata, "do_sample_frames": False} if any(metadata) else {}
    return MediaInputs(contents, options)


def video_frames(processor: Any, video: Video | list[Image.Image]) -> Frames:
    """The frames of a video that a model is shown.

    Of a file, those that the processor's own sampling chooses; for a processor that has none, `MAX_FRAMES` at equal
    distances. Frames that a task gives are all shown, as if they were sampled at the processor's rate.

    Raises:
        UserError: for a model that takes no videos, or a file that cannot be decoded.
    """
    videos = getattr(processor, "video_processor", None)
    if videos is None:
        raise UserError(f"a {type(processor).__name__} takes no videos")
    if isinstance(video, Video):
        return video.read(lambda count, rate: _chosen(videos, count, rate))
    rate = float(getattr(videos, "fps", None) or 1)
    return Frames(video, [number / rate for number in range(len(video))], len(video), rate)


def audio_rate(processor: Any) -> int | None:
    """The samples a second that a processor wants; None for one that takes no audio."""
    hears = getattr(processor, "feature_extractor", None) or getattr(processor, "audio_processor", None)
    return int(getattr(hears, "sampling_rate", 16000)) if hears is not None else None


def _samples(processor: Any, audio: Audio) -> np.ndarray:
    rate = audio_rate(processor)
    if rate is None:
        raise UserError(f"a {type(processor).__name__} takes no audio")
    if audio.rate != rate:
        _note_resampled(audio.rate, rate)
    return audio.at(rate)


@lru_cache(maxsize=16)
def _note_resampled(given: int, wanted: int) -> None:
    logger.info("audio of %d samples a second is resampled to the model's %d", given, wanted)


def _metadata(frames: Frames) -> VideoMetadata:
    return VideoMetadata(
        total_num_frames=frames.total,
        fps=frames.rate,
        duration=frames.total / frames.rate,
        frames_indices=frames.numbers,
    )


def _chosen(videos: Any, count: int, rate: float) -> list[int]:
    """The frames that a video processor would choose of a video of `count` frames."""
    settings = {
        name: getattr(videos, name, None)
        for name in videos.valid_kwargs.__annotations__
        if name not in _NOT_FOR_SAMPLING
    }
    if not getattr(videos, "do_sample_frames", False) or not (settings.get("fps") or settings.get("num_frames")):
        return [int(number) for number in np.linspace(0, count - 1, min(count, MAX_FRAMES)).round()]
    if settings.get("num_frames"):
        settings["num_frames"] = min(settings["num_frames"] or count, count)
    metadata = VideoMetadata(total_num_frames=count, fps=rate, duration=count / rate)
    return [int(number) for number in videos.sample_frames(metadata=metadata, **settings)]
