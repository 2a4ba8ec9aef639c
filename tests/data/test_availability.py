"""Which datasets of the shipped tasks are missing, with and without local copies."""

from pathlib import Path

import pytest

from lmms_steer import UserError
from lmms_steer.data.availability import missing_datasets, read_task_file
from lmms_steer.harness.task_files import task_file

PAPER_DATASETS = {
    "nyu-visionx/CV-Bench",
    "ServiceNow/whatsup_controlled_images_a_inference_test",
    "ServiceNow/whatsup_controlled_images_b_inference_test",
    "BLINK-Benchmark/BLINK",
    "BUAADreamer/clevr_count_70k",
}


def test_without_copies_the_datasets_of_the_hub_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LMMS_STEER_DATA", raising=False)
    lines = set(missing_datasets("text_steers_vision"))
    assert lines == {f"{dataset} is not on this disk, and HF_HUB_OFFLINE is set" for dataset in PAPER_DATASETS}
    (line,) = missing_datasets("superclevr")
    assert line.startswith("superclevr is not on the Hub: set LMMS_STEER_DATA=DIR, lmms-steer data import superclevr")


@pytest.mark.slow
def test_with_copies_nothing_is_missing(data: Path) -> None:
    assert not list(missing_datasets("text_steers_vision"))
    assert not list(missing_datasets("superclevr"))
    assert not list(missing_datasets("tiny_world"))


def test_own_keys_come_first_and_then_those_of_the_first_included_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("include: [b.yaml, c.yaml]\ntask: a")
    (tmp_path / "b.yaml").write_text("task: b\nsplit: b")
    (tmp_path / "c.yaml").write_text("task: c\nsplit: c\nmetric: c")
    assert read_task_file(tmp_path / "a.yaml") == {"task": "a", "split": "b", "metric": "c"}


def test_shipped_variants_have_what_they_include(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LMMS_STEER_DATA", raising=False)
    for name in ("cvbench_count_ll", "steer_blink_counting_ll", "clevr_count_ll", "tiny_colour_ll"):
        keys = read_task_file(task_file(name)[1])
        assert (keys["task"], keys["output_type"], keys["generation_kwargs"]) == (name, "multiple_choice", None)
        assert [entry["metric"] for entry in keys["metric_list"]] == ["acc"]


def test_task_file_without_keys_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("- task")
    with pytest.raises(UserError, match="a.yaml cannot be read as a task: it holds no keys"):
        read_task_file(tmp_path / "a.yaml")
