"""BLINK: the validation split of its fourteen tests, from the Hub's parquet files (`BLINK-Benchmark/BLINK`).

The answers of the test split are not public.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from lmms_steer.data.benchmarks import Benchmark, register_benchmark
from lmms_steer.data.importing import copy_rows
from lmms_steer.data.local_copy import LocalCopy
from lmms_steer.data.release_files import image_schema, lettered_rows, whole
from lmms_steer.data.stand_ins import image_cell, question_about, shuffle_choices, unseen_scene, write_parquet
from lmms_steer.errors import UserError

# The dataset's card; None is not checked.
OFFICIAL_ROWS: dict[str, int | None] = {
    "Art_Style": None,
    "Counting": 120,
    "Forensic_Detection": None,
    "Functional_Correspondence": None,
    "IQ_Test": None,
    "Jigsaw": None,
    "Multi-view_Reasoning": None,
    "Object_Localization": 122,
    "Relative_Depth": 124,
    "Relative_Reflectance": None,
    "Semantic_Correspondence": None,
    "Spatial_Relation": 143,
    "Visual_Correspondence": None,
    "Visual_Similarity": None,
}
IMAGES = ("image_1", "image_2", "image_3", "image_4")
SCHEMA = image_schema(
    {
        "idx": pa.string(),
        "question": pa.string(),
        "sub_task": pa.string(),
        "choices": pa.list_(pa.string()),
        "answer": pa.string(),
        "prompt": pa.string(),
    },
    images=IMAGES,
)
_SEVERAL_IMAGES = ("Jigsaw", "Visual_Similarity", "Multi-view_Reasoning")
"""The stand-in's tests with three images a question; the others have one."""
_KINDS = {"Counting": "counting", "Spatial_Relation": "relation_yesno", "Object_Localization": "caption"}
"""The stand-in's test ▸ the kind of its questions; the others ask whether something is there."""


def import_release(release: Path, root: Path, limit: int | None) -> Iterator[Path]:
    """Import each test that the release's folder has (see `Benchmark.import_release`)."""
    files_of = {config: whole(sorted(release.glob(f"{config}/val*.parquet"))) for config in OFFICIAL_ROWS}
    if not any(files_of.values()):
        raise UserError(f"{str(release)!r} holds no BLINK: expected folders such as Counting/ with val*.parquet")
    for config, files in files_of.items():
        if files:
            copy = LocalCopy(root / "blink" / config, files)
            copy_rows(copy, "val", lettered_rows(files, SCHEMA.names, IMAGES[0], IMAGES[1:]), SCHEMA, limit)
            yield copy.finish()


def write_stand_in(folder: Path, questions: int, rng: random.Random) -> None:
    """Write a release with this number of questions of each test."""
    for config in OFFICIAL_ROWS:
        rows = []
        for number in range(questions):
            scene, question = question_about(rng, _KINDS.get(config, "existence"))
            wrong = [choice for choice in question.choices if choice != question.answer]
            lettered = shuffle_choices(rng, question.answer, wrong)
            images = IMAGES[: 3 if config in _SEVERAL_IMAGES else 1]
            scenes = [scene, *(unseen_scene(rng) for _ in images[1:])]
            rows.append(
                {
                    "idx": f"val_{config}_{number}",
                    "sub_task": config,
                    "question": question.text,
                    "choices": lettered.choices,
                    "answer": lettered.answer,
                    "prompt": f"{question.text}\n{lettered.listing}",
                    **{name: image_cell(rng, shown, number) for name, shown in zip(images, scenes, strict=True)},
                }
            )
        write_parquet(folder / config / "val-00000-of-00001.parquet", rows, SCHEMA)


register_benchmark(
    Benchmark(
        name="blink",
        description="BLINK: fourteen tests of visual perception",
        copies={f"blink/{config}": {"val": rows} for config, rows in OFFICIAL_ROWS.items()},
        import_release=import_release,
        write_stand_in=write_stand_in,
    )
)
