"""lmms-eval's index of tasks is read once per process, except for the user's own."""

from pathlib import Path

import pytest

from lmms_steer.harness.task_files import our_tasks
from tests.helpers.task_manager import task_manager


def test_installed_tasks_are_read_once_and_the_user_s_own_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text("task: mine")
    assert set(task_manager(tmp_path).all_tasks) == {"mine", *our_tasks()}
    read = []

    def load(path: str, **_: object) -> dict[str, str]:
        read.append(path)
        return {"task": "changed"}

    monkeypatch.setattr("lmms_eval.utils.load_yaml_config", load)
    changed = task_manager(tmp_path)
    assert set(changed.all_tasks) == {"changed", *our_tasks()} and read == [str(tmp_path / "a.yaml")]
    changed.task_index["changed"]["type"] = changed.task_index["tiny_spatial"]["type"] = "group"
    assert task_manager().task_index["tiny_spatial"]["type"] == "task", "a caller's changes stay its own"
