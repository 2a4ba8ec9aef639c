"""Check the images, videos and sounds of a task's questions, and give each an id by its content.

This module imports no torch.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from lmms_steer.errors import UserError, first_line, reason, shorten
from lmms_steer.models.media import Audio, Video, audio_of, grey_image, read_file

Visual = Image.Image | list[Image.Image] | Video | Audio
"""An image, the frames of a video, a video file, or a sound."""
_MEDIA_SUFFIXES = frozenset(".avi .flac .m4a .mkv .mov .mp3 .mp4 .mpeg .mpg .oga .ogg .opus .wav .webm".split())
_IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_HASHED = 1 << 20
"""Bytes at the start and at the end of a video's file that its id depends on."""
shown_images: dict[tuple[str, int], list[str]] = {}
"""(task, doc_id) ▸ ids of a question's images in this process's evaluation; with `image=blank`, of those before.

lmms-eval's logs hold no images, so the models record them here.
"""


def prepare_visuals(visuals: Any, where: str) -> list[Visual]:
    """The visuals of one question: images converted to RGB, sounds read.

    Args:
        visuals: the return value of `doc_to_visual`: what `_prepare` takes, or nothing.
        where: the task and document, for error messages.

    Raises:
        UserError: for a truncated image, or a value that is no image, video or sound.
    """
    return [_prepare(visual, where) for visual in visuals or []]


@contextmanager
def naming_decoders(where: str) -> Iterator[None]:
    """Explain what is missing when a row of datasets cannot be decoded.

    Args:
        where: the task and document.

    Raises:
        UserError: for a decoder that is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise UserError(f"{where}: {first_line(error)} (pip install 'lmms-eval[video]')") from error


def _prepare(visual: Any, where: str) -> Visual:
    """One visual, in any form in which lmms-eval's tasks give it.

    An image; frames, in a list or as an array [frames, height, width, 3]; a path; a mapping of `type` and the value,
    with `video_start` and `video_end` for a part of a video; a decoder of datasets; or samples with `sampling_rate`.
    """
    if isinstance(visual, Image.Image):
        return _to_rgb(visual, where)
    if isinstance(visual, Video | Audio):
        return visual
    if isinstance(visual, str | Path):
        return _from_file(str(visual), where)
    if isinstance(visual, list | tuple | np.ndarray) and _are_frames(visual):
        return [_to_rgb(frame if isinstance(frame, Image.Image) else _image(frame, where), where) for frame in visual]
    if isinstance(visual, dict):
        return _from_mapping(visual, where)
    if hasattr(visual, "get_all_samples"):
        # a torchcodec AudioDecoder, as datasets returns it
        sound = visual.get_all_samples()
        return audio_of(np.asarray(sound.data), int(sound.sample_rate), where)
    if isinstance(visual, np.ndarray):
        raise UserError(f"{where} gives an array of shape {list(visual.shape)}: give audio with its sampling_rate")
    if isinstance(visual, list | tuple) and not visual:
        raise UserError(f"{where} gives a video without frames")
    raise UserError(f"{where} gives a {type(visual).__name__} as visual: expected images, videos or audio")


def _are_frames(visual: Any) -> bool:
    if isinstance(visual, np.ndarray):
        return visual.ndim == 4 and visual.shape[-1] == 3 and len(visual) > 0
    kinds = (Image.Image, np.ndarray)
    return bool(visual) and all(isinstance(frame, kinds) and getattr(frame, "ndim", 3) == 3 for frame in visual)


def _image(frame: np.ndarray, where: str) -> Image.Image:
    if frame.dtype != np.uint8 or frame.shape[-1] != 3:
        raise UserError(f"{where} gives frames of {frame.dtype}{list(frame.shape)}: expected uint8 [height, width, 3]")
    return Image.fromarray(frame)


def _from_file(path: str, where: str) -> Visual:
    if not Path(path).is_file():
        raise UserError(f"{where} gives {shorten(path)} as visual, which is no file: expected images, videos or audio")
    return open_image(Path(path)) if path.lower().endswith(_IMAGE_SUFFIXES) else read_file(path)


def _from_mapping(visual: dict[str, Any], where: str) -> Visual:
    kind = visual.get("type")
    if "array" in visual:
        return audio_of(visual["array"], visual.get("sampling_rate"), where)
    given = [visual[key] for key in (str(kind), "path", "url", "bytes") if visual.get(key) is not None]
    if not given:
        raise UserError(f"{where} gives a mapping of {', '.join(map(str, visual)) or 'nothing'} as visual")
    if isinstance(given[0], bytes):
        return read_file(given[0])
    found = _prepare(given[0], where)
    part = visual.get("video_start"), visual.get("video_end")
    if part == (None, None):
        return found
    if not isinstance(found, Video):
        raise UserError(f"{where} gives a part of a video, but {shorten(given[0])} is no video file")
    return replace(found, start=float(part[0] or 0), end=None if part[1] is None else float(part[1]))


def blank_visuals(visuals: Sequence[Visual]) -> list[Visual]:
    """The visuals of one question without their content.

    Images and the frames of videos are replaced by grey ones of their size, sounds by a silence of their length.
    """
    blank: list[Visual] = []
    for visual in visuals:
        if isinstance(visual, Audio):
            blank.append(replace(visual, samples=np.zeros_like(visual.samples)))
            continue
        if isinstance(visual, Video):
            blank.append(replace(visual, blank=True))
            continue
        frames = visual if isinstance(visual, list) else [visual]
        grey = [grey_image(frame.size) for frame in frames]
        blank.append(grey if isinstance(visual, list) else grey[0])
    return blank


def open_image(path: Path) -> Image.Image:
    """Read an image file, as RGB.

    Raises:
        UserError: for a file that is missing, truncated or not an image.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except UnidentifiedImageError as error:
        raise UserError(f"cannot open the image {str(path)!r}: it is not an image of a known format") from error
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot open the image {str(path)!r}: {reason(error)}") from error


