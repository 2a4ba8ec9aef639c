"""lmms-eval's index of tasks is read once per process, except for the user's own."""

import inspect
from pathlib import Path

import lmms_eval.utils
import pytest
import yaml

from lmms_steer.harness.task_files import our_tasks, tasks_dir
from lmms_steer.harness.task_index import with_libyaml
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


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="this PyYAML has no libyaml")
def test_installed_task_files_are_read_by_libyaml_and_give_the_index_of_lmms_eval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = task_manager()
    plain = inspect.unwrap(type(manager)._get_task_and_group)
    expected = plain(manager, tasks_dir())

    def refuse(*_: object) -> None:
        raise AssertionError("read by the loader in Python")

    monkeypatch.setattr(yaml, "full_load", refuse)
    assert with_libyaml(plain)(manager, tasks_dir()) == expected
    (tmp_path / "a.yaml").write_text("task: mine")
    with pytest.raises(AssertionError, match="in Python"):
        with_libyaml(plain)(manager, str(tmp_path))
    assert lmms_eval.utils.yaml is yaml
