"""A sample of the support matrix, and the architectures whose layers or residuals are unlike the others'."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from lmms_steer import UserError, steer
from lmms_steer.extraction.extract import Backbone
from lmms_steer.harness.steered import SteeredVlm
from lmms_steer.inspection.prompt import _added_after
from lmms_steer.models.prompt_formats import _with_answers
from lmms_steer.steering.anatomy import decoder_layers, final_norm
from lmms_steer.steering.placeholders import placeholders
from lmms_steer.steering.recording import record_layers, residual_norms
from lmms_steer.steering.support import REFUSED, check_config
from tests.helpers.architectures import ARCHITECTURES, IMAGE, LAYERS, model, small_config
from tests.helpers.checkpoints import build
from tests.helpers.models import batch_of, vectors
from tests.support_matrix import IDS, V, row, spec


def wrong(cells: dict[str, str]) -> dict[str, str]:
    return {name: cell for name, cell in cells.items() if cell.startswith("WRONG") or name == "all"}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["nemotron_h_omni", "gemma4", "qwen3_5", "mllama", "idefics", "qwen2_vl"])
def test_an_architecture_is_steered_as_a_reference_steers_it(architecture: str) -> None:
    cells = row(architecture)
    assert not wrong(cells) and cells["text"] == cells["both"] == cells["last"] == "exact", cells
    if architecture == "mllama":
        assert re.fullmatch(r"hooks: \d of its layers do not run without an image, .*", cells["replay"])
    if architecture == "idefics":
        assert cells["replay"].startswith("hooks: what it adds between its layers depends on them")


def pushed(layers: Any, chosen: Tensor, push: Tensor) -> Any:
    """A hook that adds `push` at the chosen positions of a prompt, bool [batch, positions]."""

    def hook(_: Any, __: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        at = chosen if hidden.shape[1] >= chosen.shape[1] else torch.zeros_like(hidden[..., 0], dtype=torch.bool)
        at = torch.nn.functional.pad(at, (0, hidden.shape[1] - at.shape[1]))
        changed = hidden + at.unsqueeze(-1) * push
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return layers[LAYERS // 2].register_forward_hook(hook)


@pytest.mark.parametrize(
    ("kind", "sizes", "path"),
    [
        ("gpt2", {"n_embd": 48, "n_layer": LAYERS}, "transformer.h"),
        ("gpt_neo", {"hidden_size": 48, "num_layers": 4, "attention_types": [[["global"], 4]]}, "transformer.h"),
        ("gptj", {"n_embd": 48, "n_layer": LAYERS, "rotary_dim": 4}, "transformer.h"),
        ("gpt_bigcode", {"n_embd": 48, "n_layer": LAYERS}, "transformer.h"),
        ("bloom", {"hidden_size": 48, "n_layer": LAYERS, "n_head": 4}, "transformer.h"),
        ("falcon", {"hidden_size": 48, "num_hidden_layers": LAYERS, "num_attention_heads": 4}, "transformer.h"),
        ("mpt", {"d_model": 48, "n_layers": LAYERS, "n_heads": 4}, "transformer.blocks"),
    ],
)  # fmt: skip
def test_layers_under_other_names_are_found_and_steered_exactly(kind: str, sizes: dict[str, Any], path: str) -> None:
    torch.manual_seed(0)
    heads = {"n_head": 4} if "n_embd" in sizes else {"num_heads": 4} if kind == "gpt_neo" else {}
    made: Any = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](vocab_size=60, **sizes, **heads)).eval()
    layers, v = made.get_submodule(path), vectors(LAYERS, 48)
    assert decoder_layers(made) is layers and final_norm(made) is not None
    ids = torch.tensor([[0, 0, 7, 8, 9], [5, 6, 7, 8, 9]])
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    settings = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}

    def run() -> list[Tensor]:
        written = made.generate(**batch, **settings, return_dict_in_generate=True, output_logits=True)
        return [made(**batch).logits[ids != 0], *written.logits]

    with torch.no_grad():
        plain = run()
        hook = pushed(layers, ids != 0, 2 * torch.from_numpy(v[LAYERS // 2]))
        expected = run()
        hook.remove()
        with steer(made, f"vector=v,layer={LAYERS // 2},alpha=2,tokens=both", {"v": v}):
            steered = run()
    assert (expected[0] - plain[0]).abs().max() > 0.01
    for one, other in zip(steered, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.slow
def test_layers_that_share_keys_and_run_on_the_last_positions_only_are_steered_exactly() -> None:
    """Gemma 4 drops positions there that no later layer reads, if only the last logits are wanted."""
    shared: dict[str, Any] = {"num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 2}
    made = model("gemma4", **shared)
    inputs = {"input_ids": IDS, "attention_mask": (IDS != 0).long()}
    with torch.no_grad(), steer(made, spec("both"), {"v": V}):
        whole = made(**inputs, use_cache=False).logits[:, -1]
        with record_layers(made) as outputs:
            last = made(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1]
    assert outputs[LAYERS - 1].shape[1] == 1
    assert (whole - last).abs().max() < 1e-5
    assert not wrong(row("gemma4", **shared))
    assert set(residual_norms(made, [inputs])) == set(range(LAYERS))


@pytest.mark.parametrize("kind", [kind for kind in REFUSED if kind in ARCHITECTURES])
def test_a_model_that_cannot_be_steered_is_refused_by_its_config(kind: str) -> None:
    with pytest.raises(UserError) as refused:
        check_config(CONFIG_MAPPING[kind](), "it")
    assert str(refused.value) == f"cannot steer it ({kind}): {REFUSED[kind]}"


@pytest.mark.slow
def test_refusing_a_model_needs_neither_its_weights_nor_its_processor(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3n"}))
    with pytest.raises(UserError, match=r"^cannot steer .* \(gemma3n\): its residual is several streams"):
        SteeredVlm(pretrained=str(tmp_path))
    with pytest.raises(UserError, match=r"^cannot steer .* \(gemma3n\): its residual is several streams"):
        Backbone(str(tmp_path))


def test_sentences_are_not_read_in_a_model_whose_layers_need_an_image(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "idefics"}))
    with pytest.raises(UserError, match=r"^cannot read sentences in .*: its layers run with an image only"):
        Backbone(str(tmp_path))


def test_images_are_found_by_the_ids_that_a_config_names() -> None:
    from transformers import Phi4MultimodalConfig

    assert placeholders(small_config("llava")).image == (IMAGE,)
    assert placeholders(Phi4MultimodalConfig()).image == (200010,)
    assert placeholders(CONFIG_MAPPING["chameleon"](vocabulary_map={"<image>": 5})).image == (5,)
    # the image token of Mllama is a text position: its images enter by cross-attention
    assert placeholders(small_config("mllama")).image == ()


@pytest.mark.parametrize("name", ["cross_attention_mask", "image_attention_mask"], ids=["mllama", "idefics"])
def test_a_scored_answer_sees_the_images_of_its_prompt(name: str) -> None:
    seen = torch.zeros(2, 4, 1, 2, dtype=torch.long)
    seen[0, 2:, 0, 0] = 1
    seen[1, 1:, 0, 1] = 1
    batch: dict[str, Any] = {
        "input_ids": torch.tensor([[0, 5, 6, 7], [5, 6, 7, 8]]),
        "attention_mask": torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]]),
        name: seen.clone(),
    }
    made = _with_answers(batch, [[9, 9], [9]], 0)[name]
    assert made.shape == (2, 5, 1, 2)
    assert made[0, :, 0, 0].tolist() == [0, 1, 1, 1, 1] and made[0, :, 0, 1].sum() == 0
    assert made[1, :, 0, 1].tolist() == [0, 1, 1, 1, 1] and made[1, :, 0, 0].sum() == 0


@pytest.mark.parametrize(("architecture", "adding"), [("qwen3_vl", [0, 1]), ("llava", [])])
def test_inspect_knows_after_which_layers_a_model_adds_picture_features(architecture: str, adding: list[int]) -> None:
    made, processor = build(architecture)
    inputs = batch_of(architecture, processor, "where is the cat ?")
    media = placeholders(made.config)
    with torch.inference_mode(), record_layers(made) as outputs:
        images = (inputs["pixel_values"], inputs["image_grid_thw"]) if adding else ()
        added: Any = made.model.get_image_features(*images).deepstack_features if adding else []
        made(**inputs, use_cache=False)
    assert len(outputs) == LAYERS
    for layer in range(LAYERS):
        expected = float(torch.cat(added[layer]).norm(dim=-1).mean()) if layer in adding else 0.0
        assert _added_after(made, inputs, layer, media) == pytest.approx(expected, rel=1e-3)


def test_text_is_not_told_from_images_by_a_config_that_names_no_image_token() -> None:
    made = model("minicpmv4_6")
    made.config.image_token_id = None
    for tokens in ("image", "text"):
        with pytest.raises(UserError, match="choose tokens=both"), steer(made, spec(tokens), {"v": V}):
            pass
    with steer(made, spec("both"), {"v": V}):
        pass
