"""Stored stages of the tiny checkpoints' training: the same command continues there, and others are refused."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from training import __main__ as command


class Stage:
    """In the place of a trained model."""

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "model").write_text("trained")


def test_stages_of_another_seed_or_of_a_quick_training_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []

    def stage(name: str) -> Callable[..., Stage]:
        def train(*_: object) -> Stage:
            trained.append(name)
            return Stage()

        return train

    for name in ("text", "vision", "mllm"):
        monkeypatch.setattr(command, f"_{name}", stage(name))
    command.train(tmp_path, seed=0, quick=True)
    shutil.rmtree(tmp_path / "stages" / "mllm")
    command.train(tmp_path, seed=0, quick=True)
    assert trained == ["text", "vision", "mllm", "mllm"]
    for seed, quick, found in ((0, False, r"quick True \(now False\)"), (1, True, r"seed 0 \(now 1\)")):
        with pytest.raises(SystemExit, match=f"stages/text is of a training with {found}: delete it, or choose"):
            command.train(tmp_path, seed, quick)
    # of a version that did not record them
    (tmp_path / "stages" / "vision" / "training.json").unlink()
    with pytest.raises(SystemExit, match="stages/vision does not record the options"):
        command.train(tmp_path, seed=0, quick=True)
    assert trained == ["text", "vision", "mllm", "mllm"]
