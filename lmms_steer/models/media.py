"""Videos and sounds of a task's questions: read from files, and sampled or resampled to what a processor wants.

Files are decoded by PyAV, which lmms-eval requires. This module imports no torch.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from math import gcd
from typing import Any

import numpy as np
from PIL import Image

from lmms_steer.errors import UserError, first_line

MAX_FRAMES = 32
"""Frames of a video for processors that choose none themselves."""
MAX_SECONDS = 24 * 3600
"""Longest sound or video that is read."""
_GREY = (128, 128, 128)
"""The colour of a blank image: the middle of the range, so that no processor's normalisation makes it extreme."""


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames of a video with their times.

    Attributes:
        images: RGB.
        seconds: when each is shown.
        total: the number of frames of the whole video.
        rate: frames a second of the whole video.
    """

    images: list[Image.Image]
    seconds: list[float]
    total: int
    rate: float

    @property
    def numbers(self) -> list[int]:
        """The number of each frame in the whole video."""
        return [round(second * self.rate) for second in self.seconds]


@dataclass(frozen=True, slots=True)
class Video:
    """A video file, or a part of one.

    Attributes:
        path: the file.
        start, end: the part in seconds; by default all of it.
        blank: whether every frame is replaced by a grey one.
    """

    path: str
    start: float = 0.0
    end: float | None = None
    blank: bool = False

    def read(self, choose: Callable[[int, float], Sequence[int]]) -> Frames:
        """Decode the chosen frames.

        Args:
            choose: for the number of frames and the frames a second, the numbers of the frames to show, in order.

        Raises:
            UserError: for a file that has no frames, or cannot be decoded.
        """
        with _opened(self.path) as container:
            stream = _stream(container, "video", self.path)
            rate = float(stream.average_rate or stream.guessed_rate or 1)
            whole = int(stream.frames) or _count(container, stream)
            first = round(self.start * rate)
            last = whole if self.end is None else min(round(self.end * rate), whole)
            if last <= first:
                raise UserError(f"{self.path!r} has no frames" + (f" from {self.start:g} s on" if self.start else ""))
            chosen = [first + int(number) for number in choose(last - first, rate)]
            # they may have been counted
            container.seek(0)
            images = dict(_decoded(container, stream, set(chosen)))
        # a container may promise more frames than it has
        numbers = [number for number in chosen if number in images]
        if not numbers:
            raise UserError(f"{self.path!r} has no frames that can be decoded")
        shown = [grey_image(images[number].size) if self.blank else images[number] for number in numbers]
        return Frames(shown, [(number - first) / rate for number in numbers], last - first, rate)


@dataclass(frozen=True, slots=True, eq=False)
class Audio:
    """A sound.

    Attributes:
        samples: float32 [samples], one channel.
        rate: samples a second.
    """

    samples: np.ndarray = field(repr=False)
    rate: int

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.samples) / self.rate

    def at(self, rate: int) -> np.ndarray:
        """The samples at another rate, float32, by a polyphase filter."""
        if rate == self.rate:
            return self.samples
        from scipy.signal import resample_poly

        common = gcd(rate, self.rate)
        resampled: np.ndarray = resample_poly(self.samples, rate // common, self.rate // common)
        return resampled.astype(np.float32)


def audio_of(samples: Any, rate: Any, where: str) -> Audio:
    """A sound from its samples: [samples], or several channels, of which the mean is taken.

    Raises:
        UserError: for samples that are no sound, or a rate that is no whole number.
    """
    array = np.asarray(samples)
    if not isinstance(rate, int | np.integer) or rate < 1:
        raise UserError(f"{where} gives audio with sampling_rate={rate!r}: expected a number of samples a second")
    if array.ndim not in (1, 2) or not array.size or array.dtype.kind not in "fiu":
        raise UserError(f"{where} gives audio of shape {list(array.shape)}: expected samples")
    if array.dtype.kind in "iu":
        array = array / float(np.iinfo(array.dtype).max)
    if array.ndim == 2:
        # channels are few, samples many
        array = array.mean(int(np.argmin(array.shape)))
    if len(array) > MAX_SECONDS * int(rate) or not np.isfinite(array).all():
        raise UserError(f"{where} gives audio that is longer than a day, or not finite")
    return Audio(array.astype(np.float32), int(rate))


def read_file(source: str | bytes) -> "Video | Audio":
    """A file by what it contains: a video if it has frames that move, or else a sound.

    Args:
        source: the path, or the content of a sound file.

    Raises:
        UserError: for a file with neither.
    """
    name = source if isinstance(source, str) else "the audio"
    with _opened(source) as container:
        if isinstance(source, str) and any(_moves(one) for one in container.streams.video):
            return Video(source)
        stream = _stream(container, "audio", name)
        return audio_of(np.concatenate(list(_mono(container, stream, name))), int(stream.rate), name)


@contextmanager
def _opened(source: str | bytes) -> Iterator[Any]:
    import av

    name = repr(source) if isinstance(source, str) else "the audio"
    try:
        with av.open(source if isinstance(source, str) else io.BytesIO(source)) as container:
            yield container
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UserError(f"cannot read {name}: {first_line(error)}") from error


def _moves(stream: Any) -> bool:
    """Whether a video stream is one, and not the cover of a record."""
    import av

    return bool(stream.average_rate) and not stream.disposition & av.stream.Disposition.attached_pic


def _stream(container: Any, kind: str, name: str) -> Any:
    found = getattr(container.streams, kind)
    if not found:
        raise UserError(f"{name!r} has no {'frames' if kind == 'video' else 'sound'}")
    return found[0]


def _count(container: Any, stream: Any) -> int:
    """The number of frames, where a container does not say."""
    return sum(1 for _ in container.decode(stream))


def _decoded(container: Any, stream: Any, wanted: set[int]) -> Iterator[tuple[int, Image.Image]]:
    end = max(wanted)
    for number, frame in enumerate(container.decode(stream)):
        if number in wanted:
            yield number, frame.to_image()
        if number >= end:
            return


def _mono(container: Any, stream: Any, name: str) -> Iterator[np.ndarray]:
    import av

    # FFmpeg's own mono is louder than the mean of the channels
    to_float = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
    read = 0
    for frame in container.decode(stream):
        for part in to_float.resample(frame):
            yield part.to_ndarray().mean(0)
            read += part.samples
        if read > MAX_SECONDS * stream.rate:
            raise UserError(f"{name!r} is longer than a day")
    yield np.zeros(0, np.float32)


@lru_cache(maxsize=64)
def grey_image(size: tuple[int, int]) -> Image.Image:
    """A blank image."""
    return Image.new("RGB", size, _GREY)
