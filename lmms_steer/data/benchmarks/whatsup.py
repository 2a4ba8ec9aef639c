"""What'sUp: photographs of two things in four relations, with four captions each; two sets, A and B.

The release has a JSON file and a folder of images for each set (github.com/amitakamath/whatsup_vlms).
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, permutations
from pathlib import Path
from typing import Any

import pyarrow as pa

from lmms_steer.data.benchmarks import Benchmark, register_benchmark
from lmms_steer.data.importing import copy_rows
from lmms_steer.data.local_copy import LocalCopy
from lmms_steer.data.paper_split import HELD_OUT
from lmms_steer.data.release_files import checked_image_name, find_files, find_image, json_items
from lmms_steer.data.stand_ins import SIZES, SMALL_SIZES, placed_pair, write_image
from lmms_steer.errors import UserError
from lmms_steer.smol.questions import article
from lmms_steer.tiny_world.scenes import COLOURS, SHAPES, Scene

FOLDERS = {"a": "controlled_images", "b": "controlled_clevr"}
"""The release's folder of images for each set; the JSON file is FOLDER_dataset.json."""
SCHEMA = pa.schema([("image_path", pa.string()), ("caption_options", pa.list_(pa.string())), ("TARGET", pa.int64())])

# Of the stand-in: the relations of each set, their words in captions, and where the first thing is on the flat pictures
# (as on a floor, what is lower counts as closer).
_RELATIONS = {"a": ("on", "under", "left", "right"), "b": ("front", "behind", "left", "right")}
_PHRASES = {
    "on": "on",
    "under": "under",
    "left": "to the left of",
    "right": "to the right of",
    "front": "in front of",
    "behind": "behind",
}
_PLACES = {"on": "above", "under": "below", "front": "below", "behind": "above", "left": "left", "right": "right"}


@dataclass(frozen=True, slots=True)
class Record:
    """One image of the release: its path, as the JSON file gives it, and four captions, the first of them correct."""

    image: str
    captions: list[str]


def read_records(path: Path) -> Iterator[Record]:
    """The records of `controlled_images_dataset.json` (set A) or `controlled_clevr_dataset.json` (set B).

    Raises:
        UserError: as `json_items`; for a record without an image's path and four different captions, or with a path
            that leads out of the release.
    """
    for where, item in json_items(path, "item", "record"):
        captions = item.get("caption_options") if isinstance(item, dict) else None
        if not isinstance(captions, list) or not isinstance(item.get("image_path"), str):
            raise UserError(f"{where}: expected image_path and caption_options")
        texts = {caption for caption in captions if isinstance(caption, str)}
        if not len(captions) == len(texts) == 4:
            raise UserError(f"{where}: expected four different captions, got {captions!r}")
        yield Record(checked_image_name(item["image_path"], where), captions)


def import_release(release: Path, root: Path, limit: int | None) -> Iterator[Path]:
    """Import both sets (see `Benchmark.import_release`)."""
    for letter, folder in FOLDERS.items():
        name = f"{folder}_dataset.json"
        path = find_files(release, [f"**/{name}"], name)[0]
        copy = LocalCopy(root / f"whatsup_{letter}", [path])
        copy_rows(copy, f"Controlled_Images_{letter.upper()}", _rows(path, copy), SCHEMA, limit)
        yield copy.finish()


def _rows(path: Path, copy: LocalCopy) -> Iterator[dict[str, Any]]:
    """The rows of a copy; adds the images to it."""
    folders = [path.parent, path.parent / "data"]
    for record in read_records(path):
        image_path = copy.add_image(find_image(record.image, folders, path), record.image)
        yield {"image_path": image_path, "caption_options": record.captions, "TARGET": 0}


def write_stand_in(folder: Path, questions: int, rng: random.Random) -> None:
    """Write a release with this number of questions of each set, plus those that the paper's split holds out.

    The sum is rounded up to whole sets of four.
    """
    names = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    for letter, name in FOLDERS.items():
        records = []
        pairs = list(permutations(names, 2))
        rng.shuffle(pairs)
        sets = cycle(filter(None, (_placed_set(letter, pair, rng) for pair in pairs)))
        for group in range((questions + HELD_OUT + 3) // 4):
            captions, scenes = next(sets)
            for place, relation in enumerate(_RELATIONS[letter]):
                number = 4 * group + place
                sizes = SIZES if number < questions else SMALL_SIZES
                file = f"set-{group}_{relation}.jpeg"
                write_image(folder / name / file, rng, scenes[relation], number, sizes)
                others = [caption for other, caption in captions.items() if other != relation]
                records.append({"image_path": f"data/{name}/{file}", "caption_options": [captions[relation], *others]})
        (folder / f"{name}_dataset.json").write_text(json.dumps(records))


def _placed_set(
    letter: str, pair: tuple[str, str], rng: random.Random
) -> tuple[dict[str, str], dict[str, Scene]] | None:
    """The captions and the scenes of two things in all relations of a set; None if one has no unseen scene."""
    first, second = pair
    captions, scenes = {}, {}
    for relation in _RELATIONS[letter]:
        scene = placed_pair(rng, _PLACES[relation], first, second)
        if scene is None:
            return None
        scenes[relation] = scene
        subject = f"{article(first).capitalize()} {first}"
        captions[relation] = f"{subject} {_PHRASES[relation]} {article(second)} {second}"
    return captions, scenes


register_benchmark(
    Benchmark(
        name="whatsup",
        description="What'sUp: which of four captions fits a photograph of two things",
        # the release's README
        copies={"whatsup_a": {"Controlled_Images_A": 412}, "whatsup_b": {"Controlled_Images_B": 408}},
        import_release=import_release,
        write_stand_in=write_stand_in,
    )
)
