"""Train SAEs of smollm2-135m's residual stream, with sae-lens's trainer, on text that the model writes itself.

    python -m training.smol.sae --out FOLDER

The text and the model's activations on it are kept in FOLDER/text, in parts of 16,384 tokens: a stopped command
continues with the first missing part, and then with the first missing SAE.
"""

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from lmms_steer._util.io import write_atomically
from lmms_steer.smol import backbone
from lmms_steer.smol.backbone import BACKBONE
from training.sae import BATCH, SaeSize, fit
from training.smol.own_text import PROMPTS

LAYERS = (8, 16, 24)
FEATURES, ACTIVE_FEATURES = 4608, 32
SEQUENCES, LENGTH = 64, 256
"""Of a part: its sequences, and the tokens of each."""
TOKENS, EPOCHS = 1_000_000, 4
MIXED = 6
"""Parts from which the trainer's batches are drawn at a time."""


def main() -> None:
    """Parse the command line, write the text, and train an SAE per layer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the text and the SAEs")
    parser.add_argument("--tokens", type=int, default=TOKENS, help=f"of text (default: {TOKENS:,})")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"over the text (default: {EPOCHS})")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    parts = write_text(args.out / "text", -(-args.tokens // (SEQUENCES * LENGTH)), args.seed)
    for layer in LAYERS:
        folder = args.out / "sae" / f"layer_{layer}"
        if not (folder / "cfg.json").exists():
            tokens = len(parts) * SEQUENCES * (LENGTH - 2)
            width = load_file(parts[0])[f"layer_{layer}"].shape[-1]
            size = SaeSize(BACKBONE, width, FEATURES, ACTIVE_FEATURES)
            fit(size, layer, batches(parts, layer, args.seed), args.seed, tokens * args.epochs).save_inference_model(
                folder
            )


def write_text(folder: Path, count: int, seed: int) -> list[Path]:
    """The files of the text, of which the missing ones are written.

    Each has `ids` [SEQUENCES, LENGTH], and for each layer its outputs in bfloat16 [SEQUENCES, LENGTH - 1, width].
    """
    source = backbone.checkpoint()
    model: Any = None
    tokenizer: Any = AutoTokenizer.from_pretrained(source)
    files = [folder / f"{number:05d}.safetensors" for number in range(count)]
    for number, file in enumerate(tqdm(files, desc="text", disable=None)):
        if file.exists():
            continue
        if model is None:
            model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
        # a seed for each part, so that a stopped command writes the same text as another
        torch.manual_seed(int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:6], "big"))
        prompt = tokenizer(PROMPTS[number % len(PROMPTS)], add_special_tokens=False, return_tensors="pt")["input_ids"]
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, save(_write_part(model, prompt)))
    return files


@torch.inference_mode()
def _write_part(model: Any, prompt: Tensor) -> dict[str, Tensor]:
    """Sequences sampled at temperature 1 after a prompt [1, n]; they may go on after the end of a turn."""
    outputs: dict[int, list[Tensor]] = {layer: [] for layer in LAYERS}
    handles = [
        model.model.layers[layer].register_forward_hook(
            lambda _module, _args, output, kept=kept: kept.append(output.to(torch.bfloat16))
        )
        for layer, kept in outputs.items()
    ]
    ids = prompt.expand(SEQUENCES, -1)
    past, fed = None, ids
    while ids.shape[1] < LENGTH:
        output = model(input_ids=fed, past_key_values=past, use_cache=True, logits_to_keep=1)
        past = output.past_key_values
        fed = torch.multinomial(output.logits[:, -1].float().softmax(-1), 1)
        ids = torch.cat([ids, fed], 1)
    for handle in handles:
        handle.remove()
    return {"ids": ids.clone(), **{f"layer_{layer}": torch.cat(kept, 1) for layer, kept in outputs.items()}}


def batches(parts: list[Path], layer: int, seed: int) -> Iterator[Tensor]:
    """Endless batches [BATCH, width] of a layer's output, at all tokens but the first of each sequence.

    The first has a norm many times that of the others, whatever it is (arXiv 2402.17762).
    """
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(parts), generator=generator).tolist()
        for start in range(0, len(order), MIXED):
            chosen = [load_file(parts[number])[f"layer_{layer}"][:, 1:] for number in order[start : start + MIXED]]
            rows = torch.cat([part.flatten(0, 1) for part in chosen]).float()
            rows = rows[torch.randperm(len(rows), generator=generator)]
            yield from rows.split(BATCH)[: len(rows) // BATCH]


if __name__ == "__main__":
    main()
