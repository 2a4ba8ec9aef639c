"""A package with a small model in the place of SmolLM2's, and the real model where its package is installed."""

import hashlib
import os
import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from lmms_steer.smol import backbone, mllm, wheel
from lmms_steer.smol.backbone import BACKBONE
from lmms_steer.smol.made_folder import checkpoint_folder
from tests.helpers.smol import install_package, write_backbone, write_random_adapter

USERS_CACHE = Path(os.environ.get("LMMS_STEER_CACHE") or Path.home() / ".cache" / "lmms-steer")
"""The cache before a test replaces it."""


@pytest.fixture(scope="session")
def small_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("smol") / BACKBONE)


@pytest.fixture(scope="session")
def small_adapter(small_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_adapter(small_backbone, tmp_path_factory.mktemp("adapter"))


@pytest.fixture
def package(small_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The GGUF file of an installed package, which is converted to the small backbone."""
    content = b"GGUF of the test"
    file = install_package(tmp_path / "site", content)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(wheel, "GGUF_SHA256", hashlib.sha256(content).hexdigest())

    def convert(source: Path, folder: Path) -> None:
        assert (source / wheel.GGUF).read_bytes() == content
        shutil.copytree(small_backbone, folder, dirs_exist_ok=True)

    monkeypatch.setattr(backbone, "_convert", convert)
    return file


@pytest.fixture
def adapter(small_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an adapter for the small backbone, as if it shipped."""
    folder = Path(shutil.copytree(small_adapter, tmp_path / "shipped_adapter"))
    monkeypatch.setattr(mllm, "shipped_adapter", lambda: folder)
    return folder


@pytest.fixture(scope="session")
def made_smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache with the real model: the user's, or a new one. Skips without the package; any other failure fails."""
    try:
        distribution(wheel.PACKAGE)
    except PackageNotFoundError:
        pytest.skip(f"this test needs the package {wheel.PACKAGE}: make smol-model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMMS_STEER_CACHE", str(USERS_CACHE))
        cache = USERS_CACHE if checkpoint_folder(BACKBONE).exists() else tmp_path_factory.mktemp("cache")
        patch.setenv("LMMS_STEER_CACHE", str(cache))
        backbone.checkpoint()
    return cache


@pytest.fixture
def smollm2(made_smollm2: Path, own_cache: Path) -> Path:
    """The folder of the real backbone, which is in this test's cache."""
    (own_cache / "models").mkdir(parents=True)
    folder = own_cache / "models" / BACKBONE
    folder.symlink_to(made_smollm2 / "models" / BACKBONE)
    return folder
