"""A repository on the Hub may hold anything: what cannot be a vector is not downloaded, and nothing leads elsewhere."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from lmms_steer import UserError
from lmms_steer.vectors import hub
from lmms_steer.vectors.file_checks import MAX_FILE
from tests.helpers.models import vectors


class File:
    def __init__(self, path: str, size: int) -> None:
        self.path, self.size = path, size


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes | int]:
    """Path ▸ content, or only a size for a file that must not be downloaded."""
    files: dict[str, bytes | int] = {}

    class Api:
        def list_repo_tree(self, *args: Any, **more: Any) -> list[File]:
            return [File(path, data if isinstance(data, int) else len(data)) for path, data in files.items()]

    def download(repo: str, name: str, revision: str | None) -> str:
        data = files[name]
        assert isinstance(data, bytes), f"{name} was downloaded"
        path = tmp_path / "downloaded" / str(list(files).index(name))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return str(path)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return files


def test_only_what_can_be_a_vector_is_downloaded_and_the_others_are_served(
    repository: dict[str, bytes | int], tmp_path: Path
) -> None:
    good, deep = vectors(), b"b: " + b"[" * 5000
    repository |= {
        "model-00001-of-00002.safetensors": 50 << 30,
        "../../out.safetensors": 100,
        "/etc/out.safetensors": 100,
        "long.safetensors": vectors(model="m" * 300).to_bytes(),
        "bomb.safetensors": vectors(concept="bomb").to_bytes(),
        "bomb.choices.yaml": deep,
        "large.safetensors": vectors(concept="large").to_bytes(),
        "large.choices.yaml": MAX_FILE + 1,
        "good.safetensors": good.to_bytes(),
    }
    lines = list(hub.pull_vectors("u/r", None, tmp_path / "store"))
    assert [line for line in lines if not line.startswith("left out: ")] == [
        f"{name} -> {tmp_path / 'store' / name}.safetensors"
        for name in (f"some-backbone/{concept}/mean_shift" for concept in ("bomb", "large", "spatial"))
    ]
    refused = "\n".join(line for line in lines if line.startswith("left out: "))
    reasons = [
        "largest vector file",
        "'../../out.safetensors' is not a path",
        "'/etc/out",
        "200 bytes",
        "too deeply",
    ]
    assert [reason for reason in reasons if reason not in refused] == []
    assert not list((tmp_path / "store").rglob("*.choices.yaml"))


def test_a_repository_of_too_many_files_is_refused(
    repository: dict[str, bytes | int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "MAX_FILES", 3)
    repository |= {f"{number}.txt": 1 for number in range(4)}
    with pytest.raises(UserError, match="'u/r' has more than 3 files"):
        list(hub.pull_vectors("u/r", None, tmp_path / "store"))
