"""The table of multimodal models, text backbones and SAEs."""

import pytest

from lmms_steer.vectors.backbones import backbone_of, sae_of, table


@pytest.mark.slow
def test_the_table_names_a_backbone_and_saes_that_sae_lens_has() -> None:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    expected = {
        "google/paligemma2-3b-mix-448": "gemma-2-2b",
        "google/paligemma-3b-mix-224": "gemma-2b",
        "HuggingFaceM4/Idefics3-8B-Llama3": "Llama-3.1-8B-Instruct",
        "/models/Qwen3-VL-4B-Instruct": "Qwen3-4B",
        "llava-hf/llava-1.5-7b-hf": "vicuna-7b-v1.5",
    }
    assert {model: backbone_of(model) for model in expected} == expected
    assert backbone_of("google/gemma-2-2b") == "gemma-2-2b", "a backbone is its own"
    assert backbone_of("somebody/a-model") is None and sae_of("Qwen3-4B") is None
    releases = get_pretrained_saes_directory()
    assert sae_of("Qwen/Qwen3.5-2B") == "qwen-scope-3.5-2b-base-w32k-l50:layer{layer}"
    for backbone in {*table().values(), "meta-llama/Llama-3.1-8B", "Qwen/Qwen2.5-7B-Instruct"} - {"tiny-gemma2"}:
        sae = sae_of(backbone)
        if sae is not None:
            release, _, template = sae.partition(":")
            assert any(template.format(layer=layer) in releases[release].saes_map for layer in range(60)), sae
