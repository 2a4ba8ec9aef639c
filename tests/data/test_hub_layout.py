"""The tasks of a dataset on the Hub, from a folder that is laid out as the dataset is there."""

from pathlib import Path
from random import Random
from typing import Any

import pytest

from lmms_steer import UserError
from lmms_steer.data import source
from lmms_steer.data.benchmarks.clevr import COUNT_SCHEMA
from lmms_steer.data.stand_ins import image_cell, write_parquet
from lmms_steer.harness.patches import index_our_tasks
from lmms_steer.harness.tasks import load_task, loading_mistake
from lmms_steer.tiny_world.scenes import sample_scene

CARD = """\
---
configs:
- config_name: default
  data_files:
  - {split: train, path: data/train-*}
  - {split: test, path: data/test-*}
dataset_info:
  splits:
  - {name: train, num_bytes: 10444832331, num_examples: 70000}
  - {name: test, num_bytes: 56238640, num_examples: 200}
---
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """BUAADreamer/clevr_count_70k: 21 files of training questions, of which all but the first are damaged."""
    generator = Random(0)
    image = image_cell(generator, sample_scene(generator), 0, "png")
    rows = [{"problem": f"<image>How many, {i}?", "answer": "3", "images": [image]} for i in range(510)]
    for number in range(1, 21):
        path = tmp_path / f"data/train-{number:05d}-of-00021.parquet"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"damaged")
    write_parquet(tmp_path / "data/train-00000-of-00021.parquet", rows, COUNT_SCHEMA)
    write_parquet(tmp_path / "data/test-00000-of-00001.parquet", rows[:7], COUNT_SCHEMA)
    (tmp_path / "README.md").write_text(CARD)
    true = source.find_source

    def find_source(copy: str, split: str, hub: str | None, *more: Any, **settings: Any) -> source.Source:
        assert hub == "BUAADreamer/clevr_count_70k"
        return true(copy, split, str(tmp_path), *more, **settings)

    monkeypatch.setattr(source, "find_source", find_source)
    monkeypatch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LMMS_STEER_DATA", raising=False)
    # between lmms-eval's attempts to load a dataset
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    return tmp_path


def test_a_task_reads_the_one_file_that_has_its_questions(hub: Path) -> None:
    for name, count in (("clevr_count", 500), ("superclevr_count", 7)):
        task, _ = load_task(name, "steered_paligemma")
        docs = task.test_docs()
        assert len(docs) == count and docs[count - 1]["problem"] == f"<image>How many, {count - 1}?"
        assert task.doc_to_visual(docs[0])[0].mode == "RGB"


def test_a_dataset_whose_files_have_changed_is_one_line(hub: Path, manager: Any) -> None:
    (hub / "data/train-00000-of-00021.parquet").rename(hub / "data/train-00000-of-00040.parquet")
    index_our_tasks()
    for load in (
        lambda: load_task("clevr_count", "steered_paligemma"),
        lambda: manager.load_task_or_group("clevr_count"),
    ):
        with pytest.raises(UserError, match=r"reads '.*/data/train-00000-of-00021.parquet', which does not exist: "):
            load()


def test_a_file_that_the_hub_no_longer_has_is_a_change_of_the_dataset() -> None:
    """With datasets' own message, under the error of lmms-eval's retries."""
    path = "hf://datasets/BUAADreamer/clevr_count_70k@d1b05b5/data/train-00000-of-00021.parquet"
    error = RuntimeError("RetryError")
    error.__cause__ = FileNotFoundError(f"Unable to find '{path}'")
    assert "data/train-00000-of-00021.parquet', which does not exist: the dataset's files have changed" in str(
        loading_mistake(error)
    )


def test_a_first_file_with_fewer_questions_than_the_paper_s_is_refused(hub: Path) -> None:
    (hub / "data/test-00000-of-00001.parquet").rename(hub / "data/train-00000-of-00021.parquet")
    with pytest.raises(
        UserError, match=r"has changed: data/train-00000-of-00021.parquet has 7 questions, the paper's are"
    ):
        load_task("clevr_count", "steered_paligemma")