def open_visual(given: Path | Image.Image) -> Visual:
    """An image as RGB, or what a file holds: an image, or by the end of its name a video or a sound.

    Raises:
        UserError: for a file that cannot be read.
    """
    if isinstance(given, Image.Image):
        return _to_rgb(given, "image")
    return read_file(str(given)) if given.suffix.lower() in _MEDIA_SUFFIXES else open_image(given)


def _to_rgb(image: Image.Image, where: str) -> Image.Image:
    try:
        return image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{where}: the image cannot be read: {first_line(error)}") from error


def image_ids(visuals: Iterable[Visual]) -> list[str]:
    """One id for each visual: 16 hex digits of a hash of the pixels, the samples, or a part of a video's file."""
    return [_image_id(visual) for visual in visuals]


def _image_id(visual: Visual) -> str:
    digest = hashlib.blake2b(digest_size=8)
    if isinstance(visual, Image.Image):
        digest.update(f"{visual.mode}{visual.size}".encode())
        digest.update(visual.tobytes())
    elif isinstance(visual, Video):
        part = "" if (visual.start, visual.end) == (0.0, None) else f":{visual.start}:{visual.end}"
        digest.update(_file_part(visual.path) + part.encode())
    elif isinstance(visual, Audio):
        digest.update(f"{visual.rate}".encode())
        digest.update(visual.samples.tobytes())
    else:
        digest.update("".join(image_ids(visual)).encode())
    return digest.hexdigest()


def _file_part(path: str) -> bytes:
    """What tells a video's file from others on every machine: its size, its start and its end; else its path."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123  may be an address
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            start = file.read(_HASHED)
            file.seek(max(0, size - _HASHED))
            return f"{size}:".encode() + start + file.read()
    except OSError:
        return path.encode()
