"""Small stand-ins for all releases, in the official formats: drawn scenes, real image files, correct answers.

With them import, tasks and recipes run where nothing can be downloaded. The scenes are of the tiny world, and
`smol-idefics3` was trained on none of them; the questions about things have the benchmarks' wordings. A score on a
stand-in says nothing about the benchmark.
"""

import random
from collections.abc import Sequence
from io import BytesIO
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from lmms_steer._util.io import write_atomically
from lmms_steer.data.benchmarks import benchmarks
from lmms_steer.data.local_copy import disk_errors
from lmms_steer.scoring.choice import LETTERS
from lmms_steer.smol.questions import ask, is_held_out
from lmms_steer.tiny_world.questions import Question
from lmms_steer.tiny_world.scenes import GRID, STYLES, Scene, Thing, render, sample_scene

SIZES = range(40, 200)
SMALL_SIZES = range(40, 48)
"""Of the images of the many questions that a split holds out, so that they are quick to make."""
_IMAGE_FORMATS = (
    ("RGB", "JPEG", "jpg"),
    ("RGB", "PNG", "png"),
    ("P", "PNG", "png"),
    ("RGBA", "PNG", "png"),
)
"""Pillow's mode and format, and the file name's suffix."""
_GREY_EVERY = 50
"""One image in so many is grey, as some photographs of the real releases are. Its colours cannot be seen."""


class LetteredChoices(NamedTuple):
    """Choices in random order, as CV-Bench and BLINK write them.

    Attributes:
        choices: the texts.
        answer: the letter of the correct one, as `(B)`.
        listing: the choices as they appear in a prompt, one a line.
    """

    choices: list[str]
    answer: str
    listing: str


def write_stand_ins(folder: Path, questions: int = 24, seed: int = 0) -> dict[str, Path]:
    """Write a stand-in for every benchmark.

    Args:
        folder: the folder to write to.
        questions: the number of questions of each task (CV-Bench, What'sUp and the counting questions of CLEVR: plus
            150, so that the paper's splits have both parts; What'sUp: rounded up to whole sets of four).
        seed: of all random choices.

    Returns:
        The folder of each stand-in by benchmark, as `lmms-steer data import NAME --from FOLDER` takes it.

    Raises:
        UserError: if the folder cannot be written.
    """
    folders = {name: folder / name for name in sorted(benchmarks)}
    for name, target in folders.items():
        with disk_errors(target):
            target.mkdir(parents=True, exist_ok=True)
            benchmarks.get(name).write_stand_in(target, questions, random.Random(f"{seed} {name}"))
    return folders


def draw_image(
    rng: random.Random, scene: Scene, number: int, suffix: str | None = None, sizes: range = SIZES
) -> tuple[bytes, str]:
    """Draw a scene as an image file of random size; consecutive numbers cycle through modes and formats.

    Args:
        rng: for the size.
        scene: to draw.
        number: picks mode and format, and seeds the rendering.
        suffix: `jpg` or `png`: only formats with this suffix. None: any.
        sizes: of its sides, in pixels.

    Returns:
        The file's bytes and its suffix.
    """
    formats = [entry for entry in _IMAGE_FORMATS if suffix in (None, entry[2])]
    mode, file_format, chosen_suffix = formats[number % len(formats)]
    if number % _GREY_EVERY == _GREY_EVERY - 1:
        mode = "L"
    width, height = rng.choice(sizes), rng.choice(sizes)
    image = Image.fromarray(render(scene, STYLES["plain"], number)).resize((width, height)).convert(mode)
    buffer = BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue(), chosen_suffix


def image_cell(
    rng: random.Random, scene: Scene, number: int, suffix: str | None = None, sizes: range = SIZES
) -> dict[str, Any]:
    """A drawn image as a value of a parquet file's image column; arguments as of `draw_image`."""
    data, chosen_suffix = draw_image(rng, scene, number, suffix, sizes)
    return {"bytes": data, "path": f"{number}.{chosen_suffix}"}


def write_image(path: Path, rng: random.Random, scene: Scene, number: int, sizes: range = SIZES) -> None:
    """Write a drawn image as `.png` or `.jp(e)g`, by the path's suffix; other arguments as of `draw_image`."""
    suffix = "png" if path.suffix == ".png" else "jpg"
    # a new file, because copies that were imported may be hard links to the old one
    write_atomically(path, draw_image(rng, scene, number, suffix, sizes)[0])


def write_parquet(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    """Write a parquet file, and the folder for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def unseen_scene(rng: random.Random, fewest: int = 1) -> Scene:
    """A scene of at least so many things that `smol-idefics3` was not trained on."""
    return next(scene for scene in iter(lambda: sample_scene(rng, fewest), ()) if is_held_out(scene))


def question_about(rng: random.Random, kind: str) -> tuple[Scene, Question]:
    """A scene, and a question about it in a benchmark's wording.

    Args:
        rng: for every random choice.
        kind: one of `lmms_steer.smol.questions.KINDS`.
    """
    while True:
        scene = unseen_scene(rng, 2)
        question = ask(kind, scene, rng, benchmark=True)
        if question is not None:
            return scene, question


def placed_pair(rng: random.Random, relation: str, first: str, second: str) -> Scene | None:
    """A scene of two things: `first` is above, below, left or right of `second`, in the same column or row.

    Args:
        rng: for the cells.
        relation: `above`, `below`, `left` or `right`.
        first: a colour and a shape, as `red circle`.
        second: another one.

    Returns:
        A scene that `smol-idefics3` was not trained on; None if there is none of these two things.
    """
    scenes = []
    for low, high in combinations(range(GRID), 2):
        places = (low, high) if relation in ("above", "left") else (high, low)
        for across in range(GRID):
            cells = [GRID * p + across if relation in ("above", "below") else GRID * across + p for p in places]
            scenes.append(tuple(Thing(cell, *name.split()) for cell, name in zip(cells, (first, second), strict=True)))
    unseen = [scene for scene in scenes if is_held_out(scene)]
    return rng.choice(unseen) if unseen else None


def shuffle_choices(rng: random.Random, correct: str, wrong: Sequence[str]) -> LetteredChoices:
    """Put the correct choice and the wrong ones into random order."""
    choices = [correct, *wrong]
    rng.shuffle(choices)
    lines = "\n".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return LetteredChoices(
        choices, f"({LETTERS[choices.index(correct)]})", f"Select from the following choices.\n{lines}"
    )
