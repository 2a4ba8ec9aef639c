"""Several layers in one spec: the same alpha at each, with the layer's own direction."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmms_steer import Intervention, SteeringSpec, SteeringVectors, UserError, steer
from lmms_steer.steering.facts import ModelFacts
from lmms_steer.steering.resolve import resolve
from tests.helpers.models import batch_of, vectors
from tests.steering.reference import active_parts
from tests.steering.test_hooks import TEXTS, forward, hook_counts

V = vectors(scale=0.5)
FACTS = ModelFacts("m", 4, 48)
LINE = "vector=v,alpha=0.5,tokens=both"


def test_each_of_the_layers_is_changed_by_its_own_direction(vlm: Any) -> None:
    name, model, processor = vlm
    batch = batch_of(name, processor, *TEXTS)
    real = batch["attention_mask"].bool().unsqueeze(-1)

    def add(layer: int) -> Any:
        return lambda module, args, out: torch.where(real, out + 0.5 * torch.from_numpy(V[layer]), out)  # noqa: ARG005

    handles = [model.get_decoder().layers[layer].register_forward_hook(add(layer)) for layer in (0, 2, 3)]
    expected = forward(model, batch)
    for handle in handles:
        handle.remove()
    counts = hook_counts(model)
    with steer(model, f'{LINE},layers="0,2-3"', {"v": V}):
        assert (forward(model, batch) - expected).abs().max() < 1e-5
    with steer(model, V, layers=[3, 0, 2], alpha=0.5, tokens="both"):
        assert (forward(model, batch) - expected).abs().max() < 1e-5
    with steer(model, V, layers="0-3", alpha=0, tokens="both"):
        assert hook_counts(model) == counts


@pytest.mark.parametrize(
    ("given", "written"),
    [("1-3", "1-3"), ("1,2,3", "1-3"), ("0-8:4", "0-8:4"), ("7,3", "3,7"), ([2, 1], "1-2"), (range(0, 9, 4), "0-8:4"),
     ("1,2,4", "1,2,4"), ("5-9:3", "5,8")],
)  # fmt: skip
def test_layers_have_one_written_form(given: Any, written: str, tmp_path: Path) -> None:
    spec = SteeringSpec((Intervention("v", alpha=0.5, tokens="both", layers=given),))
    assert spec.interventions[0].layers == written
    assert SteeringSpec.parse(str(spec)) == spec
    (tmp_path / "s.yaml").write_text(spec.to_yaml())
    assert SteeringSpec.from_yaml(tmp_path / "s.yaml") == spec


def test_one_layer_alone_is_the_spec_of_that_layer() -> None:
    given: Any
    for given in ("3", [3], np.array([3]), np.array(3), torch.tensor(3).numpy()):
        assert Intervention("v", layers=given) == Intervention("v", 3)


def test_the_hash_names_the_layers_and_is_what_it_was_for_other_specs() -> None:
    norms = {layer: {"image": 1.5, "text": 2.5, "both": 2.0, "last": 3.0} for layer in range(4)}
    hashes = {}
    for line in (
        "vector=v,layer=1,alpha=0.5,tokens=image",
        "vector=v,layer=2,alpha=-1,tokens=both,phase=all,operation=norm_preserving,gamma_text=0.5",
        "vector=v,layer=1,alpha=0.5,tokens=text,scale=relative; vector=v,layer=3,alpha=2,tokens=last",
        "vector=v,layers=1-2,alpha=0.5,tokens=image",
        "vector=v,layers=1-3,alpha=0.5,tokens=image",
    ):
        resolved = resolve(SteeringSpec.parse(line), replace(FACTS, norms=norms), {"v": vectors()})
        hashes[line] = resolved.sha256
    # written by the release before there were several layers, sites and gates
    assert [sha256[:16] for sha256 in list(hashes.values())[:3]] == [
        "b1655eb4ed77bee5",
        "df0bfbcffb866d45",
        "8337f6f7f95306a7",
    ]
    assert len(set(hashes.values())) == 5
    assert resolved.tag.startswith("spatial-mean_shift_L1-3_a0.5_image_")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("layers=3-1", "layers=3-1: 3-1 runs backwards"),
        ("layers=all", "layers=all: expected layers such as"),
        ("layer=1,layers=1-2", "layer=1,layers=1-2: give one of them"),
        ("layers=2-9", "layers=2-9: m has the layers 0-3"),
        ("layers=0-3", "layer=3: some-backbone/spatial/mean_shift has the layers 0-2"),
        ("layers=0-99999", "more than 10000 layers"),
    ],
)
def test_wrong_layers_are_one_line(line: str, expected: str) -> None:
    short = SteeringVectors({layer: V[layer] for layer in range(3)}, V.provenance)
    with pytest.raises(UserError, match=expected) as caught:
        resolve(SteeringSpec.parse(f"{LINE},{line}"), FACTS, {"v": short})
    assert len(str(caught.value).splitlines()) == 1


def test_a_strength_relative_to_the_residual_has_each_layer_s_norm() -> None:
    norms = {layer: {"both": 10.0 * (layer + 1)} for layer in range(4)}
    resolved = resolve(SteeringSpec.parse(f"{LINE},scale=relative,layers=1-2"), replace(FACTS, norms=norms), {"v": V})
    found = {part.layer: vector for part, vector in active_parts(resolved)}
    assert {layer: vector.strength for layer, vector in found.items()} == {1: 10.0, 2: 15.0}
    assert all(np.allclose(v.unit, V[int(l or 0)] / np.linalg.norm(V[int(l or 0)])) for l, v in found.items())  # noqa: E741
