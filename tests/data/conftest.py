"""Stand-ins of all releases and local copies of them, made once for all tests of this folder."""

from pathlib import Path
from typing import Any

import pytest

from lmms_steer.data.importing import import_release
from lmms_steer.data.stand_ins import write_stand_ins
from tests.helpers.task_manager import task_manager


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each stand-in, by benchmark."""
    return write_stand_ins(tmp_path_factory.mktemp("release"), questions=12)


@pytest.fixture(scope="session")
def copies(release: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the local copies of all stand-ins."""
    root = tmp_path_factory.mktemp("data")
    for name, folder in release.items():
        list(import_release(name, folder, root))
    return root


@pytest.fixture
def data(copies: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The local copies, which `$LMMS_STEER_DATA` names during the test."""
    monkeypatch.setenv("LMMS_STEER_DATA", str(copies))
    return copies


@pytest.fixture(scope="session")
def manager() -> Any:
    """lmms-eval's index of our tasks."""
    return task_manager()
