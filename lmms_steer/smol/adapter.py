"""The adapter of `smol-idefics3`: LoRA on its language model, and its connector, as a PEFT adapter of 10 MB.

It is for one backbone and one vision tower. Their hashes are in the file's metadata, with the facts of the training.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmms_steer._util.hashing import file_sha256
from lmms_steer._util.io import write_atomically
from lmms_steer.errors import UserError, reason
from lmms_steer.smol.wheel import GGUF_SHA256, PACKAGE, VERSION
from lmms_steer.tiny_world.checkpoints import weights_dir

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

WEIGHTS = "adapter_model.safetensors"
RANK = 16
_CARD = """---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
library_name: peft
---
# The adapter of smol-idefics3

LoRA (rank {rank}) on the language model of an Idefics3 made of SmolLM2-135M-Instruct and the vision tower of
`tiny-paligemma2`, and its connector. lmms-steer merges it when `pretrained=smol-idefics3` is first used. It fits the
weights of `{package}` {version} (Q4_1, unpacked), not those on the Hub.

SmolLM2-135M-Instruct is by Hugging Face, under Apache-2.0. The adapter was trained on rendered scenes by
`python -m training.smol` of lmms-steer, and is under Apache-2.0 too. `start` below, if it is there, is the SHA-256 of
an adapter of this kind whose weights the training began with.

```json
{facts}
```
"""


def lora_config() -> "LoraConfig":
    """What the adapter changes: every linear layer of the language model, and the connector."""
    from peft import LoraConfig

    return LoraConfig(
        r=RANK,
        lora_alpha=2 * RANK,
        target_modules=r".*text_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
        modules_to_save=["modality_projection"],
    )


def tower_sha256() -> str:
    """The SHA-256 of the file with the vision tower."""
    return file_sha256(weights_dir("tiny-paligemma2") / "model.safetensors")


def write_adapter(model: "PeftModel", folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the trained weights in bfloat16, the config of PEFT, and a card.

    Args:
        model: made with `lora_config`.
        folder: of the files.
        facts: about the training, for the metadata and the card.
    """
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save

    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in weights.items()}
    made_for = {"gguf_sha256": GGUF_SHA256, "tower_sha256": tower_sha256()}
    metadata = {"format": "pt", **made_for, "training": json.dumps(dict(facts))}
    lora_config().save_pretrained(str(folder))
    card = _CARD.format(rank=RANK, package=PACKAGE, version=VERSION, facts=json.dumps(dict(facts), indent=1))
    write_atomically(folder / "README.md", card.encode())
    write_atomically(folder / WEIGHTS, save(tensors, metadata))


def check_adapter(folder: Path) -> str:
    """Check that an adapter is for this backbone and this vision tower.

    Returns:
        Its SHA-256.

    Raises:
        UserError: if it is damaged, missing, or for other weights.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / WEIGHTS
    try:
        # "pt" would import torch
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read the adapter {str(path)!r}: {reason(error)}") from error
    wanted = {"gguf_sha256": ("backbone", GGUF_SHA256), "tower_sha256": ("vision tower", tower_sha256())}
    for key, (part, sha256) in wanted.items():
        if metadata.get(key) != sha256:
            found = str(metadata.get(key))[:12]
            raise UserError(f"the adapter {str(path)!r} is for another {part}: {found}, not {sha256[:12]}")
    return file_sha256(path)


def merge_adapter(model: Any, folder: Path) -> Any:
    """The model with an adapter merged into its weights.

    Args:
        model: from `lmms_steer.smol.architecture.assemble`; it is changed.
        folder: of the adapter, which has been checked.

    Raises:
        UserError: for an adapter with other tensors than `lora_config` makes.
    """
    from peft import get_peft_model

    adapted = get_peft_model(model, lora_config())
    load_adapter(adapted, folder)
    return adapted.merge_and_unload()


def load_adapter(adapted: "PeftModel", folder: Path) -> None:
    """Give a model the weights of an adapter.

    Args:
        adapted: made with `lora_config`; it is changed.
        folder: of the adapter, which has been checked.

    Raises:
        UserError: as `merge_adapter`.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    weights = load_file(folder / WEIGHTS)
    expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if shapes != {name: tuple(tensor.shape) for name, tensor in expected.items()}:
        raise UserError(f"the adapter {str(folder / WEIGHTS)!r} has other tensors than smol-idefics3 needs")
    set_peft_model_state_dict(adapted, {name: tensor.float() for name, tensor in weights.items()})
