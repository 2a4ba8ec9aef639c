"""`--at patches`: a direction for each patch of the vision tower, and `site=vision` with it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lmms_steer import SteeringError, SteeringSpec, SteeringVectors, UserError, steer
from lmms_steer.extraction.command import extract_to_store
from lmms_steer.extraction.job import ExtractionSettings
from lmms_steer.harness.presets import expand_preset
from lmms_steer.harness.steered import SteeredPaliGemma
from lmms_steer.inspection.vectors import cosine_by_layer
from lmms_steer.models.visuals import blank_visuals
from lmms_steer.steering.facts import ModelFacts
from lmms_steer.steering.resolve import resolve
from lmms_steer.tiny_world.question_sets import load_question_set
from lmms_steer.vectors.controls import random_like
from lmms_steer.vectors.formats import export_vector
from tests.helpers.models import batch_of
from tests.steering.test_hooks import TEXTS, forward, hook_counts
from tests.steering.test_vision import PATHS

ALPHA = 0.7


def patch_vectors(patches: int, width: int = 32, layers: int = 2) -> SteeringVectors:
    drawn = np.random.default_rng(0).standard_normal((layers, patches, width))
    return SteeringVectors(dict(enumerate(drawn)), {"model": "m", "concept": "c", "method": "drawn"})


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    rows = load_question_set("spatial", "select")[:5]
    for number, row in enumerate(rows):
        row["image"].save(folder / f"{number}.png")
    lines = [f'{{"image": "{number}.png", "prompt": "{row["question"]}"}}' for number, row in enumerate(rows)]
    (folder / "questions.jsonl").write_text("\n".join(lines))
    return folder


def by_hand(lm: Any, images: list[Any]) -> Tensor:
    """The mean output of each layer, by a loop over the tower's layers: [layers, patches, width]."""
    tower, total = lm.model.model.vision_tower, torch.zeros(1)
    for image in images:
        pixels = lm.model_inputs(["x"], [[image]])["pixel_values"]
        with torch.no_grad():
            hidden, outputs = tower.embeddings(pixels), []
            for layer in tower.encoder.layers:
                hidden = layer(hidden, attention_mask=None)
                hidden = hidden[0] if isinstance(hidden, tuple) else hidden
                outputs.append(hidden[0])
        total = total + torch.stack(outputs)
    return total / len(images)


def test_the_vector_is_the_mean_difference_of_each_patch(scenes: Path, tmp_path: Path) -> None:
    lm = SteeredPaliGemma(pretrained="tiny-paligemma2")
    settings = ExtractionSettings(image_contrast="blank", at="patches")
    found = extract_to_store(
        "tiny-paligemma2", ["sight"], ["mean_shift", "mean_shift-random"], tmp_path, 2, settings=settings,
        questions=scenes / "questions.jsonl",
    )  # fmt: skip
    lines = list(found)
    images = [row["image"] for row in load_question_set("spatial", "select")[:5]]
    expected = by_hand(lm, images) - by_hand(lm, [blank_visuals([image])[0] for image in images])
    layers, patches, width = expected.shape
    assert any(f"5 anchors, 5 controls, {layers} layers x {patches} patches x {width} ->" in line for line in lines)
    path = tmp_path / "tiny-paligemma2" / "sight" / "mean_shift.safetensors"
    vectors = SteeringVectors.load(path)
    assert torch.allclose(torch.stack([torch.from_numpy(vectors[k]) for k in vectors]), expected, atol=1e-5)
    assert vectors.patches == patches and vectors.provenance["settings"]["anchors"] == 5
    assert vectors.provenance["n_layers"] == layers and "vision tower" in vectors.provenance["layer_convention"]
    drawn = SteeringVectors.load(path.with_name("mean_shift-random.safetensors"))
    assert np.allclose(np.linalg.norm(drawn[1], axis=1), np.linalg.norm(vectors[1], axis=1), rtol=1e-5)
    # the tower sees no prompts, so that a control with the images of other questions would be the vector itself
    assert not path.with_name("mean_shift-shuffled_images.safetensors").exists()
    assert abs(cosine_by_layer(vectors, drawn)[1]) < 0.5
    keys = {"layers": "0-1", "alpha": -0.1, "site": "vision", "scale": "token", "operation": "norm_preserving"}
    steered = SteeredPaliGemma(pretrained="tiny-paligemma2", vector=str(path), **keys)
    inputs = lm.model_inputs(["what colour is the square ?"], [[images[0]]])
    assert not torch.equal(forward(steered.model, inputs), forward(lm.model, inputs))


