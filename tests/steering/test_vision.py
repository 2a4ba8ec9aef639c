"""The vision tower: every patch of a layer's output is changed, against towers whose forward is edited here."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lmms_steer import SteeringSpec, SteeringVectors, UserError, steer
from lmms_steer.steering.anatomy import vision_layers
from lmms_steer.steering.facts import ModelFacts, vision_shape
from lmms_steer.steering.loaded_fit import deepest_read
from lmms_steer.steering.resolve import resolve
from tests.helpers.architectures import model as tiny
from tests.helpers.checkpoints import build
from tests.helpers.models import batch_of, vectors
from tests.steering.test_hooks import TEXTS, forward, hook_counts

PATHS = {
    "paligemma1": "model.vision_tower.encoder.layers",
    "paligemma2": "model.vision_tower.encoder.layers",
    "gemma3": "model.vision_tower.encoder.layers",
    "llava": "model.vision_tower.encoder.layers",
    "llava_onevision": "model.vision_tower.encoder.layers",
    "idefics3": "model.vision_model.encoder.layers",
    "smolvlm": "model.vision_model.encoder.layers",
    "qwen2_5_vl": "model.visual.blocks",
    "qwen3_vl": "model.visual.blocks",
    "internvl": "model.vision_tower.encoder.layer",
}
ALPHA = 0.7


def push(model: Any) -> SteeringVectors:
    shape = vision_shape(model.config)
    assert shape is not None
    return vectors(*shape)


@contextmanager
def edited(model: Any, name: str, v: SteeringVectors, layers: list[int], token: bool = False) -> Iterator[None]:
    """The tower with alpha·v added inside of the layers' own forward, before any hook runs."""
    tower = model.get_submodule(PATHS[name])

    def adding(original: Callable[..., Any], direction: Tensor) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            output = original(*args, **kwargs)
            hidden = output[0] if isinstance(output, tuple) else output
            unit = direction / direction.norm()
            changed = hidden + ALPHA * (hidden.norm(dim=-1, keepdim=True) * unit if token else direction)
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return run

    for layer in layers:
        tower[layer].forward = adding(tower[layer].forward, torch.from_numpy(v[layer]))
    try:
        yield
    finally:
        for layer in layers:
            del tower[layer].forward


@pytest.mark.parametrize(("layers", "scale"), [([0], "raw"), ([0, 1], "token")])
def test_every_patch_of_a_layer_is_changed(vlm: Any, layers: list[int], scale: str) -> None:
    name, model, processor = vlm
    batch, v = batch_of(name, processor, *TEXTS), push(model)
    # a first call, in which transformers may install its own hooks
    plain, counts = forward(model, batch), hook_counts(model)
    with edited(model, name, v, layers, scale == "token"):
        expected = forward(model, batch)
    # the projector of a new Gemma 3 is zero
    assert name == "gemma3" or (expected - plain).abs().max() > 1e-4
    spec = SteeringSpec.parse(f'vector=v,layers="{",".join(map(str, layers))}",alpha={ALPHA},site=vision,scale={scale}')
    with steer(model, spec, {"v": v}) as resolved:
        assert (forward(model, batch) - expected).abs().max() < 1e-5
    assert resolved.spec.interventions[0].tokens == "both" and hook_counts(model) == counts
    with steer(model, v, layer=0, alpha=0, site="vision"):
        assert hook_counts(model) == counts
    assert torch.equal(forward(model, batch), plain)


def test_two_interventions_of_a_layer_act_in_their_order(causal_vlm: Any) -> None:
    """What is ablated last leaves a tenth of the component."""
    name, model, processor = causal_vlm
    batch, v = batch_of(name, processor, TEXTS[0]), push(model)
    lines = [f"vector=v,layer=0,alpha={a},site=vision,operation={o}" for a, o in ((3, "add"), (0.9, "ablate"))]
    tower, unit = model.get_submodule(PATHS[name]), torch.from_numpy(v[0]) / torch.from_numpy(v[0]).norm()
    seen: list[Tensor] = []
    for spec in (lines[0], "; ".join(lines)):
        with steer(model, spec, {"v": v}):
            handle = tower[0].register_forward_hook(lambda m, a, o: seen.append(o[0] if isinstance(o, tuple) else o))  # noqa: ARG005
            forward(model, batch)
            handle.remove()
    assert torch.allclose(seen[1] @ unit, 0.1 * (seen[0] @ unit), atol=1e-4)


