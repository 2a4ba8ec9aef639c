"""Mistakes in a user's own task: they are named before a model is loaded."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from PIL import Image

from lmms_steer import UserError
from lmms_steer.harness.patches import index_our_tasks
from lmms_steer.harness.tasks import load_task
from tests.helpers.task_manager import task_manager

YAML = """task: kitchen
dataset_path: parquet
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_target: !function utils.doc_to_target
process_results: !function utils.process_results
generation_kwargs: {max_new_tokens: 4}
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
UTILS = """from lmms_steer.scoring.task_results import doc_to_target, doc_to_text, process_results


def doc_to_visual(doc):
    return [doc["image"].convert("RGB")]
"""
ROW = {"question": "What is left?", "choices": ["cup", "fork"], "answer": "B"}


def write_task(folder: Path, rows: list[dict[str, Any]] | None) -> None:
    file = folder / "kitchen.parquet"
    (folder / "kitchen.yaml").write_text(YAML.replace("FILE", str(file)))
    (folder / "utils.py").write_text(UTILS)
    if rows is not None:
        Dataset.from_list(rows).to_parquet(file)


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        (
            {"image": "cup.jpg"},
            "AttributeError: 'str' object has no attribute 'convert'; an image is a column of images",
        ),
        ({"picture": Image.new("RGB", (4, 4))}, "KeyError: 'image'"),
    ],
    ids=["path", "column"],
)
def test_an_image_that_cannot_be_read_is_named_before_a_model_answers(
    image: dict[str, Any], problem: str, tmp_path: Path, own_cache: Path
) -> None:
    write_task(tmp_path, [ROW | image] * 2)
    with pytest.raises(UserError, match=f"^kitchen, document 0: doc_to_visual failed: {problem}"):
        load_task("kitchen", "steered_hf", tmp_path)


@pytest.mark.usefixtures("own_cache")
def test_a_task_with_images_loads(tmp_path: Path) -> None:
    write_task(tmp_path, [ROW | {"image": Image.new("RGB", (4, 4))}])
    assert load_task("kitchen", "steered_hf", tmp_path)[1] == "test"


@pytest.mark.usefixtures("own_cache")
def test_a_missing_file_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    write_task(tmp_path, None)
    with pytest.raises(UserError, match=r"the task reads '.*kitchen.parquet', which does not exist: a relative path"):
        load_task("kitchen", "steered_hf", tmp_path)
    # as the plugin does in lmms-eval's process
    index_our_tasks()
    with pytest.raises(UserError, match=f"--include_path {tmp_path / 'nowhere'}: no such folder"):
        task_manager(tmp_path / "nowhere", model_name="steered_hf")