@pytest.mark.parametrize("keys", ["scale=raw", "scale=token,operation=norm_preserving"])
@pytest.mark.parametrize("vlm", ["paligemma2", "llava", "idefics3"], indirect=True)
def test_each_patch_is_changed_by_its_own_row(vlm: Any, keys: str) -> None:
    name, model, processor = vlm
    batch = batch_of(name, processor, *TEXTS)
    layer, seen = model.get_submodule(PATHS[name])[0], list[Tensor]()
    handle = layer.register_forward_hook(lambda m, a, o: seen.append(o[0] if isinstance(o, tuple) else o))
    plain, counts = forward(model, batch), hook_counts(model)
    handle.remove()
    v = patch_vectors(seen[0].shape[1])
    directions, original = torch.from_numpy(v[0]), layer.forward

    def edited(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        hidden = output[0] if isinstance(output, tuple) else output
        changed = hidden.clone()
        for image in range(len(hidden)):
            for patch in range(hidden.shape[1]):
                h, row = hidden[image, patch], directions[patch]
                if keys == "scale=raw":
                    changed[image, patch] = h + ALPHA * row
                else:
                    n = h / h.norm() + ALPHA * row / row.norm()
                    changed[image, patch] = h.norm() * n / n.norm()
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    layer.forward = edited
    expected = forward(model, batch)
    del layer.forward
    assert (expected - plain).abs().max() > 1e-4
    with steer(model, f"vector=v,layer=0,alpha={ALPHA},site=vision,{keys}", {"v": v}):
        assert (forward(model, batch) - expected).abs().max() < 1e-5
        alone = forward(model, batch_of(name, processor, TEXTS[0]))[0, -1]
        assert (alone - forward(model, batch)[0, -1]).abs().max() < 1e-4
    with steer(model, v, layer=0, alpha=0, site="vision"):
        assert torch.equal(forward(model, batch), plain) and len(counts) == len(hook_counts(model))
    wrong = patch_vectors(len(directions) + 1)
    expected_error = f"for each of {len(directions) + 1} patches, and vision layer 0 has {len(directions)}"
    with pytest.raises(SteeringError, match=expected_error), steer(model, wrong, layer=0, alpha=1, site="vision"):
        forward(model, batch)


@pytest.mark.parametrize("vlm", ["paligemma2", "llava"], indirect=True)
def test_vti_s_vision_half_pushes_what_the_tower_s_mlps_add(vlm: Any) -> None:
    name, model, processor = vlm
    batch, layers = batch_of(name, processor, *TEXTS), model.get_submodule(PATHS[name])
    seen: list[Tensor] = []
    handle = layers[0].mlp.register_forward_hook(lambda m, a, o: seen.append(o))  # noqa: ARG005
    plain = forward(model, batch)
    handle.remove()
    v = patch_vectors(seen[0].shape[1])
    originals = [layers[k].mlp.forward for k in (0, 1)]

    def edited(k: int) -> Callable[[Tensor], Tensor]:
        rows = torch.from_numpy(v[k] / np.linalg.norm(v[k], axis=1, keepdims=True))

        def run(hidden: Tensor) -> Tensor:
            m = originals[k](hidden)
            n = m / m.norm(dim=-1, keepdim=True) - 0.3 * rows
            return torch.as_tensor(m.norm(dim=-1, keepdim=True) * n / n.norm(dim=-1, keepdim=True))

        return run

    for k in (0, 1):
        layers[k].mlp.forward = edited(k)
    expected = forward(model, batch)
    for k in (0, 1):
        del layers[k].mlp.forward
    args = expand_preset({"preset": "vti:vision", "vector": "v", "layers": "0-1", "alpha": -0.3})
    with steer(model, SteeringSpec.from_args(args), {"v": v}):
        assert (forward(model, batch) - expected).abs().max() < 1e-5 < (plain - expected).abs().max()


@pytest.mark.parametrize("vlm", ["qwen2_5_vl"], indirect=True)
def test_a_tower_that_packs_its_images_is_refused(vlm: Any) -> None:
    name, model, processor = vlm
    batch, v = batch_of(name, processor, *TEXTS), patch_vectors(16)
    refused = pytest.raises(SteeringError, match="this tower does not show where an image ends")
    with refused, steer(model, v, layer=0, alpha=1, site="vision"):
        forward(model, batch)


FACTS = ModelFacts("m", 4, 32, vision=(2, 32))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "vector=v,layer=0,alpha=1,tokens=both",
            "vector=v,site=residual: it has a direction for each patch: add site=",
        ),
        (
            "vector=v,layer=0,alpha=1,site=vision,operation=ablate",
            "expected add, norm_preserving or norm_preserving_weighted",
        ),
        (
            "vector=w,layer=0,alpha=1,tokens=both,gate=cosine,gate_vector=v",
            "gate_vector=v: .* a gate needs one direction",
        ),
    ],
)
def test_what_rows_of_patches_cannot_do_is_one_line(line: str, expected: str) -> None:
    v = patch_vectors(16)
    plain = SteeringVectors({0: v[0][0]}, {"model": "m"})
    with pytest.raises(UserError, match=expected):
        resolve(SteeringSpec.parse(line), FACTS, {"v": v, "w": plain})


def test_other_formats_have_no_rows_of_patches(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it has a direction for each patch, and gguf one for each layer"):
        list(export_vector(patch_vectors(16), "gguf", tmp_path / "v.gguf", None, None))


def test_the_rows_are_part_of_the_hash_and_survive_the_file(tmp_path: Path) -> None:
    v = patch_vectors(16)
    swapped = SteeringVectors({k: np.roll(v[k], 1, axis=0) for k in v}, v.provenance)
    assert SteeringVectors.load(v.save(tmp_path / "v.safetensors")).sha256 == v.sha256 != swapped.sha256
    assert "16 patches" in repr(v) and random_like(v, 0).patches == 16
    with pytest.raises(UserError, match="cannot be compared"):
        cosine_by_layer(v, SteeringVectors({0: v[0][0]}, {"model": "m"}))


@pytest.mark.parametrize(
    ("methods", "keys", "expected"),
    [
        (["mean_shift"], {}, "--at patches: the vision tower sees images only"),
        (["mean_shift"], {"image_contrast": "absent"}, "--at patches: the vision tower sees images only"),
        (["pca"], {"image_contrast": "masked"}, "--method pca: only the mean over the questions is kept"),
        (["mean_shift-shuffled"], {"image_contrast": "masked"}, "only the mean over the questions is kept"),
    ],
)
def test_what_cannot_be_read_at_patches_is_one_line(
    scenes: Path, tmp_path: Path, methods: list[str], keys: dict[str, str], expected: str
) -> None:
    settings = ExtractionSettings(at="patches", **keys)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=expected):
        list(extract_to_store("tiny-paligemma2", ["sight"], methods, tmp_path, settings=settings,
                              questions=scenes / "questions.jsonl"))  # fmt: skip