def test_generation_and_batches_see_the_same_images(causal_vlm: Any) -> None:
    name, model, processor = causal_vlm
    batch, v = batch_of(name, processor, *TEXTS), push(model)
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "output_logits": True, "return_dict_in_generate": True}
    more = {"suppress_tokens": [model.config.image_token_id]}
    with steer(model, v, layer=0, alpha=ALPHA, site="vision"):
        cached = model.generate(**batch, **options, **more, do_sample=False)
        whole = model.generate(**batch, **options, **more, do_sample=False, use_cache=False)
        first = forward(model, batch_of(name, processor, TEXTS[0]))[0, -1]
        together = forward(model, batch)[0, -1]
    assert (torch.stack(cached.logits) - torch.stack(whole.logits)).abs().max() < 1e-4
    assert (first - together).abs().max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["mistral3", "mllama", "lighton_ocr", "ovis2", "muse_glimmer", "aria"])
def test_the_towers_of_other_architectures_are_found(architecture: str) -> None:
    made = tiny(architecture)
    found, shape = vision_layers(made), vision_shape(made.config)
    assert found is not None and shape is not None and len(found) == shape[0]
    assert any(parameter.shape[-1] == shape[1] for parameter in found[0].parameters())


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("tokens=text", "site=vision,tokens=text: every patch is steered there, leave tokens out"),
        ("phase=all", "site=vision,phase=all: a vision tower has no such choice"),
        ("gate=cosine", "site=vision,gate=cosine: a vision tower has no such choice"),
        ("gamma_text=2", "site=vision,gamma_text=2.0: a vision tower has no such choice"),
        ("scale=relative", "site=vision,scale=relative: norms are measured in the decoder"),
        ("layer=2", "layer=2: m's vision tower has the layers 0-1"),
        ("layer=1", "vector 'v' has width 48, but m's vision tower's hidden size is 32"),
    ],
)
def test_what_a_vision_tower_lacks_is_one_line(keys: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        resolve(
            SteeringSpec.parse(f"vector=v,site=vision,{keys}"), ModelFacts("m", 4, 48, vision=(2, 32)), {"v": vectors()}
        )
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("read", "n_layers", "deepest"),
    [(-2, 24, 22), (-1, 24, 23), (0, 24, -1), (1, 24, 0), ([-2, 3], 24, 22), ([0, 3], 24, 2), (None, 24, 23)],
)
def test_the_deepest_layer_that_is_read(read: Any, n_layers: int, deepest: int) -> None:
    assert deepest_read(SimpleNamespace(vision_feature_layer=read), n_layers) == deepest


@pytest.mark.parametrize("site", ["vision", "vision_mlp"])
def test_a_layer_that_the_decoder_does_not_see_is_refused(site: str) -> None:
    """LLaVA reads the output of the last layer but one."""
    made, _ = build("llava")
    last = len(made.get_submodule(PATHS["llava"])) - 1
    expected = rf"site={site},layer={last}: LlavaFor.* up to layer {last - 1} \(vision_feature_layer=-2\), so this"
    with pytest.raises(UserError, match=expected), steer(made, push(made), layer=last, alpha=1, site=site):
        pass
    with steer(made, push(made), layers=[last - 1, last], alpha=1, site=site):
        pass


def test_a_model_without_a_known_tower_is_refused() -> None:
    with pytest.raises(UserError, match="site=vision: m has no vision tower whose layers are at a known place"):
        resolve(SteeringSpec.parse("vector=v,site=vision"), ModelFacts("m", 4, 48), {"v": vectors()})
    made = tiny("deepseek_ocr2")
    refused = pytest.raises(UserError, match="has no vision tower whose layers are at a known place")
    with refused, steer(made, "vector=v,layer=0,site=vision", {"v": vectors(4, 64)}):
        pass
