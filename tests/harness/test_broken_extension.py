"""An installed package whose extension cannot be imported."""

from importlib import metadata
from pathlib import Path

import pytest

from lmms_steer import UserError
from lmms_steer.steering.operations import operations

MODULE = """
from lmms_steer import register_operation, register_prompt_format
from lmms_steer.models.prompt_formats import paligemma_prefix


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


def test_a_package_that_cannot_be_imported_is_named(extension: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (extension / "lmms_steer_extension.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(extension)
    monkeypatch.delitem(vars(operations), "_entry_points", raising=False)
    assert metadata.version("lmms-steer-extension") == "0.1"
    with pytest.raises(UserError, match="operation 'sink' of lmms-steer-extension cannot be loaded: No module named"):
        operations.get("sink")
    monkeypatch.delitem(vars(operations), "_entry_points")
