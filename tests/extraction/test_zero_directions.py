"""A concept whose anchors are its controls has no direction, and none is written."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lmms_steer import concepts
from lmms_steer.cli import app
from lmms_steer.errors import UserError
from lmms_steer.extraction.extract import Backbone
from lmms_steer.extraction.job import MethodResult
from lmms_steer.vectors import store


@pytest.mark.slow
def test_identical_sentences_are_refused_and_a_layer_of_norm_0_is_noted(own_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "same.yaml").write_text("name: same\npairs: [{left: It is left.}]\ncontrast: [{left: It is left.}]\n")
    line = ["extract", "--backbone", "tiny-gemma2", "--concept", str(tmp_path / "same.yaml")]
    failed = CliRunner().invoke(app, line)
    assert isinstance(failed.exception, UserError)
    assert str(failed.exception).startswith("not made: same, mean_shift: the direction has norm 0 at every layer")
    assert not list(store.user_store().rglob("*.safetensors"))
    line[4] += ",spatial"
    failed = CliRunner().invoke(app, line)
    assert str(failed.exception).startswith("not made: same, mean_shift: the direction has norm 0 at every layer")
    assert "WARNING: left out: same, mean_shift" in failed.output
    assert [path.parent.name for path in store.user_store().rglob("*.safetensors")] == ["spatial"]

    def half(activations: object, job: object) -> MethodResult:
        return MethodResult({layer: np.full(96, float(layer % 2)) for layer in range(5)})

    backbone = Backbone("tiny-gemma2")
    concept = concepts.load("spatial")
    extracted = backbone.extract(concept, half, backbone.read(concept))
    assert extracted.notes == ("tiny-gemma2/spatial/half: norm 0 at layer 0, 2, 4: it cannot steer there",)
