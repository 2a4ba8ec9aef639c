"""Train SAEs of smollm2-135m's residual stream, with sae-lens's trainer, on text that the model writes itself.

    python -m training.smol.sae --out FOLDER

The text and the model's activations on it are kept in FOLDER/text, in parts of 49,152 tokens: a stopped command
continues with the first missing part, and then with the first missing SAE. Parts and SAEs of other options are refused.
"""

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, StaticCache

from lmms_steer._util.io import write_atomically
from lmms_steer.smol import backbone
from lmms_steer.smol.backbone import BACKBONE
from lmms_steer.steering.cache_argument import cache_name
from training.options import check_options, in_header, write_options
from training.sae import SaeSize, fit
from training.smol.own_text import PROMPTS

LAYERS = (8, 16, 24)
FEATURES, ACTIVE_FEATURES, BATCH = 2304, 32, 512
DEAD_AFTER = 100
"""Steps without firing after which a feature is given a part in the reconstruction's error."""
MASSIVE = 5
"""Times the median norm of a layer's outputs: those above are left out."""
SEQUENCES, LENGTH = 512, 96
"""Of a part: its sequences, and the tokens of each."""
TOKENS, EPOCHS = 1_500_000, 1
_PICTURE = "Describe a picture: the things in it, how many there are, their colours, and where they stand."
OPENERS = (*PROMPTS, f"<|im_start|>user\n{_PICTURE}<|im_end|>\n<|im_start|>assistant\n")
"""What the model continues, part after part. The last makes it write about what the concepts are about."""
MIXED = 4
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
    options = {"seed": args.seed, "parts": -(-args.tokens // (SEQUENCES * LENGTH)), "epochs": args.epochs}
    folders = {layer: args.out / "sae" / f"layer_{layer}" for layer in LAYERS}
    for folder in folders.values():
        if (folder / "cfg.json").exists():
            check_options(folder, options)
    parts = write_text(args.out / "text", options["parts"], args.seed)
    for layer, folder in folders.items():
        if not (folder / "cfg.json").exists():
            tokens = len(parts) * SEQUENCES * (LENGTH - 2)
            width = read_tensor(parts[0], f"layer_{layer}").shape[-1]
            size = SaeSize(BACKBONE, width, FEATURES, ACTIVE_FEATURES)
            rows = batches(parts, layer, args.seed)
            sae = fit(size, layer, rows, args.seed, tokens * args.epochs, BATCH, DEAD_AFTER)
            write_options(folder, options)
            sae.save_inference_model(folder)


def write_text(folder: Path, count: int, seed: int, sequences: int | None = None) -> list[Path]:
    """The files of the text, of which the missing ones are written.

    Each has `ids` [sequences, LENGTH], and for each layer its outputs in bfloat16 [sequences, LENGTH - 1, width].

    Args:
        folder: of the files.
        count: of files.
        seed: of the sampling.
        sequences: of a file (default: SEQUENCES).

    Raises:
        SystemExit: for a file of another seed or another number of sequences.
    """
    options = {"seed": seed, "sequences": sequences or SEQUENCES}
    source = backbone.checkpoint()
    model: Any = None
    tokenizer: Any = AutoTokenizer.from_pretrained(source)
    files = [folder / f"{number:05d}.safetensors" for number in range(count)]
    for number, file in enumerate(tqdm(files, desc="text", disable=None)):
        if file.exists():
            check_options(file, options)
            continue
        if model is None:
            model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).eval()
        # a seed for each part, so that a stopped command writes the same text as another
        torch.manual_seed(int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:6], "big"))
        prompt = tokenizer(OPENERS[number % len(OPENERS)], add_special_tokens=False, return_tensors="pt")["input_ids"]
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, save(_write_part(model, prompt.expand(options["sequences"], -1)), in_header(options)))
    return files


@torch.inference_mode()
def _write_part(model: Any, ids: Tensor) -> dict[str, Tensor]:
    """Sequences sampled at temperature 1 after prompts [sequences, n]; they may go on after the end of a turn."""
    outputs: dict[int, list[Tensor]] = {layer: [] for layer in LAYERS}
    handles = [
        model.model.layers[layer].register_forward_hook(
            lambda _module, _args, output, kept=kept: kept.append(output.to(torch.bfloat16))
        )
        for layer, kept in outputs.items()
    ]
    # a cache that grows would be copied at every token
    past, fed = StaticCache(config=model.config, max_cache_len=LENGTH), ids
    while ids.shape[1] < LENGTH:
        logits = model(input_ids=fed, **{cache_name(model): past}, use_cache=True, logits_to_keep=1).logits[:, -1]
        fed = sample(logits.float())
        ids = torch.cat([ids, fed], 1)
    for handle in handles:
        handle.remove()
    return {"ids": ids.clone(), **{f"layer_{layer}": torch.cat(kept, 1) for layer, kept in outputs.items()}}


def sample(logits: Tensor) -> Tensor:
    """Sample one token [rows, 1] of each row [rows, tokens] at temperature 1, faster than `torch.multinomial`."""
    bounds = logits.softmax(-1).cumsum(-1)
    chosen = torch.searchsorted(bounds, torch.rand(len(bounds), 1) * bounds[:, -1:], right=True)
    return chosen.clamp_(max=logits.shape[-1] - 1)


def batches(parts: list[Path], layer: int, seed: int) -> Iterator[Tensor]:
    """Endless batches [BATCH, width] of a layer's ordinary outputs."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(parts), generator=generator).tolist()
        for start in range(0, len(order), MIXED):
            chosen = [read_tensor(parts[number], f"layer_{layer}") for number in order[start : start + MIXED]]
            rows = torch.cat([outputs[is_ordinary(outputs)] for outputs in chosen])
            rows = rows[torch.randperm(len(rows), generator=generator)]
            yield from (batch.float() for batch in rows.split(BATCH)[: len(rows) // BATCH])


def is_ordinary(outputs: Tensor) -> Tensor:
    """Which of a part's outputs [sequences, length, width] the SAEs are for, as bools [sequences, length].

    The first token of a sequence and a few others have a hundred times the norm of the rest, whatever they mean
    (arXiv 2402.17762). They would be nearly all of the variance.
    """
    norms = outputs.float().norm(dim=-1)
    chosen: Tensor = norms <= MASSIVE * norms.median()
    chosen[:, 0] = False
    return chosen


def read_tensor(part: Path, name: str) -> Tensor:
    """A part's `ids`, or a layer's outputs, without the others."""
    with safe_open(part, "pt") as file:
        tensor: Tensor = file.get_tensor(name)
    return tensor


if __name__ == "__main__":
    main()
