"""Replays in bfloat16 where rounding depends on the number of rows: are they accepted, and what do they save?

python benchmarks/rounding.py [--device cuda] [--layers 4]

Three models write short texts: tiny-paligemma2 as it ships, and two with random weights at half the width of PaliGemma
2 3B and of Llama 3.1 8B. A GPU chooses the kernel of a matrix product by the number of its rows, so a cell in a stack
rounds differently from one alone. CPU kernels do not, so on a CPU products are summed in 1 to 4 parts, by the number of
rows. Prints the share of batches that were replayed, and the time of the same batches with hooks relative to theirs.
Imports torch, transformers and lmms_steer only.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from lmms_eval.filters import build_filter_ensemble
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
)

from lmms_steer.models.prompt_formats import paligemma_prefix
from lmms_steer.search.measure import Measurer
from lmms_steer.search.plan import Cell
from lmms_steer.search.questions import Question
from lmms_steer.tiny_world.question_sets import load_question_set
from lmms_steer.vectors.backbones import checkpoint
from lmms_steer.vectors.steering_vectors import SteeringVectors

VOCABULARY, IMAGE_ID, PATCHES, BATCHES, BATCH = 8192, 7, 16, 2, 2
TARGETS, ALPHAS, NEW_TOKENS = ("image", "text", "both"), (0.25, 0.5, 0.75, 1.0), 4
PALIGEMMA = {
    "model_type": "gemma2", "hidden_size": 1152, "intermediate_size": 4608, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 256,
}  # fmt: skip
LLAMA = {
    "model_type": "llama", "hidden_size": 2048, "intermediate_size": 7168, "num_attention_heads": 16,
    "num_key_value_heads": 4, "head_dim": 128, "rope_theta": 5e5,
}  # fmt: skip
VISION = {
    "model_type": "siglip_vision_model", "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 4, "image_size": 56, "patch_size": 14, "vision_use_head": False,
}  # fmt: skip


class Wide:
    """A model with random weights, with the methods of a wrapper that a search uses."""

    def __init__(self, shape: dict[str, Any], layers: int, device: str) -> None:
        torch.manual_seed(0)
        text = {**shape, "num_hidden_layers": layers, "vocab_size": VOCABULARY}
        vision = {**VISION, "projection_dim": shape["hidden_size"]}
        self.causal = shape is LLAMA
        if self.causal:
            more = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
            config = LlavaConfig(text_config=text, vision_config=vision, image_token_index=IMAGE_ID, **more)
            made: Any = LlavaForConditionalGeneration(config)
        else:
            more = {"projection_dim": shape["hidden_size"], "vocab_size": VOCABULARY}
            config = PaliGemmaConfig(text_config=text, vision_config=vision, image_token_index=IMAGE_ID, **more)
            made = PaliGemmaForConditionalGeneration(config)
        made.generation_config.pad_token_id, made.generation_config.eos_token_id = 0, 1
        self.model = made.to(device, torch.bfloat16).eval()
        self.tokenizer = SimpleNamespace(all_special_ids=[0, 1, 2], decode=lambda *_, **__: "")

    def model_inputs(self, texts: Sequence[str], visuals: Sequence[Any]) -> dict[str, Any]:  # noqa: ARG002
        drawn = torch.Generator().manual_seed(int(texts[0]))
        words = torch.randint(10, VOCABULARY, (len(texts), 12), generator=drawn)
        ids = torch.cat((torch.full((len(texts), 4), 5), torch.full((len(texts), PATCHES), IMAGE_ID), words), 1)
        attention = torch.ones_like(ids)
        # the first prompt is shorter
        ids[0], attention[0, :3] = torch.cat((torch.zeros(3, dtype=torch.int64), ids[0, :-3])), 0
        pixels = torch.randn((len(texts), 3, 56, 56), generator=drawn).bfloat16()
        inputs = {"input_ids": ids, "attention_mask": attention, "pixel_values": pixels}
        if not self.causal:
            inputs["token_type_ids"] = torch.zeros_like(ids)
        return {name: tensor.to(self.model.device) for name, tensor in inputs.items()}


class Tiny:
    """The tiny model, with the same methods."""

    def __init__(self, device: str) -> None:
        source = checkpoint("tiny-paligemma2")
        self.model: Any = AutoModelForImageTextToText.from_pretrained(source, dtype=torch.bfloat16).to(device).eval()
        self.processor = AutoProcessor.from_pretrained(source)
        self.tokenizer = self.processor.tokenizer
        self.tokenizer.padding_side = "left"
        self.rows = load_question_set("spatial", "select")

    def model_inputs(self, texts: Sequence[str], visuals: Sequence[Any]) -> dict[str, Any]:  # noqa: ARG002
        rows = [self.rows[int(text)] for text in texts]
        inputs = dict(
            paligemma_prefix(self.processor, [r["question"] for r in rows], [[r["image"]] for r in rows], None)
        )
        moved = {name: tensor.to(self.model.device) for name, tensor in inputs.items()}
        return {n: x.bfloat16() if x.is_floating_point() else x for n, x in moved.items()}


@contextmanager
def kernels_by_rows() -> Iterator[None]:
    """Sum matrix products in parts whose number depends on the number of rows, and round each part."""
    true, in_float32 = F.linear, dict[Tensor, Tensor]()

    def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        count = rows.numel() // rows.shape[-1]
        parts = 4 if count < 32 else 3 if count < 128 else 2 if count < 300 else 1
        size = -(-rows.shape[-1] // parts)
        if weight not in in_float32:
            in_float32[weight] = weight.float()
        pairs = zip(rows.float().split(size, -1), in_float32[weight].split(size, -1), strict=True)
        total = torch.stack([(a @ b.T).to(rows.dtype).float() for a, b in pairs]).sum(0)
        return (total if bias is None else total + bias.float()).to(rows.dtype)

    F.linear = linear  # type: ignore[assignment]
    try:
        yield
    finally:
        F.linear = true


def measure(name: str, lm: Any, layers: Sequence[int]) -> None:
    """Print one row: batches replayed, and the time with hooks relative to that of the replays."""
    config = SimpleNamespace(
        output_type="generate_until", generation_kwargs={"max_new_tokens": NEW_TOKENS}, task="t",
        metric_list=[{"metric": "acc"}],
    )  # fmt: skip
    filters = [build_filter_ensemble("none", [["take_first", None]])]
    task = SimpleNamespace(config=config, _filters=filters, process_results=lambda doc, texts: {"acc": 1.0})  # noqa: ARG005
    width = lm.model.get_decoder().config.hidden_size
    drawn = torch.Generator().manual_seed(0)
    vectors = {"v": SteeringVectors({n: torch.randn(width, generator=drawn).numpy() for n in layers}, {})}
    cells = [Cell("v", layer, alpha, tokens) for layer, alpha, tokens in product(layers, ALPHAS, TARGETS)]
    with tempfile.TemporaryDirectory() as folder:
        measurer = Measurer(lm, task, vectors, True, TARGETS, refuted_file=Path(folder) / "hooked.txt")
        replayed, spent, why = 0, [], ""
        for number in range(BATCHES):
            batch = [Question(number * BATCH + i, str(number * BATCH + i), [], (), 0, {}) for i in range(BATCH)]
            measurer(batch, cells, check=True)
            replayed += not measurer.why_not_replayed
            why = why or measurer.why_not_replayed
            spent.append([_seconds(measurer, batch, cells, hooks) for hooks in (False, True)])
        ratio = sum(hooked for _, hooked in spent) / sum(ours for ours, _ in spent)
    print(f"{name:32} {replayed} of {BATCHES} batches replayed, {ratio:.2f} times as fast as hooks  {why}", flush=True)


def _seconds(measurer: Measurer, batch: list[Question], cells: list[Cell], hooks: bool) -> float:
    true = measurer.why_not_replayed
    measurer.why_not_replayed = "for comparison" if hooks else true
    started = time.perf_counter()
    measurer(batch, cells)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    measurer.why_not_replayed = true
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--layers", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    layers = range(0, options.layers - 1, 2)
    with kernels_by_rows() if options.device == "cpu" else nullcontext():
        measure("tiny-paligemma2, trained", Tiny(options.device), (0, 2))
        measure("PaliGemma 2 3B, half width", Wide(PALIGEMMA, options.layers, options.device), layers)
        measure("Llama 3.1 8B, half width", Wide(LLAMA, options.layers, options.device), layers)


if __name__ == "__main__":
    main()
