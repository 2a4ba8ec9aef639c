"""Searches with vectors that have no direction at some layers, as vectors from SAE features have gaps."""

from pathlib import Path

import numpy as np
import pytest

from lmms_steer import SteeringVectors, UserError
from lmms_steer.vectors import store
from tests.helpers.searches import result_of, search_into


def with_gaps(folder: Path, *gaps: int, zero: int) -> str:
    """The file of a vector that lacks some layers, and has norm 0 at one."""
    whole = SteeringVectors.load(store.find("counting", "tiny-gemma2").path)
    directions = {layer: whole[layer] for layer in whole if layer not in gaps}
    directions[zero] = np.zeros_like(whole[zero])
    SteeringVectors(directions, whole.provenance).save(folder / "gaps.safetensors")
    return str(folder / "gaps.safetensors")


@pytest.mark.slow
def test_layers_without_a_direction_are_left_out_wherever_they_are(tmp_path: Path) -> None:
    vector = with_gaps(tmp_path, 1, zero=2)
    settings = {"vectors": (vector,), "layers": "1-4", "alphas": "1", "tokens": "both", "limit": 32}
    lines = search_into(tmp_path / "study", **settings)
    assert lines[0] == "layers where a vector has no direction are left out: 1, 2"
    assert any(line.startswith("4 cells x 32 questions") for line in lines), "two layers, the vector and its control"
    assert result_of(tmp_path / "study")["vectors"][vector]["best"]["layer"] in (3, 4)
    assert any("resumed" in line for line in search_into(tmp_path / "study", **settings))


@pytest.mark.slow
def test_a_search_without_a_layer_to_steer_is_refused(tmp_path: Path) -> None:
    vector = with_gaps(tmp_path, 1, 2, zero=4)
    with pytest.raises(
        UserError, match=r"has a direction at layer 0, 3, and at none of the layers to search, 1, 2, 4:"
    ):
        search_into(tmp_path / "study", vectors=(vector,), layers="1,2,4")
