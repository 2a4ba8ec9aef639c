"""`inspect`: how many tokens each layer changes, what gates read, and whose norms are shown, against hooks by hand."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lmms_steer import load_vectors
from lmms_steer.harness.steered import create_model
from lmms_steer.inspection.prompt import inspect_prompt, inspection_lines

PROMPT = "what colour is the square ?"
GATED = "vector=colour-red,layers=0-2,alpha=0.3,tokens=image,gate=cosine,threshold=0.08"


def inspected(args: str) -> tuple[Any, list[str], Any]:
    """The model without its hooks, what is printed, and the inputs of the prompt."""
    lm: Any = create_model("steered_paligemma", f"pretrained=tiny-paligemma2,{args}")
    picture = Image.effect_noise((64, 64), 80).convert("RGB").point(lambda value: value // 2)
    printed = list(inspection_lines(inspect_prompt(lm, [picture], PROMPT)))
    lm.attachment.remove()
    inputs = lm.model_inputs([PROMPT], [[picture]])
    return lm.model, printed, inputs


def run(model: Any, inputs: Any, hooks: dict[Any, Any]) -> None:
    handles = [module.register_forward_hook(hook) for module, hook in hooks.items()]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()


def test_every_layer_has_its_count_and_the_scores_that_its_gate_read() -> None:
    model, printed, inputs = inspected(GATED)
    image = inputs["input_ids"][0] == model.config.image_token_id
    red = load_vectors("tiny-gemma2/colour-red")
    expected = {}

    def hook(layer: int) -> Any:
        v = torch.from_numpy(red[layer].copy())

        def change(module: Any, args: Any, output: torch.Tensor) -> Any:  # noqa: ARG001
            cosines = output[0] @ v / (output[0].norm(dim=-1) * v.norm())
            fires = image & (cosines > 0.08)
            seen = cosines[image]
            expected[layer] = (int(fires.sum()), f"(here from {seen.min():.3g} to {seen.max():.3g})")
            return output + 0.3 * v * fires[None, :, None]

        return change

    run(model, inputs, {model.get_decoder().layers[layer]: hook(layer) for layer in range(3)})
    counts = [count for count, _ in expected.values()]
    assert len(set(counts)) > 1 and counts[2] > counts[0], "the layers differ"
    for layer, (count, scores) in expected.items():
        (line,) = [line for line in printed if line.startswith(f"layer {layer}, image: ")]
        assert scores in line
        assert layer == 0 or line.endswith(f": {count} of {int(image.sum())} steered")
    assert any(line.startswith(f"  image tokens: {counts[0]} of {int(image.sum())} steered") for line in printed)


def test_a_gate_that_reads_the_whole_prompt_shows_one_score() -> None:
    model, printed, inputs = inspected(f"{GATED.replace('layers=0-2', 'layer=1')},read=last")
    v = torch.from_numpy(load_vectors("tiny-gemma2/colour-red")[1].copy())
    scores: list[float] = []

    def read(module: Any, args: Any, output: torch.Tensor) -> None:  # noqa: ARG001
        scores.append(float(torch.cosine_similarity(output[0, -1], v, dim=0)))

    run(model, inputs, {model.get_decoder().layers[1]: read})
    (line,) = [line for line in printed if line.startswith("layer 1, image: ")]
    shown = re.fullmatch(r".* if the last prompt token's cosine is above 0.08 \(here (.*)\)", line)
    assert shown and math.isclose(float(shown[1]), scores[0], rel_tol=1e-2)


@pytest.mark.parametrize(
    ("site", "module"), [("mlp", "post_feedforward_layernorm"), ("attention", "post_attention_layernorm")]
)
def test_the_norms_are_those_of_the_site(site: str, module: str) -> None:
    model, printed, inputs = inspected(f"vector=colour-red,layer=1,alpha=0.2,tokens=image,scale=token,site={site}")
    image = inputs["input_ids"][0] == model.config.image_token_id
    means: list[float] = []

    def read(module: Any, args: Any, output: torch.Tensor) -> None:  # noqa: ARG001
        means.append(float(output[0, image].norm(dim=-1).mean()))

    run(model, inputs, {getattr(model.get_decoder().layers[1], module): read})
    n = int(image.sum())
    assert (
        f"  image tokens: {n} of {n} steered, mean |h| = {means[0]:.4g} at site={site}; 0.2 of that is added" in printed
    )


def test_one_intervention_twice_is_shown_twice(tmp_path: Path) -> None:
    one = "{vector: colour-red, layer: 1, alpha: 0.5, tokens: image, gate: cosine, threshold: -1}"
    (tmp_path / "twice.yaml").write_text(f"interventions:\n  - {one}\n  - {one}\n")
    _, printed, _ = inspected(f"steering={tmp_path / 'twice.yaml'}")
    (line,) = [line for line in printed if line.startswith("layer 1, ")]
    first, second = line.split("; ")
    assert first.split(" (here")[0].endswith(second.split(" (here")[0]) and first != second, (
        "the second reads the first"
    )
