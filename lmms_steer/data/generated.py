"""Small stand-ins for all five releases, in the official formats on disk: drawn scenes, real image files, true answers.

They let import, tasks and recipes run where nothing can be downloaded. They are no benchmark.
"""

import json
import random
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from lmms_steer.data import releases
from lmms_steer.data.importing import BLINK_COLUMNS, BLINK_IMAGES, COUNT_COLUMNS, CVBENCH_COLUMNS
from lmms_steer.data.local_copy import disk_errors
from lmms_steer.data.official import BLINK
from lmms_steer.tiny_world.scenes import STYLES, Scene, render, sample_scene

LETTERS = "ABCDEF"
_MODES = (
    ("RGB", "JPEG", "jpg"),
    ("RGB", "PNG", "png"),
    ("P", "PNG", "png"),
    ("L", "JPEG", "jpg"),
    ("RGBA", "PNG", "png"),
)
SIDES = {"A": ("on", "under", "left", "right"), "B": ("front", "behind", "left", "right")}
PHRASES = {
    **{"on": "on", "under": "under", "left": "to the left of", "right": "to the right of"},
    **{"front": "in front of", "behind": "behind"},
}


def write_stand_ins(folder: Path, questions: int = 24, seed: int = 0) -> dict[str, Path]:
    """Write all releases; returns the folder of each, as `lmms-steer data import NAME --from FOLDER` takes it.

    Args:
        folder: where to.
        questions: of each task (What'sUp: rounded up to whole sets of four; CV-Bench: beside 150 for the test).
        seed: of every random choice.
    """
    made: dict[str, Callable[[Path, int, random.Random], None]] = {
        "cvbench": _cvbench,
        "whatsup": _whatsup,
        "blink": _blink,
        "clevr": _clevr,
        "clevr_count": _clevr_count,
        "superclevr": _superclevr,
    }
    for name, maker in made.items():
        with disk_errors(folder / name):
            (folder / name).mkdir(parents=True, exist_ok=True)
            maker(folder / name, questions, random.Random(f"{seed} {name}"))
    return {name: folder / name for name in made}


def _picture(rng: random.Random, scene: Scene, number: int, kind: str | None = None) -> tuple[bytes, str]:
    """A scene as the bytes of an image file, and the file's ending; modes, formats and sizes change one by one."""
    modes = [entry for entry in _MODES if kind is None or entry[2] == kind]
    mode, form, ending = modes[number % len(modes)]
    width, height = rng.randrange(40, 200), rng.randrange(40, 200)
    drawn = Image.fromarray(render(scene, STYLES["plain"], number)).resize((width, height)).convert(mode)
    buffer = BytesIO()
    drawn.save(buffer, form)
    return buffer.getvalue(), ending


def _stored(rng: random.Random, number: int) -> dict[str, Any]:
    data, ending = _picture(rng, sample_scene(rng), number)
    return {"bytes": data, "path": f"{number}.{ending}"}


def _options(rng: random.Random, right: str, wrong: list[str]) -> tuple[list[str], str, str]:
    """(choices, the answer's letter in brackets, the choices as CV-Bench and BLINK write them in a prompt)."""
    choices = [right, *wrong]
    rng.shuffle(choices)
    lines = "\n".join(f"({LETTERS[i]}) {choice}" for i, choice in enumerate(choices))
    return choices, f"({LETTERS[choices.index(right)]})", f"Select from the following choices.\n{lines}"


def _cvbench(folder: Path, questions: int, rng: random.Random) -> None:
    rows: list[dict[str, Any]] = []
    sources = {
        "Count": ("ADE20K", "COCO"),
        "Relation": ("ADE20K", "COCO"),
        "Depth": ("Omni3D",),
        "Distance": ("Omni3D",),
    }
    wrong = {"Count": ["9", "8", "7"], "Relation": ["right"], "Depth": ["table"], "Distance": ["lamp"]}
    for task, places in sources.items():
        # 150 more, which are the test by the paper's split
        for number in range(questions + 150):
            scene = sample_scene(rng)
            right = {"Count": str(len(scene)), "Relation": "left", "Depth": "chair", "Distance": "sofa"}[task]
            choices, answer, listed = _options(rng, right, wrong[task])
            data, ending = _picture(rng, scene, number)
            question = f"Which of these is it for {task.lower()} {number}?"
            rows.append(
                {
                    **{"idx": len(rows), "type": "3D" if places == ("Omni3D",) else "2D", "task": task},
                    **{"question": question, "choices": choices, "answer": answer, "prompt": f"{question} {listed}"},
                    **{"source": places[number % len(places)], "image": {"bytes": data, "path": f"{number}.{ending}"}},
                }
            )
    schema = releases.image_schema(CVBENCH_COLUMNS, ("image",))
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "test-00000-of-00001.parquet")


