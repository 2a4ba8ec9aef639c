"""An installed package that adds an operation and a prompt format, found by the real command line."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from PIL import Image

from lmms_steer import UserError
from lmms_steer.steering.operations import operations
from tests.helpers.models import vectors

MODULE = """
from lmms_steer import register_operation, register_prompt_format
from lmms_steer.models.prompts import paligemma_prefix


@register_operation("sink", description="h' = h - 2 s u", effect="{s:.4g} along v is subtracted twice", default_alpha=3)
def sink(hidden, vector):
    return hidden - 2 * vector.delta


@register_prompt_format("polite", description="a word before the question", matches=lambda processor: False)
def polite(processor, questions, visuals, answers):
    return paligemma_prefix(processor, [f"is {question}" for question in questions], visuals, answers)
"""
ENTRY_POINTS = """
[lmms_steer.operations]
sink = lmms_steer_extension:sink

[lmms_steer.prompt_formats]
polite = lmms_steer_extension:polite
"""


@pytest.fixture
def extension(tmp_path: Path) -> Path:
    """A folder with the package as an installer leaves it."""
    folder = tmp_path / "site"
    info = folder / "lmms_steer_extension-0.1.dist-info"
    info.mkdir(parents=True)
    (folder / "lmms_steer_extension.py").write_text(MODULE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lmms-steer-extension\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


def test_the_command_line_uses_the_operation_and_the_prompt_format(extension: Path, tmp_path: Path) -> None:
    path = vectors(5, 96, model="tiny-gemma2").save(tmp_path / "v.safetensors")
    Image.effect_noise((64, 64), 80).save(tmp_path / "x.png")
    args = f"pretrained=tiny-paligemma2,vector={path},layer=1,tokens=image,operation=sink,prompt_format=polite"
    line = ["inspect", "--prompt", "the square ?", "--image", str(tmp_path / "x.png"), "--model_args"]
    code = f"import sys; sys.path.insert(0, {str(extension)!r}); from lmms_steer.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *line, args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "along v is subtracted twice" in done.stdout and "alpha=3,tokens=image,operation=sink" in done.stdout
    assert "<bos> is the square ?" in done.stdout
    wrong = args.replace("operation=sink", "operation=snik")
    done = subprocess.run([sys.executable, "-c", code, *line, wrong], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "unknown operation 'snik': did you mean 'sink'" in done.stderr


def test_a_package_that_cannot_be_imported_is_named(extension: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (extension / "lmms_steer_extension.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(extension)
    monkeypatch.delitem(vars(operations), "_entry_points", raising=False)
    assert metadata.version("lmms-steer-extension") == "0.1"
    with pytest.raises(UserError, match="operation 'sink' of lmms-steer-extension cannot be loaded: No module named"):
        operations.get("sink")
    monkeypatch.delitem(vars(operations), "_entry_points")
