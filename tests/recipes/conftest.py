"""Fixtures for the tests of recipes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.recipes import RECIPE


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., str]:
    def write(old: str = "", new: str = "") -> str:
        assert old in RECIPE
        path = tmp_path / "r.yaml"
        path.write_text(RECIPE.replace(old, new) if old else RECIPE)
        return str(path)

    return write


@pytest.fixture
def smol_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the package of `smollm2-135m` is installed: a plan reads nothing of it."""
    monkeypatch.setattr("lmms_steer.smol.backbone.check_installed", lambda: None)