def _blink(folder: Path, questions: int, rng: random.Random) -> None:
    schema = releases.image_schema(BLINK_COLUMNS, BLINK_IMAGES)
    for config in BLINK:
        rows = []
        several = config in ("Jigsaw", "Visual_Similarity", "Multi-view_Reasoning")
        for number in range(questions):
            choices, answer, listed = _options(rng, "yes", ["no"])
            question = f"Is it so in picture {number}?"
            images: dict[str, Any] = dict.fromkeys(BLINK_IMAGES)
            for name in BLINK_IMAGES[: 3 if several else 1]:
                images[name] = _stored(rng, number)
            said = {"question": question, "choices": choices, "answer": answer, "prompt": f"{question}\n{listed}"}
            rows.append({"idx": f"val_{config}_{number}", "sub_task": config, **said, **images})
        (folder / config).mkdir(exist_ok=True)
        table = pa.Table.from_pylist(rows, schema=schema)
        pq.write_table(table, folder / config / "val-00000-of-00001.parquet")


def _whatsup(folder: Path, questions: int, rng: random.Random) -> None:
    for letter, name in (("A", "controlled_images"), ("B", "controlled_clevr")):
        records = []
        (folder / name).mkdir(exist_ok=True)
        for number in range((questions + 3) // 4 * 4):
            things = (f"mug {number // 4}", "table")
            side = SIDES[letter][number % 4]
            captions = {s: f"A {things[0]} {PHRASES[s]} a {things[1]}" for s in SIDES[letter]}
            data, _ = _picture(rng, sample_scene(rng), number, "jpg")
            file = f"{things[0]}_{side}_{things[1]}".replace(" ", "-") + ".jpeg"
            (folder / name / file).write_bytes(data)
            options = [captions[side], *(caption for s, caption in captions.items() if s != side)]
            records.append({"image_path": f"data/{name}/{file}", "caption_options": options})
        (folder / f"{name}_dataset.json").write_text(json.dumps(records))


def _clevr(folder: Path, questions: int, rng: random.Random) -> None:
    entries = []
    for number in range(questions):
        scene, name = sample_scene(rng), f"CLEVR_val_{number // 4:06d}.png"
        thing = rng.choice(scene)
        asked: list[tuple[str, str, str]] = [
            ("How many objects are there?", str(len(scene)), "count"),
            (f"Is there a {thing.colour} object?", "yes", "exist"),
            ("What material is the large object made of?", rng.choice(("rubber", "metal")), "query_material"),
            ("Are there more cubes than spheres?", "no", "greater_than"),
        ]
        question, answer, function = asked[number % 4]
        entries.append(
            {
                **{"split": "val", "image_index": number // 4, "image_filename": name, "question": question},
                **{"answer": answer, "question_family_index": number % 4, "question_index": number},
                "program": [{"function": "scene", "inputs": []}, {"function": function, "inputs": [0]}],
            }
        )
        _write_picture(folder / "images" / "val" / name, rng, scene, number)
    _write_questions(folder / "questions" / "CLEVR_val_questions.json", entries)


def _superclevr(folder: Path, questions: int, rng: random.Random) -> None:
    entries = []
    for number in range(questions + 4):
        # the first four belong to the training images
        index = number if number < 4 else 25000 + number // 3
        name, scene = f"superCLEVR_new_{index:06d}.png", sample_scene(rng)
        answer: Any = [len(scene), True, rng.choice(("minivan", "school bus", "jet"))][number % 3]
        question = ["How many things are there?", "Is there a bus?", "What is the red vehicle?"][number % 3]
        entries.append(
            {
                **{"split": "new", "image_filename": name, "image_index": index, "question": question},
                **{"answer": answer, "question_family_index": number % 3, "question_index": number},
            }
        )
        _write_picture(folder / "images" / name, rng, scene, number)
    _write_questions(folder / "superCLEVR_questions_30k.json", entries)


def _clevr_count(folder: Path, questions: int, rng: random.Random) -> None:
    schema = releases.image_schema(COUNT_COLUMNS, (), lists=("images",))
    for split in ("train", "test"):
        rows = []
        for number in range(questions):
            scene = sample_scene(rng)
            data, ending = _picture(rng, scene, number, "png")
            problem = "<image>How many different items are there in the image?"
            image = {"bytes": data, "path": f"{number}.{ending}"}
            rows.append({"problem": problem, "answer": str(len(scene)), "images": [image]})
        (folder / "data").mkdir(exist_ok=True)
        table = pa.Table.from_pylist(rows, schema=schema)
        pq.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")


def _write_picture(path: Path, rng: random.Random, scene: Scene, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_bytes(_picture(rng, scene, number, "png")[0])


def _write_questions(path: Path, entries: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"info": {"split": "val", "version": "1.0"}, "questions": entries}))
