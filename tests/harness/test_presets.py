"""Presets: other methods' settings as keys of `--model_args`."""

from typing import Any

import pytest
import torch
from PIL import Image

from lmms_steer import find_alpha, inspect, load_vectors, steer
from lmms_steer.errors import UserError
from lmms_steer.harness.arguments import check_model_args
from lmms_steer.harness.presets import expand_preset, find_preset, presets
from lmms_steer.harness.steered import SteeredPaliGemma
from lmms_steer.models import CONTRAST_ARGS
from lmms_steer.models.contrasts import read_contrast
from lmms_steer.search.fixed_keys import FixedKeys
from lmms_steer.steering.spec import SteeringSpec

GIVEN = {"vector": "tiny-gemma2/spatial", "layers": "0-4", "threshold": 0.1, "gate_vector": "tiny-gemma2/counting"}
NAMES = [preset.name for variants in presets().values() for preset in variants.values()]


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_is_an_ordinary_spec_and_contrast(name: str) -> None:
    preset = find_preset(name)
    args = expand_preset({"preset": name, **{key: GIVEN[key] for key in preset.needs}, "pretrained": "x"})
    assert args.pop("pretrained") == "x" and "preset" not in args
    contrast = read_contrast({key: args.pop(key) for key in CONTRAST_ARGS if key in args})
    spec = SteeringSpec.from_args(args)
    assert spec or contrast
    assert SteeringSpec.parse(str(spec)) == spec
    assert preset.source and preset.about


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        (
            "vista",
            "contrast=sla, which preset=vista sets: .* write out its other keys, which `lmms-steer presets vista`",
        ),
        ("vcd:paper", "contrast=vcd, which preset=vcd:paper sets: .* the preset has no other keys"),
    ],
)
def test_where_a_contrast_has_no_place_the_preset_that_sets_one_is_named(preset: str, message: str) -> None:
    more = ",layers=0-2" if preset == "vista" else ""
    with pytest.raises(UserError, match=message):
        inspect("a ball", f"pretrained=tiny-paligemma2,preset={preset}{more}", "steered_paligemma")
    with pytest.raises(UserError, match="^contrast=vcd: a contrast is for evaluations with lmms-eval; leave it out$"):
        inspect("a ball", "pretrained=tiny-paligemma2,contrast=vcd", "steered_paligemma")


def test_where_presets_are_not_taken_an_error_says_how_to_write_one_out() -> None:
    model, spec = torch.nn.Linear(2, 2), "vector=spatial,layer=1"
    expected = "preset=vti:code: presets are for --model_args; here write out the keys that `lmms-steer presets vti`"
    for attempt in (
        lambda: steer(model, f"{spec},preset=vti:code").__enter__(),
        lambda: steer(model, "spatial", layer=1, preset="vti:code").__enter__(),  # type: ignore[arg-type]
        lambda: find_alpha(model, None, "spatial", "kl:0.1", tokens="text", layer=1, preset="vti:code"),
        lambda: SteeringSpec.from_dicts([{"vector": "spatial", "preset": "vti:code"}]),
        lambda: FixedKeys.parse("site=mlp,preset=vti:code"),
    ):
        with pytest.raises(UserError, match=expected):
            attempt()
    with pytest.raises(UserError, match="unknown steering key 'aplha': did you mean 'alpha'"):
        steer(model, "spatial", aplha=1).__enter__()  # type: ignore[arg-type]


def test_the_keys_of_a_preset_written_out_can_be_searched() -> None:
    keys = FixedKeys.parse("site=mlp,phase=all,scale=token,operation=norm_preserving").keys
    searched = {"vector", "layer", "layers", "alpha", "tokens"}
    assert keys == {key: value for key, value in find_preset("vti").args.items() if key not in searched}


def test_what_is_given_replaces_the_preset_s_own_value_and_a_layer_its_layers() -> None:
    args = expand_preset({"preset": "cast", "vector": "v", "gate_vector": "g", "layer": 3, "alpha": 2})
    assert args["layer"] == 3 and "layers" not in args and args["alpha"] == 2 and args["gate_layer"] == 7
    assert expand_preset({"preset": "vcd:paper"})["contrast_beta"] == 0.1
    assert expand_preset({"preset": "vcd"})["contrast_beta"] == 0.2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("preset=vtj", "unknown preset 'vtj': did you mean 'vti'"),
        ("preset=vti:paper,vector=v,layers=0-2", "preset=vti:paper: vti has the variants code, vision"),
        ("preset=vti,vector=v", "preset=vti:code needs layers=… beside it"),
        ("preset=vcd,vector=v", "vector=v: preset=vcd:code has no such setting"),
    ],
)
def test_a_preset_that_cannot_be_written_out_is_refused_in_one_line(args: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_model_args("steered_hf", f"pretrained=tiny-paligemma2,{args}")


def test_vti_pushes_what_the_mlps_add_and_keeps_its_norm() -> None:
    lm = SteeredPaliGemma(pretrained="tiny-paligemma2")
    model, vectors = lm.model, load_vectors("tiny-gemma2/spatial")
    inputs = lm.model_inputs(["what colour is the square ?"], [[Image.new("RGB", (64, 64), "red")]])

    def logits() -> torch.Tensor:
        with torch.inference_mode():
            found: torch.Tensor = model(**inputs).logits
            return found

    def push(layer: int) -> Any:
        unit = torch.nn.functional.normalize(torch.from_numpy(vectors[layer].copy()), dim=0)

        def change(_module: Any, _args: Any, x: torch.Tensor) -> torch.Tensor:
            norm = x.norm(dim=-1, keepdim=True)
            pushed: torch.Tensor = norm * torch.nn.functional.normalize(x / norm + 0.3 * unit, dim=-1)
            return pushed

        return change

    plain = logits()
    args = expand_preset({"preset": "vti", "vector": "tiny-gemma2/spatial", "layers": "0-4", "alpha": 0.3})
    with steer(model, SteeringSpec.from_args(args)):
        steered = logits()
    # Gemma 2 normalises what its MLP returns before it adds it
    layers = model.model.language_model.layers
    handles = [layers[i].post_feedforward_layernorm.register_forward_hook(push(i)) for i in range(5)]
    expected = logits()
    for handle in handles:
        handle.remove()
    assert (steered - expected).abs().max() < 1e-4 < (plain - expected).abs().max()
