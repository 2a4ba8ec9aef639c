"""VSR (Visual Spatial Reasoning): captions that are true or false of a photograph of COCO.

A release has JSON lines for each split and a folder of images (github.com/cambridgeltl/visual-spatial-reasoning). On
the Hub there are only the lines, with links to the images.
"""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from lmms_steer.data.benchmarks import Benchmark, register_benchmark
from lmms_steer.data.importing import copy_rows
from lmms_steer.data.local_copy import LocalCopy
from lmms_steer.data.paper_split import HELD_OUT
from lmms_steer.data.release_files import checked_image_name, find_files, find_image
from lmms_steer.data.stand_ins import SIZES, SMALL_SIZES, unseen_scene, write_image
from lmms_steer.errors import UserError, reason
from lmms_steer.tiny_world.scenes import Scene, Thing

HUBS = {"vsr_random": "cambridgeltl/vsr_random", "vsr_zeroshot": "cambridgeltl/vsr_zeroshot"}
"""Copy under `$LMMS_STEER_DATA` ▸ dataset on the Hub."""
SUBSET_RELATIONS = (
    "on top of", "above", "at the left side of", "at the right side of", "left of", "right of", "under", "below",
)  # fmt: skip
"""Of the subsets of the training split that the paper's released code tests on (utils.py:550)."""
_HOLDS: dict[str, Callable[[Thing, Thing], bool]] = {
    relation: (
        (lambda a, b: a.column < b.column) if "left" in relation
        else (lambda a, b: a.column > b.column) if "right" in relation
        else (lambda a, b: a.row > b.row) if relation in ("under", "below")
        else (lambda a, b: a.row < b.row)
    )
    for relation in SUBSET_RELATIONS
}  # fmt: skip
"""Of the stand-in: whether a relation holds between two things of a flat scene."""
SCHEMA = pa.schema(
    [("image_path", pa.string()), ("caption", pa.string()), ("label", pa.int64()), ("relation", pa.string())]
)
OTHERS = 3
"""Questions of a stand-in with a relation that no subset has."""
_IMAGE_FOLDERS = ("images", "trainval2017", "train2017", "val2017", ".")


def import_release(release: Path, root: Path, limit: int | None) -> Iterator[Path]:
    """Import the splits `random` and `zeroshot`: their test questions, and all training questions."""
    for name in HUBS:
        folder = name.removeprefix("vsr_")
        paths = {split: _find_lines(release, folder, split) for split in ("test", "train")}
        copy = LocalCopy(root / name, paths.values())
        for split, path in paths.items():
            copy_rows(copy, split, _rows(release, path, copy), SCHEMA, limit)
        yield copy.finish()


def _find_lines(release: Path, folder: str, split: str) -> Path:
    wanted = f"{folder}/{split}.jsonl"
    return find_files(release, [f"**/{wanted}", f"**/vsr_{wanted}"], wanted)[0]


def _rows(release: Path, path: Path, copy: LocalCopy) -> Iterator[dict[str, Any]]:
    """The rows of a copy; adds the images to it."""
    # the repository has its images beside `splits`: data/splits/random/test.jsonl, data/images
    beside_splits = path.parent.parent.parent
    folders = [place / name for place in (beside_splits, release) for name in _IMAGE_FOLDERS]
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                where = f"{str(path)!r}, line {number}"
                row = _checked(line, where)
                name = checked_image_name(row["image"], where)
                image = copy.add_image(find_image(name, folders, path), name)
                yield {"image_path": image, **{key: row[key] for key in ("caption", "label", "relation")}}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {str(path)!r}: {reason(error)}") from error


def _checked(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON: {reason(error)}") from error
    names = ("image", "caption", "relation")
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in names):
        raise UserError(f"{where}: expected image, caption and relation")
    if row.get("label") not in (0, 1):
        raise UserError(f"{where}: label: expected 0 or 1, got {row.get('label')!r}")
    return row


def write_stand_in(folder: Path, questions: int, rng: random.Random) -> None:
    """Write a release with this number of questions of each split, plus those that are held out, and `OTHERS`."""
    data = folder / "data"
    for name in HUBS:
        lines = data / "splits" / name.removeprefix("vsr_")
        lines.mkdir(parents=True, exist_ok=True)
        for split in ("test", "train"):
            rows = []
            # the last ones are in no subset
            for number in range(questions + HELD_OUT + OTHERS):
                sizes = SIZES if number < questions else SMALL_SIZES
                relation = rng.choice(SUBSET_RELATIONS) if number < questions + HELD_OUT else "facing"
                scene, caption, label = _captioned_scene(rng, relation)
                file = f"{name}_{split}_{number:012d}.jpg"
                write_image(data / "images" / file, rng, scene, number, sizes)
                rows.append({"image": file, "caption": caption, "label": label, "relation": relation})
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (lines / f"{split}.jsonl").write_text(text, encoding="utf-8")


def _captioned_scene(rng: random.Random, relation: str) -> tuple[Scene, str, int]:
    """A scene, a caption about two of its things, and whether it is true, which half of the captions are."""
    label = rng.randrange(2)
    while True:
        scene = unseen_scene(rng, 2)
        first, second = rng.sample(scene, 2)
        if relation not in _HOLDS or _HOLDS[relation](first, second) == bool(label):
            return scene, f"The {first.name} is {relation} the {second.name}.", label


register_benchmark(
    Benchmark(
        name="vsr",
        description="VSR: whether a caption about two things is true of a photograph",
        # the dataset's README
        copies={"vsr_random": {"test": 2195, "train": 7680}, "vsr_zeroshot": {"test": 1222, "train": 3489}},
        import_release=import_release,
        write_stand_in=write_stand_in,
    )
)
