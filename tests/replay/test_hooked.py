"""Cells with hooks: each is a full pass of the decoder, but the images of the batch are encoded once."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from lmms_steer import SteeringSpec, SteeringVectors, steer
from lmms_steer.replay.changes import Change
from lmms_steer.replay.hooked import HookedBatch
from lmms_steer.steering.anatomy import model_facts
from lmms_steer.steering.resolve import resolve
from tests.helpers.models import batch_of, vectors

TEXTS = ("where is the cat ?", "how many cups are on the table ?")


def passes(model: Any, encoded: list[int]) -> Any:
    tower = model.model.vision_tower if hasattr(model.model, "vision_tower") else model.model.visual
    return tower.register_forward_hook(lambda *_: encoded.append(1))


@pytest.mark.parametrize("vlm", ["llava", "qwen2_5_vl"], indirect=True)
@pytest.mark.parametrize("generates", [False, True], ids=["letters", "texts"])
def test_images_of_a_batch_are_encoded_once_for_all_cells(vlm: Any, generates: bool) -> None:
    name, model, processor = vlm
    batch, v, encoded = batch_of(name, processor, *TEXTS), vectors(), list[int]()
    hooked = HookedBatch(model, batch, generates=generates)
    cells: Sequence[tuple[int, str]] = ((0, "image"), (2, "text"), (3, "both"))
    handle = passes(model, encoded)
    try:
        found = [hooked.base, *(hooked.steer(layer, torch.from_numpy(v[layer]), tokens) for layer, tokens in cells)]
    finally:
        handle.remove()
    assert len(encoded) == 1
    for (layer, tokens), logits in zip(cells, found[1:], strict=True):
        with steer(model, f"vector=v,layer={layer},alpha=1,tokens={tokens}", {"v": v}), torch.no_grad():
            assert torch.allclose(logits, model(**batch).logits[:, -1], atol=1e-5)
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("vlm", ["llava"], indirect=True)
def test_a_cell_that_steers_the_encoder_encodes_its_images_itself(vlm: Any) -> None:
    name, model, processor = vlm
    batch, encoded = batch_of(name, processor, *TEXTS), list[int]()
    facts = model_facts(model)
    assert facts.vision is not None
    v = SteeringVectors({0: torch.ones(facts.vision[1]).numpy()}, {})
    line = "vector=v,layer=0,alpha=1,site=vision"
    cell = Change(resolve(SteeringSpec.parse(line), facts, {"v": v}), 1.0)
    hooked = HookedBatch(model, batch)
    handle = passes(model, encoded)
    try:
        base, steered = hooked.base, hooked.steer(0, cell, "both")
    finally:
        handle.remove()
    assert len(encoded) == 2
    with steer(model, line, {"v": v}), torch.no_grad():
        assert torch.allclose(steered, model(**batch).logits[:, -1], atol=1e-5)
    assert (steered - base).abs().max() > 1e-3
