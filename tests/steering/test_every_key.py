"""What holds for every built-in site, gate, scale, operation and preset."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lmms_steer import SteeringSpec, SteeringVectors, continuation, steer
from lmms_steer.harness.presets import expand_preset, find_preset, presets
from lmms_steer.models import CONTRAST_ARGS
from lmms_steer.steering.facts import ModelFacts, vision_shape
from lmms_steer.steering.gates import FIRES, READS, gates
from lmms_steer.steering.intervention import SCALES
from lmms_steer.steering.operations import operations
from lmms_steer.steering.resolve import resolve
from lmms_steer.steering.sites import sites
from tests.helpers.models import batch_of, vectors
from tests.steering.test_gates import PROBE
from tests.steering.test_hooks import TEXTS, forward, hook_counts

V = vectors(scale=0.5)
FACTS = ModelFacts("m", 4, 48, vision=(2, 32))
BUILT_IN = {"residual", "input", "mlp", "attention", "vision", "vision_mlp"}


def in_tower(line: str) -> bool:
    return any(f"site={name}" in line.split(",") for name, site in sites.loaded().items() if site.tower == "vision")


def lines() -> dict[str, str]:
    """Name ▸ keys of a spec, without vector, layer, alpha and tokens."""
    found = {f"site {name}": f"site={name}" for name in sites.loaded() if name in BUILT_IN}
    for name, gate in gates.loaded().items():
        probe = ",gate_vector=p" if gate.needs_probe else ""
        for read in READS if name in ("cosine", "probe") else ():
            found[f"gate {name} {read}"] = f"gate={name},read={read},gate_layer=0{probe}"
    found["gate below"] = "gate=cosine,fires=below,threshold=0.02"
    found |= {f"operation {name}": f"operation={name}" for name in operations.loaded() if name != "double"}
    found["token"] = "scale=token,operation=norm_preserving_weighted,site=mlp"  # noqa: S105  no password
    found["cast"] = "site=input,scale=unit,gate=cosine,read=prompt,gate_layer=0,threshold=-1"
    return found


def given(model: Any) -> dict[str, SteeringVectors]:
    shape = vision_shape(model.config)
    assert shape is not None
    return {"v": V, "p": PROBE, "t": vectors(*shape)}


def spec_of(keys: str, alpha: float = 1.0) -> str:
    if in_tower(keys):
        return f"vector=t,layer=0,alpha={alpha},{keys}"
    return f"vector=v,layer=1,alpha={alpha},tokens=both,phase=all,{keys}"


def preset_specs(alpha: float) -> dict[str, SteeringSpec]:
    """The interventions of every preset that has some, on a model of four layers."""
    found = {}
    for variants in presets().values():
        for preset in variants.values():
            tower = "vision" in preset.name
            own = {"vector": "t" if tower else "v", "gate_vector": "v", "layers": "0-1", "threshold": 0.1}
            args = {key: own[key] for key in preset.needs} | {"alpha": alpha}
            args |= {key: 1 for key in ("layer", "gate_layer") if key in preset.args}
            args |= {"layers": "2-3"} if "gate_layer" in preset.args else {}
            settings = {key for key in preset.args if key not in CONTRAST_ARGS}
            if settings:
                expanded = expand_preset({"preset": preset.name, **args})
                spec = {key: value for key, value in expanded.items() if key not in CONTRAST_ARGS}
                found[preset.name] = SteeringSpec.from_args(spec)
    return found


@pytest.mark.parametrize("causal_vlm", ["llava"], indirect=True)
def test_alpha_0_is_the_unsteered_model_to_the_bit(causal_vlm: Any) -> None:
    name, model, processor = causal_vlm
    batch, options = batch_of(name, processor, *TEXTS), {"max_new_tokens": 2, "do_sample": False}
    plain, counts = forward(model, batch), hook_counts(model)
    written = model.generate(**batch, **options)
    specs = {key: SteeringSpec.parse(spec_of(keys, 0)) for key, keys in lines().items()} | preset_specs(0)
    assert {"vti:code", "vti:vision", "vista:code", "revis:paper", "cast:code"} <= set(specs)
    for key, spec in specs.items():
        with steer(model, spec, given(model)):
            assert hook_counts(model) == counts, key
            assert torch.equal(forward(model, batch), plain), key
            assert torch.equal(model.generate(**batch, **options), written), key


@pytest.mark.parametrize("key", lines())
@pytest.mark.parametrize("causal_vlm", ["llava"], indirect=True)
def test_every_way_of_running_gives_the_same(causal_vlm: Any, key: str) -> None:
    name, model, processor = causal_vlm
    batch, alone = batch_of(name, processor, *TEXTS), batch_of(name, processor, TEXTS[0])
    length, spec = batch["input_ids"].shape[1], spec_of(lines()[key])
    options: dict[str, Any] = {"max_new_tokens": 3, "min_new_tokens": 3, "output_logits": True}
    options["return_dict_in_generate"] = True
    options["suppress_tokens"] = [model.config.image_token_id]
    plain = forward(model, batch)[:, -1]
    with steer(model, spec, given(model)):
        together = forward(model, batch)[:, -1]
        assert (forward(model, alone)[0, -1] - together[0]).abs().max() < 1e-4
        cached, whole = (model.generate(**batch, **options, do_sample=False, use_cache=use) for use in (True, False))
        assert (torch.stack(cached.logits) - torch.stack(whole.logits)).abs().max() < 1e-4
        beams = [
            model.generate(**batch, **options, num_beams=2, num_return_sequences=2, output_scores=True, use_cache=use)
            for use in (True, False)
        ]
        assert torch.equal(beams[0].sequences, beams[1].sequences)
        assert (beams[0].sequences_scores - beams[1].sequences_scores).abs().max() < 1e-4
        torch.manual_seed(0)
        drawn = model.generate(**batch, **options, do_sample=True, top_k=0, num_return_sequences=2)
        # what was drawn, scored in one call without a cache
        images = {k: v.repeat_interleave(2, 0) for k, v in batch.items() if k == "pixel_values"}
        mask = torch.ones_like(drawn.sequences)
        mask[:, :length] = batch["attention_mask"].repeat_interleave(2, 0)
        with continuation(3):
            scored = forward(model, {"input_ids": drawn.sequences, "attention_mask": mask, **images}, use_cache=False)
        assert (torch.stack(drawn.logits, 1) - scored[:, length - 1 : -1]).abs().max() < 1e-4
    if not key.startswith("gate"):
        assert (together - plain).abs().max() > 1e-4, "the spec has an effect"


def test_every_spec_is_one_line_and_a_file_and_has_a_hash_of_its_own(tmp_path: Path) -> None:
    more = {f"scale {name}": f"scale={name}" for name in SCALES if name != "relative"}
    more |= {f"fires {name}": f"gate=cosine,fires={name},threshold=0.3" for name in FIRES}
    more |= {"own gate": "gate=cosine", "gate vector": "gate=cosine,gate_vector=p", "layers": 'layers="0,2"'}
    hashes: dict[str, str] = {}
    for key, keys in {**lines(), **more}.items():
        line = spec_of(keys).replace("layer=1,", "" if "layers=" in keys else "layer=1,")
        spec = SteeringSpec.parse(line)
        assert SteeringSpec.parse(str(spec)) == spec and len(str(spec).splitlines()) == 1, key
        (tmp_path / "s.yaml").write_text(spec.to_yaml())
        assert SteeringSpec.from_yaml(tmp_path / "s.yaml") == spec, key
        sha256 = resolve(spec, FACTS, {"v": V, "p": PROBE, "t": vectors(2, 32)}).sha256
        # at their defaults these keys say nothing, so that older hashes hold
        if keys not in ("site=residual", "operation=add", "scale=raw"):
            assert sha256 not in hashes.values(), (key, hashes)
            hashes[key] = sha256
    default = resolve(SteeringSpec.parse(spec_of("scale=raw")), FACTS, {"v": V}).sha256
    assert default not in hashes.values() and find_preset("vista").args["operation"] == "norm_preserving_weighted"
